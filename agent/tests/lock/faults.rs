//! What fails or dies in the middle of a lock or an unlock, and what the receipt says then.
//! docs/RELIABILITY.md has the table.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent::execute::course::Course;
use agent::execute::{Executor, Recovery, lock};
use agent::host::Host;
use protocol::action::LockLevel;
use protocol::receipt::FailureKind;
use serde_json::json;

use crate::sandbox::{Sandbox, host, in_namespaces, task};
use crate::{assert_locked, locking, unlock, unlocking};

#[test]
fn a_lock_that_cannot_close_its_doors_says_which_and_undoes_exactly() {
    in_namespaces(
        "faults::a_lock_that_cannot_close_its_doors_says_which_and_undoes_exactly",
        || {
            let mut sandbox = Sandbox::new();
            let before = sandbox.tree();
            let lock = locking(LockLevel::Session);
            let fails = |sandbox: &Sandbox| lock.apply(&sandbox.host, &task()).unwrap_err();

            // The file system of the endpoint went read-only, as after an error of its disk.
            let etc = sandbox.host.path("/etc");
            mount(&["--bind", etc.to_str().unwrap(), etc.to_str().unwrap()]);
            mount(&["-o", "remount,bind,ro", etc.to_str().unwrap()]);
            let failed = fails(&sandbox);
            assert_eq!(
                (failed.kind, failed.stage.as_str()),
                (FailureKind::Io, "doors"),
                "{failed:?}"
            );
            assert!(failed.detail.contains("/etc/"), "{failed:?}");
            let seen = lock.prove(&sandbox.host, &task()).unwrap_err();
            assert_eq!(seen.kind, FailureKind::NotProven);
            let umounted = Command::new("umount").arg(&etc).status().unwrap();
            assert!(umounted.success());
            unlock(&sandbox);
            assert_eq!(sandbox.tree(), before);

            // A bus that nobody serves is a gap in the proof, and keeps no door open.
            sandbox.host.dbus_address = Some("unix:path=/nowhere".to_owned());
            lock.apply(&sandbox.host, &task()).unwrap();
            let evidence = lock.prove(&sandbox.host, &task()).unwrap();
            assert_eq!(evidence.get("logind"), Some(&json!("unreachable")));
            assert_ne!(evidence.get("gaps"), Some(&json!([])));
            assert_locked(&sandbox);
            unlock(&sandbox);
            assert_eq!(sandbox.tree(), before);

            // Without the known layout of PAM nothing is begun.
            fs::remove_file(sandbox.host.path("/etc/pam.d/common-account")).unwrap();
            let before = sandbox.tree();
            assert_eq!(fails(&sandbox).kind, FailureKind::Precondition);
            assert_eq!(sandbox.tree(), before);
        },
    );
}

#[test]
fn a_held_account_database_is_waited_for_and_then_said() {
    in_namespaces("faults::a_held_account_database_is_waited_for_and_then_said", || {
        let sandbox = Sandbox::new();
        let before = sandbox.tree();
        let path = sandbox.host.path("/etc/.pwd.lock");
        let mut holder = Command::new("python3")
            .args(["-c", HOLD])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("this test needs python3");
        let mut ready = [0; 1];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready).unwrap();
        // As long as the step has, and no longer.
        let course = Course::default();
        course.allow(Some(Duration::from_secs(2)));
        let hurried = Host { course, ..sandbox.host.clone() };
        let failed = locking(LockLevel::Session).apply(&hurried, &task()).unwrap_err();
        assert_eq!((failed.kind, failed.stage.as_str()), (FailureKind::Timeout, "shadow"));
        // The other doors are closed all the same.
        assert!(!sandbox.permits("sshd", "alice"));
        drop(holder.stdin.take());
        holder.wait().unwrap();
        unlock(&sandbox);
        assert_eq!(sandbox.tree(), before);
    });
}

/// Holds the lock of the account database until its input ends.
pub(crate) const HOLD: &str = "import fcntl, sys
lock = open(sys.argv[1], 'w')
fcntl.lockf(lock, fcntl.LOCK_EX)
print('x', end='', flush=True)
sys.stdin.read()
";

pub(crate) fn mount(args: &[&str]) {
    assert!(Command::new("mount").args(args).status().unwrap().success(), "{args:?}");
}

/// Tells the process that a crash test starts which action to take, and where.
const CRASHING: &str = "TOCSIN_LOCK_TEST_CRASHING";
const CHILD: &str = "faults::the_agent_of_a_crash_test_acts";

