//! Roles whose processes change.

use std::time::Duration;

use super::*;

#[test]
fn what_a_role_used_before_it_was_started_again_stays_counted() {
    let meters = Meters::default();
    meters.follow([("redis".to_owned(), 1)]);
    let cpu = Some(Duration::from_millis(70));
    let last = Usage { pss_kib: Some(100), cpu, written_kib: Some(8) };
    meters.roles().get_mut("redis").expect("it is followed").last = last;
    // No process has this number: the kernel's are below 2^22.
    meters.follow([("redis".to_owned(), u32::MAX)]);
    assert_eq!(meters.read()["redis"], Usage { pss_kib: Some(0), cpu, written_kib: Some(8) });
}

/// A mistyped `--watch hub-1=PID` once passed every gate of the hub: nothing is little.
#[test]
fn process_that_was_never_there_is_unknown_and_not_free() {
    let meters = Meters::default();
    meters.follow([("hub-1".to_owned(), u32::MAX)]);
    let readings = meters.read();
    assert_eq!(sum(&readings, is_hub), Usage::default());
    let said = unknown(&readings);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("hub-1") && said[0].contains("no such process"), "{said:?}");
}

#[test]
fn own_process_is_read_without_its_children() {
    let meters = Meters::default();
    meters.follow([(HARNESS.to_owned(), std::process::id())]);
    let readings = meters.read();
    assert!(readings[HARNESS].pss_kib > Some(0));
    assert_eq!(sum(&readings, is_harness), readings[HARNESS]);
    assert_eq!(sum(&readings, is_hub), Usage::NOTHING);
    assert_eq!(unknown(&readings), Vec::<String>::new());
}
