//! What a locked machine lets in, before and after a reboot, and what an unlock leaves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use protocol::action::{Action, Lock, LockLevel, Refresh, Unlock};
use serde_json::json;

use crate::container::Machine;
use crate::on_a_machine;
use crate::scene::{Body, PASSWORD, Scene};
use crate::tree::{Node, Tree, walk};

/// A `session` lock.
pub(crate) fn locking() -> Action {
    Action::Lock(Lock { level: LockLevel::Session, message: Some("call 555".to_owned()) })
}

/// Commands by which break-glass, who may become root by sudo, tries to become somebody who is
/// locked out.
const SWITCHES: [&str; 7] = [
    "sudo -n su root -c true",
    "sudo -n -u alice true",
    "sudo -n -i -u alice true",
    "sudo -n su -s /bin/sh alice -c true",
    "sudo -n su - alice -c true",
    "sudo -n runuser -u alice -- true",
    "sudo -n runuser -l alice -c true",
];

fn can(machine: &Machine, command: &str) -> bool {
    machine.ssh("rescue", None, command).status.success()
}

pub(crate) fn assert_locked(machine: &Machine) {
    for user in ["alice", "bob", "carol", "root"] {
        assert!(!machine.lets_in(user, None), "{user} by key: {}", machine.journal());
    }
    // A refused password takes sshd two seconds to say.
    for user in ["alice", "root"] {
        let is_in = machine.lets_in(user, Some(PASSWORD));
        assert!(!is_in, "{user} by password: {}", machine.journal());
    }
    for password in [None, Some(PASSWORD)] {
        assert!(machine.lets_in("rescue", password), "{password:?}: {}", machine.journal());
    }
    for command in SWITCHES {
        assert!(!can(machine, command), "{command}");
    }
    for command in ["sudo -n true", "sudo -n -u web true", "sudo -n runuser -u web -- true"] {
        assert!(can(machine, command), "{command}: {}", machine.journal());
    }
    assert_eq!(machine.sh("ps -o pid= -U alice,bob,carol || true"), "");
    assert!(!machine.path("/var/lib/systemd/linger/alice").exists());
}

pub(crate) fn assert_open(machine: &Machine) {
    for user in ["alice", "root"] {
        for password in [None, Some(PASSWORD)] {
            assert!(machine.lets_in(user, password), "{user} {password:?}: {}", machine.journal());
        }
    }
    assert!(!machine.lets_in("bob", None), "bob had been locked before");
    for command in SWITCHES {
        assert!(can(machine, command), "{command}: {}", machine.journal());
    }
}

#[test]
fn locked_machine_opens_for_break_glass_only_through_a_reboot_and_unlocks_without_a_trace() {
    let test = "doors::locked_machine_opens_for_break_glass_only_through_a_reboot_and_unlocks_without_a_trace";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.boot();
        assert_open(&scene.machine);
        occupy(&scene.machine);
        let before = tree(&scene.machine);

        let evidence = scene.proven(locking()).await;
        for (name, value) in [("sessions_left", json!(0)), ("processes_left", json!(0))] {
            assert_eq!(evidence.get(name), Some(&value), "{name}");
        }
        assert_eq!(evidence.get("logind"), Some(&json!("present")));
        assert_eq!(evidence.get("gaps"), Some(&json!([])));
        assert_locked(&scene.machine);
        scene.proven(Action::Refresh(Refresh {})).await;

        scene.machine.shut_down();
        // Somebody had the disk meanwhile: the doors on it stand open.
        let gate = "/etc/pam.d/common-account";
        let opened = "account required pam_permit.so\n";
        let gated = scene.machine.read(gate);
        scene.machine.write(gate, opened, 0o644);
        let shadow = scene.machine.read("/etc/shadow");
        scene.machine.write("/etc/shadow", &shadow.replace(":1:\n", "::\n"), 0o640);
        boot_under_knocking(&mut scene.machine);
        assert_eq!(scene.machine.sh("systemctl is-active tocsin-reassert"), "active");
        assert_locked(&scene.machine);
        assert_ne!(scene.machine.read(gate), opened);
        scene.proven(Action::Refresh(Refresh {})).await;

        // An order to lock again proves it, and puts nothing into the undo journal.
        scene.machine.write(gate, &gated, 0o644);
        scene.proven(locking()).await;
        scene.proven(Action::Unlock(Unlock {})).await;
        assert_same(&before, &tree(&scene.machine));
        assert_open(&scene.machine);
        assert_lingers_again(&scene.machine);
    });
}

/// The mark of lingering is back (the tree has it), and logind knows.
fn assert_lingers_again(machine: &Machine) {
    let lingers = machine.succeeds("loginctl show-user alice -P Linger | grep -qx yes");
    assert!(lingers, "{}: {}", machine.sh("loginctl list-users"), machine.journal());
}

/// Leaves alice on the machine in every way: a session with a process that ignores its end, a
/// manager of her own that lingers, and a process outside of both.
pub(crate) fn occupy(machine: &Machine) {
    let stubborn = "nohup setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1000; done' \
                    > /dev/null 2>&1 < /dev/null & echo inside";
    assert!(machine.ssh("alice", None, stubborn).status.success());
    machine.sh("loginctl enable-linger alice");
    machine.sh("systemctl start user@$(id -u alice).service");
    machine.sh("systemd-run --quiet --unit=stray --uid=alice sleep 1000");
    for name in ["sh", "systemd", "sleep"] {
        machine.sh(&format!("until ps -o comm= -U alice | grep -qx {name}; do sleep 0.1; done"));
    }
}

/// Boots the machine while somebody tries alice's and root's key all the time.
fn boot_under_knocking(machine: &mut Machine) {
    machine.switch_on();
    let machine = &*machine;
    let is_up = AtomicBool::new(false);
    thread::scope(|scope| {
        let knocks = scope.spawn(|| {
            let mut knocks = 0;
            while !is_up.load(Ordering::SeqCst) {
                for user in ["alice", "root"] {
                    assert!(!machine.lets_in(user, None), "{user} came in during the boot");
                    knocks += 1;
                }
            }
            knocks
        });
        machine.wait_until_booted();
        is_up.store(true, Ordering::SeqCst);
        assert!(knocks.join().unwrap() > 0);
    });
    let entered = |unit: &str| {
        let text = machine.sh(&format!("systemctl show -P ActiveEnterTimestampMonotonic {unit}"));
        text.parse::<u64>().unwrap()
    };
    let closed = entered("tocsin-reassert.service");
    for unit in ["ssh.service", "systemd-user-sessions.service", "bench-network.service"] {
        assert!(0 < closed && closed < entered(unit), "{unit}");
    }
}

/// Everything that a lock changes on disk: path → mode, owner, content.
pub(crate) fn tree(machine: &Machine) -> Tree {
    let mut tree = Tree::new();
    for folder in ["/etc", "/usr/lib/systemd", "/var/lib/systemd/linger"] {
        walk(&machine.path(folder), &mut tree);
    }
    tree
}

pub(crate) fn assert_same(before: &Tree, after: &Tree) {
    let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for path in paths {
        let shown = |tree: &Tree| {
            tree.get(path).map(|Node { mode, owner, content }| {
                (*mode, *owner, String::from_utf8_lossy(content).into_owned())
            })
        };
        assert_eq!(shown(before), shown(after), "{}", path.display());
    }
}
