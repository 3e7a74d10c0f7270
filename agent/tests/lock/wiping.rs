//! The doors of a device that is being wiped: closed before the first byte goes, and as before when the wipe is over
//! and the power stays on.

use std::path::PathBuf;
use std::time::Duration;

use agent::execute::Executor as _;
use agent::execute::course::Course;
use agent::execute::lock::{LockExecutor, wiping};
use agent::execute::wipe::Wipe;
use protocol::action::{self, Lock, LockLevel, WipeLevel};
use protocol::id::CommandId;
use runtime::Clock;
use serde_json::json;

use crate::luks::{format, opens};
use crate::sandbox::{Sandbox, in_namespaces, task};
use crate::tree::Tree;
use crate::{assert_locked, lock, locking, unlock, unlocking};

/// A sandbox with a volume to be wiped.
fn scene() -> (Sandbox, PathBuf) {
    let mut sandbox = Sandbox::new();
    let volume = sandbox.base().join("volume");
    format(&volume, 20 << 20, &["-q", "luksFormat", "--type", "luks2"]);
    sandbox.host.wipe_targets = vec![volume.clone()];
    (sandbox, volume)
}

fn wipe() -> Wipe {
    Wipe::new(action::Wipe { level: WipeLevel::Keys, power_off: false })
}

/// Everything but the record of the wipe itself.
fn tree(sandbox: &Sandbox) -> Tree {
    let mut tree = sandbox.tree();
    tree.retain(|path, _| !path.ends_with("wipe.json"));
    tree
}

fn claimed(sandbox: &Sandbox) -> Option<CommandId> {
    wiping::claimed(&sandbox.host).unwrap()
}

#[test]
fn doors_are_closed_for_a_wipe_and_given_back_without_a_trace() {
    in_namespaces("wiping::doors_are_closed_for_a_wipe_and_given_back_without_a_trace", || {
        let (sandbox, volume) = scene();
        let before = tree(&sandbox);
        let mut inside = sandbox.spawn(1001, "exec sleep 1000");
        let wipe = wipe();
        wipe.apply(&sandbox.host, &task()).unwrap();
        let doors = wipe.prove(&sandbox.host, &task()).unwrap();
        let doors = doors.get("doors").unwrap();
        let said = json!({ "closed": true, "break_glass": ["rescue"], "sessions_left": 0,
            "processes_left": 0, "gaps": [] });
        assert_eq!(doors, &said);
        inside.wait().unwrap();
        assert!(!opens(&volume, crate::luks::PASSPHRASES[0]));
        assert_locked(&sandbox);
        assert_eq!(claimed(&sandbox), Some(task().command_id));

        // Somebody opens one, and the device reboots.
        let gate = "/etc/pam.d/common-account";
        let opened = "account required pam_permit.so\n";
        for again in [wiping::uphold, wiping::reassert] {
            sandbox.write(gate, opened, 0o644);
            assert!(again(&sandbox.host).unwrap());
            assert!(!sandbox.permits("sshd", "alice"));
        }
        sandbox.write(
            gate,
            std::str::from_utf8(&before[&sandbox.host.path(gate)].content).unwrap(),
            0o644,
        );
        assert!(wiping::uphold(&sandbox.host).unwrap());
        assert!(!wiping::uphold(&sandbox.host).unwrap(), "nothing is open any more");

        assert!(wiping::give_back(&sandbox.host).unwrap());
        assert_eq!(tree(&sandbox), before);
        assert!(!wiping::give_back(&sandbox.host).unwrap());
        assert!(!wiping::reassert(&sandbox.host).unwrap(), "no boot closes them again");
        assert!(sandbox.permits("sshd", "alice"));
    });
}

#[test]
fn door_that_is_opened_while_data_is_erased_is_closed_again_at_the_next_look() {
    in_namespaces(
        "wiping::door_that_is_opened_while_data_is_erased_is_closed_again_at_the_next_look",
        || {
            for (waited, stays_open) in [(Duration::ZERO, true), (Duration::from_secs(30), false)] {
                let (mut sandbox, _volume) = scene();
                let wipe = Wipe::new(action::Wipe { level: WipeLevel::Data, power_off: false });
                wipe.apply(&sandbox.host, &task()).unwrap();
                let (gate, opened) =
                    ("/etc/pam.d/common-account", "account required pam_permit.so\n");
                sandbox.write(gate, opened, 0o644);
                let (clock, hand) = Clock::manual();
                hand.advance(waited);
                sandbox.host.course = Course::by(clock);
                wipe.finish(&sandbox.host, &task()).unwrap();
                let found = std::fs::read_to_string(sandbox.host.path(gate)).unwrap();
                assert_eq!(found == opened, stays_open, "after {waited:?}: {found}");
            }
        },
    );
}

