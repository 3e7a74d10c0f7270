//! The stand-in's promise: one line for each time that a command is carried out.

use std::fs;

use protocol::action::Verb;

use super::{EFFECTS_LOG, Simulated};
use crate::execute::{Executor, Recovery, fixtures};

#[test]
fn effect_is_one_line_and_a_repetition_is_seen() {
    let sandbox = fixtures::Sandbox::new();
    let (first, second) = (fixtures::task(1), fixtures::task(2));
    let lock = Simulated::new(Verb::Lock);
    assert!(matches!(lock.recover(&sandbox.host, &first), Recovery::Apply));
    for task in [&first, &second] {
        lock.apply(&sandbox.host, task).unwrap();
    }
    assert!(matches!(lock.recover(&sandbox.host, &first), Recovery::Applied));
    let log = fs::read_to_string(sandbox.host.state_dir.join(EFFECTS_LOG)).unwrap();
    assert_eq!(log, format!("lock {}\nlock {}\n", first.command_id, second.command_id));
    let evidence = lock.prove(&sandbox.host, &first).unwrap();
    assert_eq!(evidence.get("simulated"), Some(&true.into()));

    lock.apply(&sandbox.host, &first).unwrap();
    let refused = lock.prove(&sandbox.host, &first).unwrap_err();
    assert!(refused.detail.contains("2 lines"), "{refused:?}");
    lock.prove(&sandbox.host, &second).unwrap();
}

#[test]
fn torn_line_is_replaced_by_a_whole_one() {
    let sandbox = fixtures::Sandbox::new();
    let task = fixtures::task(1);
    let log = sandbox.host.state_dir.join(EFFECTS_LOG);
    fs::write(&log, format!("wipe {}", task.command_id)).unwrap();
    let wipe = Simulated::new(Verb::Wipe);
    assert!(matches!(wipe.recover(&sandbox.host, &task), Recovery::Apply));
    wipe.apply(&sandbox.host, &task).unwrap();
    assert_eq!(fs::read_to_string(log).unwrap(), format!("wipe {}\n", task.command_id));
}

#[test]
fn effect_that_vanished_is_not_proven() {
    let sandbox = fixtures::Sandbox::new();
    let task = fixtures::task(1);
    let refresh = Simulated::new(Verb::Refresh);
    refresh.apply(&sandbox.host, &task).unwrap();
    fs::remove_file(sandbox.host.state_dir.join(EFFECTS_LOG)).unwrap();
    assert!(refresh.prove(&sandbox.host, &task).is_err());
}
