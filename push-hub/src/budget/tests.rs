//! Tests of the budget of memory and descriptors.

use std::path::Path;

use super::{Budget, LIMITS, STATUS, max_descriptors, resident_bytes};

#[test]
fn process_sees_what_it_takes() {
    let bytes = resident_bytes(Path::new(STATUS)).expect("the kernel says it");
    assert!(bytes > 64 * 1024, "{bytes}");
    let descriptors = max_descriptors(Path::new(LIMITS)).expect("the kernel says it");
    assert!(descriptors > 3, "{descriptors}");
}

#[test]
fn what_cannot_be_read_is_unknown() {
    assert_eq!(resident_bytes(Path::new("/proc/self/nothing")), None);
    assert_eq!(max_descriptors(Path::new("/proc/self/nothing")), None);
}

#[test]
fn budget_is_over_only_beyond_its_limit_and_never_without_one() {
    let budget = Budget::new();
    assert!(!budget.is_over(1000));
    for (bytes, is_over) in [(1000, false), (1001, true), (999, false)] {
        budget.found(bytes);
        assert_eq!(budget.is_over(1000), is_over);
        assert!(!budget.is_over(0));
    }
}