#[test]
fn wipe_that_failed_before_its_first_byte_leaves_no_door_closed_without_a_record() {
    let test =
        "wiping::wipe_that_failed_before_its_first_byte_leaves_no_door_closed_without_a_record";
    in_namespaces(test, || {
        let (mut sandbox, volume) = scene();
        let before = tree(&sandbox);
        // What it should destroy is not what it should be: nothing begins.
        sandbox.host.wipe_targets.push(sandbox.base().join("absent"));
        wipe().apply(&sandbox.host, &task()).unwrap_err();
        assert_eq!(claimed(&sandbox), None);
        assert_eq!(tree(&sandbox), before);
        sandbox.host.wipe_targets.pop();

        // It is gone after the survey, as a drive that was pulled out.
        let away = volume.with_extension("away");
        wipe().apply(&sandbox.host, &task()).unwrap();
        assert!(wiping::give_back(&sandbox.host).unwrap());
        let text = std::fs::read_to_string(sandbox.host.state_dir.join("wipe.json")).unwrap();
        let unfinished = text.replace("\"finished\":true", "\"finished\":false");
        let pending = unfinished.replace("\"progress\":\"headers\"", "\"progress\":\"pending\"");
        assert_ne!(pending, unfinished);
        std::fs::write(sandbox.host.state_dir.join("wipe.json"), pending).unwrap();
        std::fs::rename(&volume, &away).unwrap();
        wipe().apply(&sandbox.host, &task()).unwrap_err();
        assert_eq!(claimed(&sandbox), Some(task().command_id), "closed, and on record");
        assert!(!sandbox.permits("sshd", "alice"));
        // The agent sees that the command is over. It is killed half way, and starts again.
        let claim = sandbox.host.state_dir.join("wipe-doors.json");
        let text = std::fs::read_to_string(&claim).unwrap();
        std::fs::write(&claim, text.replace("\"locked\"", "\"unlocking\"")).unwrap();
        assert!(!wiping::reassert(&sandbox.host).unwrap(), "what began is brought to its end");
        assert_eq!(tree(&sandbox), before);
    });
}

#[test]
fn lock_of_before_stands_through_a_wipe_and_is_undone_by_its_unlock_alone() {
    let test = "wiping::lock_of_before_stands_through_a_wipe_and_is_undone_by_its_unlock_alone";
    in_namespaces(test, || {
        let (sandbox, _) = scene();
        let before = tree(&sandbox);
        lock(&sandbox);
        let locked = tree(&sandbox);
        wipe().apply(&sandbox.host, &task()).unwrap();
        assert_eq!(claimed(&sandbox), None, "the doors are the lock's");
        assert_eq!(tree(&sandbox), locked);
        assert!(!wiping::give_back(&sandbox.host).unwrap());
        assert_locked(&sandbox);
        unlock(&sandbox);
        assert_eq!(tree(&sandbox), before);

        // The other way round: a lock takes them over from a wipe that is over.
        std::fs::remove_file(sandbox.host.state_dir.join("wipe.json")).unwrap();
        let volume = &sandbox.host.wipe_targets[0];
        format(volume, 20 << 20, &["-q", "luksFormat", "--type", "luks2"]);
        wipe().apply(&sandbox.host, &task()).unwrap();
        locking(LockLevel::Session).apply(&sandbox.host, &task()).unwrap();
        assert_eq!(claimed(&sandbox), None);
        assert!(!wiping::give_back(&sandbox.host).unwrap());
        assert_locked(&sandbox);
        unlocking().apply(&sandbox.host, &task()).unwrap();
        assert_eq!(tree(&sandbox), before);
    });
}

#[test]
fn wipe_closes_the_doors_for_everybody_where_there_is_no_break_glass_account() {
    let test = "wiping::wipe_closes_the_doors_for_everybody_where_there_is_no_break_glass_account";
    in_namespaces(test, || {
        let (mut sandbox, _) = scene();
        sandbox.host.break_glass.clear();
        let before = tree(&sandbox);
        let wipe = wipe();
        wipe.apply(&sandbox.host, &task()).unwrap();
        let evidence = wipe.prove(&sandbox.host, &task()).unwrap();
        assert_eq!(evidence.get("doors").unwrap()["closed"], json!(true));
        assert_eq!(evidence.get("doors").unwrap()["break_glass"], json!([]));
        for user in ["root", "alice", "rescue", "frank"] {
            assert!(!sandbox.permits("sshd", user), "{user}");
        }
        // An unlock ends it as well.
        unlock(&sandbox);
        assert_eq!(tree(&sandbox), before);
    });
}

