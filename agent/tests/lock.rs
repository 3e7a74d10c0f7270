//! Lock and unlock against the real libpam, real processes and a real bus, in a private root.
//!
//! Needs root, mount and process namespaces, and the Debian packages `pamtester`,
//! `libnss-extrausers`, `dbus-daemon`, `strace`, `util-linux`, `python3`, `openssh-server`,
//! `openssh-client`, `cryptsetup-bin`. Whatever is missing fails the test by name; nothing is skipped.

#![expect(clippy::unwrap_used, reason = "a test whose scene cannot be set should stop there")]

#[path = "support/bus.rs"]
mod bus;
#[path = "lock/failures.rs"]
mod failures;
#[path = "lock/faults.rs"]
mod faults;
#[path = "lock/login1.rs"]
mod login1;
#[path = "support/luks.rs"]
#[expect(dead_code, reason = "shared with the tests of wipes, which use the rest")]
mod luks;
#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "lock/offline.rs"]
mod offline;
#[path = "lock/sandbox.rs"]
mod sandbox;
#[path = "lock/sshd.rs"]
mod sshd;
#[path = "support/tree.rs"]
mod tree;
#[path = "lock/wiping.rs"]
mod wiping;

use std::fs;
use std::path::PathBuf;

use agent::execute::Executor;
use agent::execute::lock::{self, LockExecutor, UnlockExecutor};
use protocol::action::{Lock, LockLevel, Unlock};
use protocol::receipt::{Evidence, FailureKind};
use serde_json::{Value, json};

use crate::login1::{Login1, Manner};
use crate::sandbox::{Sandbox, in_namespaces, task};
use crate::sshd::Sshd;

const SERVICES: [&str; 4] = ["login", "sshd", "su", "kiosk"];
const LOCKED_OUT: [&str; 5] = ["root", "alice", "resc", "frank", "nobody-knows-me"];

fn locking(level: LockLevel) -> LockExecutor {
    LockExecutor::new(Lock { level, message: Some("call 100% \\o/ 555".to_owned()) })
}

fn unlocking() -> UnlockExecutor {
    UnlockExecutor::new(Unlock {})
}

fn lock(sandbox: &Sandbox) -> Evidence {
    let lock = locking(LockLevel::Session);
    lock.apply(&sandbox.host, &task()).unwrap();
    lock.prove(&sandbox.host, &task()).unwrap()
}

fn unlock(sandbox: &Sandbox) {
    unlocking().apply(&sandbox.host, &task()).unwrap();
    unlocking().prove(&sandbox.host, &task()).unwrap();
}

fn su(sandbox: &Sandbox, user: &str) -> bool {
    sandbox.chroot(&["su", "-s", "/bin/true", user]).status.success()
}

#[test]
fn a_locked_device_opens_for_break_glass_only_and_unlock_leaves_no_trace() {
    in_namespaces("a_locked_device_opens_for_break_glass_only_and_unlock_leaves_no_trace", || {
        let sandbox = Sandbox::new();
        for service in SERVICES {
            for user in ["root", "alice", "resc", "frank", "carol", "rescue"] {
                assert!(sandbox.permits(service, user), "{user} at {service} before");
            }
        }
        assert!(!sandbox.permits("login", "bob"), "bob had been locked before");
        assert!(su(&sandbox, "alice"));
        let before = sandbox.tree();

        let plan = locking(LockLevel::Session).plan(&sandbox.host, &task()).unwrap();
        assert_eq!(sandbox.tree(), before, "a plan changes nothing");
        let evidence = lock(&sandbox);
        assert_eq!(evidence.get("gate_files"), plan.facts.get("gate_files"));
        assert_eq!(evidence.get("break_glass"), Some(&json!(["rescue"])));
        assert_eq!(evidence.get("logind"), Some(&json!("absent")));
        assert_eq!(evidence.get("nologin"), Some(&json!(false)));
        assert_eq!(evidence.get("gaps"), Some(&json!([])));
        let probe = evidence.get("pam_probe").and_then(|probe| probe.get("sshd"));
        let row = json!({"root": "denied", "alice": "denied",
                "frank": "denied", "rescue": "permitted"});
        assert_eq!(probe, Some(&row));
        assert_locked(&sandbox);
        assert!(!su(&sandbox, "alice"), "su asks as well");

        let locked = sandbox.tree();
        let again = lock(&sandbox);
        assert_eq!(again.get("gate_files"), evidence.get("gate_files"));
        assert_eq!(sandbox.tree(), locked, "locking twice is locking once");

        unlock(&sandbox);
        assert_eq!(sandbox.tree(), before);
        assert!(!sandbox.permits("login", "bob"), "bob stays locked");
        assert!(sandbox.permits("sshd", "alice"));
        unlock(&sandbox);
        assert_eq!(sandbox.tree(), before, "unlocking twice is unlocking once");
    });
}