#[test]
fn the_agent_of_a_crash_test_acts() {
    let Some(what) = std::env::var(CRASHING).ok() else { return };
    let (action, base) = what.split_once(' ').unwrap();
    let host = host(Path::new(base));
    match action {
        "lock" => locking(LockLevel::Session).apply(&host, &task()).unwrap(),
        _ => unlocking().apply(&host, &task()).unwrap(),
    }
}

/// Runs an action in a process to which something happens at its nth call of a kind; whether it
/// got through.
fn survives(sandbox: &Sandbox, action: &str, fault: &Fault, nth: usize) -> bool {
    let Fault { call, what } = fault;
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:{what}:when={nth}")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--test-threads=1"])
        .env(CRASHING, format!("{action} {}", sandbox.base().display()))
        .output()
        .unwrap();
    // Killed, or panicked in the child's test because the action had failed.
    let as_meant = output.status.signal() == Some(9) || output.status.code() == Some(101);
    assert!(as_meant || output.status.success(), "{action}, {fault:?} {nth}: {output:?}");
    output.status.success()
}

/// What happens at a call of a kind, as strace(1) spells both.
#[derive(Debug)]
struct Fault {
    call: &'static str,
    what: &'static str,
}

/// Synced, renamed, removed are the moments that a crash tells apart.
const KILLED: [Fault; 3] = [
    Fault { call: "fsync", what: "signal=SIGKILL" },
    Fault { call: "/^rename", what: "signal=SIGKILL" },
    Fault { call: "/^unlink", what: "signal=SIGKILL" },
];

/// The disk gives up.
const BROKEN: [Fault; 2] =
    [Fault { call: "fsync", what: "error=EIO" }, Fault { call: "/^rename", what: "error=ENOSPC" }];

/// Lets each fault happen at every call of its kind, one by one.
fn at_every_step(sandbox: &Sandbox, action: &str, faults: &[Fault], mut check: impl FnMut(&str)) {
    for fault in faults {
        let mut nth = 1;
        while !survives(sandbox, action, fault, nth) {
            check(&format!("{action}, {fault:?} {nth}"));
            nth += 1;
        }
        assert!(nth > 3, "{action} met {fault:?} only {nth} times");
        check(&format!("{action} without {fault:?}"));
    }
}

#[test]
fn a_lock_killed_at_any_step_ends_locked_and_unlocks_exactly() {
    in_namespaces("faults::a_lock_killed_at_any_step_ends_locked_and_unlocks_exactly", || {
        let sandbox = Sandbox::new();
        sandbox.write("/var/lib/systemd/linger/alice", "", 0o644);
        let before = sandbox.tree();
        let mut steps = 0;
        at_every_step(&sandbox, "lock", &KILLED, |step| {
            // Every other time the unlock comes without the lock having been finished.
            steps += 1;
            if steps % 2 == 0 {
                let recovery = locking(LockLevel::Session).recover(&sandbox.host, &task());
                assert!(matches!(recovery, Recovery::Apply));
                locking(LockLevel::Session).apply(&sandbox.host, &task()).unwrap();
                assert!(!sandbox.permits("sshd", "alice"), "{step}");
                assert!(sandbox.permits("sshd", "rescue"), "{step}");
            }
            unlock(&sandbox);
            assert_eq!(sandbox.tree(), before, "{step}");
        });
    });
}

#[test]
fn an_unlock_killed_at_any_step_ends_unlocked_exactly() {
    in_namespaces("faults::an_unlock_killed_at_any_step_ends_unlocked_exactly", || {
        let sandbox = Sandbox::new();
        sandbox.write("/var/lib/systemd/linger/alice", "", 0o644);
        let before = sandbox.tree();
        let relock = || locking(LockLevel::Session).apply(&sandbox.host, &task()).unwrap();
        relock();
        at_every_step(&sandbox, "unlock", &KILLED, |step| {
            // A boot in between must not lock again.
            lock::reassert(&sandbox.host).unwrap();
            unlock(&sandbox);
            assert_eq!(sandbox.tree(), before, "{step}");
            relock();
        });
    });
}

#[test]
fn a_failing_disk_is_reported_and_undone_exactly() {
    in_namespaces("faults::a_failing_disk_is_reported_and_undone_exactly", || {
        let sandbox = Sandbox::new();
        sandbox.write("/var/lib/systemd/linger/alice", "", 0o644);
        let before = sandbox.tree();
        at_every_step(&sandbox, "lock", &BROKEN, |step| {
            unlock(&sandbox);
            assert_eq!(sandbox.tree(), before, "{step}");
        });
    });
}