#[test]
fn damaged_claim_of_a_wipe_keeps_neither_boot_nor_doors() {
    in_namespaces("wiping::damaged_claim_of_a_wipe_keeps_neither_boot_nor_doors", || {
        let (sandbox, _) = scene();
        let before = tree(&sandbox);
        wipe().apply(&sandbox.host, &task()).unwrap();
        std::fs::write(sandbox.host.state_dir.join("wipe-doors.json"), "{").unwrap();
        assert!(!wiping::reassert(&sandbox.host).unwrap());
        assert_eq!(tree(&sandbox), before);
        assert!(sandbox.permits("sshd", "alice"));
    });
}

#[test]
fn nologin_of_a_wipe_or_an_earlier_lock_goes_with_the_unlock_and_that_of_others_stays() {
    let test = "wiping::nologin_of_a_wipe_or_an_earlier_lock_goes_with_the_unlock_and_that_of_others_stays";
    in_namespaces(test, || {
        let (mut sandbox, _) = scene();
        sandbox.host.break_glass = vec!["root".to_owned()];
        let nologin = sandbox.host.path("/run/nologin");
        let before = tree(&sandbox);
        let said = |message: &str| {
            let lock = Lock { level: LockLevel::Session, message: Some(message.to_owned()) };
            LockExecutor::new(lock).apply(&sandbox.host, &task()).unwrap();
            std::fs::read_to_string(&nologin).unwrap()
        };
        wipe().apply(&sandbox.host, &task()).unwrap();
        assert!(std::fs::read_to_string(&nologin).unwrap().contains("locked by"));
        for message in ["one text", "another text"] {
            assert_eq!(said(message), format!("{message}\n"));
        }
        unlock(&sandbox);
        assert_eq!(tree(&sandbox), before);

        // One of somebody else, as of a shutdown that is near.
        std::fs::write(&nologin, "going down").unwrap();
        assert_eq!(said("one text"), "going down");
        unlocking().apply(&sandbox.host, &task()).unwrap();
        let evidence = unlocking().prove(&sandbox.host, &task()).unwrap();
        assert_eq!(evidence.get("nologin"), Some(&json!(true)), "it is told");
        assert_eq!(std::fs::read_to_string(&nologin).unwrap(), "going down");
        std::fs::write(&nologin, "This device was locked by its administrators.\n").unwrap();
        unlocking().prove(&sandbox.host, &task()).unwrap_err();
        std::fs::remove_file(&nologin).unwrap();

        // An account that it would keep out is to pass from now on.
        lock(&sandbox);
        sandbox.host.break_glass = vec!["rescue".to_owned()];
        lock(&sandbox);
        assert!(!nologin.exists());
        unlock(&sandbox);
        assert_eq!(tree(&sandbox), before);
    });
}

#[test]
fn room_of_a_wiped_device_is_emptied_where_its_doors_cannot_be_closed() {
    let test = "wiping::room_of_a_wiped_device_is_emptied_where_its_doors_cannot_be_closed";
    in_namespaces(test, || {
        let (sandbox, volume) = scene();
        // No layout of PAM that is known.
        for name in ["common-account", "system-auth", "password-auth"] {
            let _ = std::fs::remove_file(sandbox.host.path("/etc/pam.d").join(name));
        }
        let mut inside = sandbox.spawn(1001, "exec sleep 1000");
        let mut rescue = sandbox.spawn(1900, "exec sleep 1000");
        let wipe = wipe();
        wipe.apply(&sandbox.host, &task()).unwrap();
        let evidence = wipe.prove(&sandbox.host, &task()).unwrap();
        let doors = evidence.get("doors").unwrap();
        assert_eq!(doors["closed"], json!(false));
        assert_eq!(doors["gaps"].as_array().unwrap().len(), 1, "{doors}");
        assert_eq!(claimed(&sandbox), None);
        assert!(!opens(&volume, crate::luks::PASSPHRASES[0]));
        assert!(inside.try_wait().unwrap().is_some(), "whoever was in could read what is mapped");
        assert!(rescue.try_wait().unwrap().is_none(), "break-glass goes on");
    });
}