#[test]
fn proof_that_could_not_ask_pam_says_so() {
    in_namespaces("proof_that_could_not_ask_pam_says_so", || {
        let sandbox = Sandbox::new();
        let program = sandbox.host.path("/usr/bin/pamtester");
        let args = ["--bind".as_ref(), "/dev/null".as_ref(), program.as_os_str()];
        assert!(std::process::Command::new("mount").args(args).status().unwrap().success());
        let evidence = lock(&sandbox);
        assert_eq!(evidence.get("pam_probe"), Some(&json!("unavailable")));
        let gaps = evidence.get("gaps").unwrap();
        assert_eq!(gaps, &json!(["PAM was not asked: /usr/bin/pamtester is not installed"]));
    });
}

fn assert_locked(sandbox: &Sandbox) {
    for service in SERVICES {
        for user in LOCKED_OUT {
            assert!(!sandbox.permits(service, user), "{user} at {service}");
        }
        assert!(sandbox.permits(service, "rescue"), "break-glass at {service}");
    }
}

#[test]
fn a_key_opens_nothing_on_a_locked_device() {
    in_namespaces("a_key_opens_nothing_on_a_locked_device", || {
        let sandbox = Sandbox::new();
        let sshd = Sshd::start(&sandbox);
        let users = ["alice", "root", "frank"];
        for user in users.into_iter().chain(["rescue"]) {
            assert!(sshd.lets_in(user), "{user} has a key: {}", sshd.log());
        }
        let evidence = lock(&sandbox);
        assert_eq!(evidence.get("gaps"), Some(&json!([])));
        for user in users {
            assert!(!sshd.lets_in(user), "{user} is locked out: {}", sshd.log());
        }
        assert!(sshd.lets_in("rescue"), "{}", sshd.log());
        unlock(&sandbox);
        for user in users {
            assert!(sshd.lets_in(user), "{user} is let in again: {}", sshd.log());
        }
    });
}

#[test]
fn a_denied_user_reads_the_message() {
    in_namespaces("a_denied_user_reads_the_message", || {
        let sandbox = Sandbox::new();
        lock(&sandbox);
        let output = sandbox.chroot(&["pamtester", "sshd", "alice", "acct_mgmt"]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains("call 100% \\o/ 555"), "{said}");
        for folder in ["/etc/issue.d", "/run/issue.d"] {
            let issue = sandbox.read(&format!("{folder}/tocsin.issue"));
            assert!(issue.contains("call 100% \\\\o/ 555"), "{issue}");
        }
    });
}

#[test]
fn what_somebody_changed_meanwhile_is_kept() {
    in_namespaces("what_somebody_changed_meanwhile_is_kept", || {
        let sandbox = Sandbox::new();
        let (sshd, shadow) = (sandbox.read("/etc/pam.d/sshd"), sandbox.read("/etc/shadow"));
        lock(&sandbox);
        let edited = sandbox.read("/etc/pam.d/sshd") + "session optional pam_lastlog.so\n";
        sandbox.write("/etc/pam.d/sshd", &edited, 0o644);
        let expiry = "carol:!:19000:0:99999:7:30:";
        let edited =
            sandbox.read("/etc/shadow").replace(&format!("{expiry}1:"), &format!("{expiry}50000:"));
        sandbox.write("/etc/shadow", &edited, 0o640);
        unlock(&sandbox);
        assert_eq!(sandbox.read("/etc/pam.d/sshd"), sshd + "session optional pam_lastlog.so\n");
        let expected = shadow.replace(&format!("{expiry}40000:"), &format!("{expiry}50000:"));
        assert_eq!(sandbox.read("/etc/shadow"), expected);
    });
}

