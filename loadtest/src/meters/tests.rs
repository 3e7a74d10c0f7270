//! Roles whose processes change.

use super::*;

#[test]
fn what_a_role_used_before_it_was_started_again_stays_counted() {
    let meters = Meters::default();
    meters.follow([("redis".to_owned(), 1)]);
    let last = Usage { pss_kib: 100, cpu_ms: 70, written_kib: 8 };
    meters.roles().get_mut("redis").expect("it is followed").last = last;
    // No process has this number: the kernel's are below 2^22.
    meters.follow([("redis".to_owned(), u32::MAX)]);
    assert_eq!(meters.read()["redis"], Usage { pss_kib: 0, cpu_ms: 70, written_kib: 8 });
}

#[test]
fn own_process_is_read_without_its_children() {
    let meters = Meters::default();
    meters.follow([(HARNESS.to_owned(), std::process::id())]);
    let readings = meters.read();
    assert!(readings[HARNESS].pss_kib > 0);
    assert_eq!(sum(&readings, is_harness), readings[HARNESS]);
    assert_eq!(sum(&readings, is_hub), Usage::default());
}