#[test]
fn a_boot_closes_the_doors_again() {
    in_namespaces("a_boot_closes_the_doors_again", || {
        let sandbox = Sandbox::new();
        assert_eq!(lock::reassert(&sandbox.host).unwrap(), None);
        let before = sandbox.tree();
        lock(&sandbox);
        // A boot empties /run; a package's upgrade may have replaced a file before it.
        fs::remove_dir_all(sandbox.host.path("/run/issue.d")).unwrap();
        fs::remove_file(sandbox.host.path("/run/tocsin-lock.txt")).unwrap();
        let upgraded = "account required pam_permit.so\n";
        sandbox.write("/etc/pam.d/common-account", upgraded, 0o644);
        sandbox.write("/etc/pam.d/new-service", upgraded, 0o644);
        assert!(sandbox.permits("su", "alice"));
        let failed = locking(LockLevel::Session).prove(&sandbox.host, &task()).unwrap_err();
        assert_eq!(failed.kind, FailureKind::NotProven);
        assert!(failed.detail.contains("no gate in /etc/pam.d/common-account"), "{failed:?}");

        let state = lock::reassert(&sandbox.host).unwrap().unwrap();
        assert_eq!(state.envelope, "the envelope");
        assert_locked(&sandbox);
        assert!(!sandbox.permits("new-service", "alice"));
        assert!(sandbox.host.path("/run/issue.d/tocsin.issue").exists());

        unlock(&sandbox);
        assert_eq!(sandbox.read("/etc/pam.d/common-account"), upgraded);
        assert_eq!(sandbox.read("/etc/pam.d/new-service"), upgraded);
        let kept = |path: &&PathBuf| !path.ends_with("new-service");
        let after = sandbox.tree();
        assert!(after.keys().filter(kept).eq(before.keys()));
    });
}

#[test]
fn no_break_glass_account_means_no_lock() {
    in_namespaces("no_break_glass_account_means_no_lock", || {
        let mut sandbox = Sandbox::new();
        sandbox.host.break_glass = vec!["not-there".to_owned(), "bad name".to_owned()];
        let before = sandbox.tree();
        let failed = locking(LockLevel::Session).apply(&sandbox.host, &task()).unwrap_err();
        assert_eq!(failed.kind, FailureKind::Precondition);
        assert_eq!(sandbox.tree(), before);
    });
}

#[test]
fn root_as_the_only_break_glass_brings_nologin_along() {
    in_namespaces("root_as_the_only_break_glass_brings_nologin_along", || {
        let mut sandbox = Sandbox::new();
        sandbox.host.break_glass = vec!["root".to_owned()];
        let before = sandbox.tree();
        assert_eq!(lock(&sandbox).get("nologin"), Some(&json!(true)));
        for service in SERVICES {
            assert!(sandbox.permits(service, "root"), "{service}");
            assert!(!sandbox.permits(service, "rescue"), "{service}");
        }
        unlock(&sandbox);
        assert_eq!(sandbox.tree(), before);
    });
}

#[test]
fn sessions_lingering_and_processes_of_locked_users_end() {
    in_namespaces("sessions_lingering_and_processes_of_locked_users_end", || {
        let mut sandbox = Sandbox::new();
        sandbox.write("/var/lib/systemd/linger/alice", "", 0o644);
        sandbox.write("/var/lib/systemd/linger/rescue", "", 0o644);
        let users = [(1001, "alice"), (1900, "rescue"), (12001, "frank"), (0, "root")];
        let login1 = Login1::start(sandbox.base(), &sandbox.host.root, Manner::Prompt, &users);
        sandbox.host.dbus_address = Some(login1.address.clone());
        let before = sandbox.tree();
        let mut alice = sandbox.spawn(1001, "exec sleep 1000");
        let mut frank = sandbox.spawn(12001, "trap '' TERM HUP; while :; do sleep 1000; done");
        let mut rescue = sandbox.spawn(1900, "exec sleep 1000");
        let mut service = sandbox.spawn(33, "exec sleep 1000");

        let evidence = lock(&sandbox);
        for name in ["sessions_left", "processes_left"] {
            assert_eq!(evidence.get(name), Some(&json!(0)), "{name}");
        }
        assert_eq!(evidence.get("logind"), Some(&json!("present")));
        assert_eq!(evidence.get("gaps"), Some(&json!([])));
        let state = lock::current(&sandbox.host).unwrap().unwrap();
        assert_eq!(state.strangers, ["frank"], "as the login manager named him");
        alice.wait().unwrap();
        frank.wait().unwrap();
        assert!(rescue.try_wait().unwrap().is_none(), "break-glass goes on");
        assert!(service.try_wait().unwrap().is_none(), "services go on");
        assert!(!sandbox.host.path("/var/lib/systemd/linger/alice").exists());
        assert!(sandbox.host.path("/var/lib/systemd/linger/rescue").exists());
        let ended = [
            "SetUserLinger 1001 false",
            "TerminateUser 0",
            "TerminateUser 1001",
            "TerminateUser 12001",
        ];
        assert_eq!(login1.calls(), ended);

        unlock(&sandbox);
        let undone = [
            "SetUserLinger 1001 true",
            "ResetFailedUnit getty@tty1.service",
            "StartUnit getty@tty1.service replace",
        ];
        assert_eq!(login1.calls()[ended.len()..], undone);
        assert_eq!(sandbox.tree(), before);
    });
}

#[test]
fn a_spinning_login_manager_does_not_hold_the_lock_up() {
    in_namespaces("a_spinning_login_manager_does_not_hold_the_lock_up", || {
        let mut sandbox = Sandbox::new();
        sandbox.write("/var/lib/systemd/linger/alice", "", 0o644);
        let users = [(1001, "alice")];
        let login1 = Login1::start(sandbox.base(), &sandbox.host.root, Manner::Spinning, &users);
        sandbox.host.dbus_address = Some(login1.address.clone());
        let before = sandbox.tree();
        let mut alice = sandbox.spawn(1001, "exec sleep 1000");
        let evidence = lock(&sandbox);
        alice.wait().unwrap();
        assert_eq!(evidence.get("logind"), Some(&json!("unreachable")));
        assert_eq!(evidence.get("processes_left"), Some(&json!(0)));
        assert!(!sandbox.host.path("/var/lib/systemd/linger/alice").exists());
        unlock(&sandbox);
        assert_eq!(sandbox.tree(), before);
    });
}

#[test]
fn a_screen_lock_asks_the_login_manager_and_changes_nothing_else() {
    in_namespaces("a_screen_lock_asks_the_login_manager_and_changes_nothing_else", || {
        let mut sandbox = Sandbox::new();
        let before = sandbox.tree();
        let lock = locking(LockLevel::Screen);
        let failed = lock.apply(&sandbox.host, &task()).unwrap_err();
        assert_eq!(failed.kind, FailureKind::Precondition);
        let users = [(1001, "alice")];
        let login1 = Login1::start(sandbox.base(), &sandbox.host.root, Manner::Prompt, &users);
        sandbox.host.dbus_address = Some(login1.address.clone());
        lock.apply(&sandbox.host, &task()).unwrap();
        let evidence = lock.prove(&sandbox.host, &task()).unwrap();
        assert_eq!(evidence.get("sessions"), Some(&Value::from(1)));
        assert_eq!(evidence.get("screens_locked"), Some(&Value::from(1)));
        assert_eq!(login1.calls(), ["LockSessions"]);
        assert_eq!(sandbox.tree(), before);
    });
}

#[test]
fn a_screen_that_does_not_say_that_it_is_locked_is_not_claimed() {
    in_namespaces("a_screen_that_does_not_say_that_it_is_locked_is_not_claimed", || {
        for (manner, kind) in [
            (Manner::Textual, FailureKind::Precondition),
            (Manner::Unlockable, FailureKind::NotProven),
        ] {
            let mut sandbox = Sandbox::new();
            let users = [(1001, "alice")];
            let login1 = Login1::start(sandbox.base(), &sandbox.host.root, manner, &users);
            sandbox.host.dbus_address = Some(login1.address.clone());
            let lock = locking(LockLevel::Screen);
            let applied = lock.apply(&sandbox.host, &task());
            let failed = applied.and_then(|()| lock.prove(&sandbox.host, &task()).map(drop));
            assert_eq!(failed.unwrap_err().kind, kind, "{manner:?}");
        }
    });
}
