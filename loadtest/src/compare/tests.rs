//! Ratios of made-up runs.

use super::*;
use crate::report::tests::made_up;
use crate::require::Requirement;

fn near(found: Option<f64>, expected: f64) -> bool {
    found.is_some_and(|found| (found - expected).abs() < 0.01 * expected)
}

#[test]
fn ratio_is_to_the_first_run() {
    let reports = [made_up("a", 1), made_up("b", 3)];
    let rows = rows(&reports);
    let of = |path: &str| {
        let row = rows.iter().find(|row| row.path == path).unwrap_or_else(|| panic!("no {path}"));
        ratio(row.values[0], row.values[1])
    };
    assert!(near(of("latency_ms.acked.p99"), 3.0));
    assert!(near(of("hub.kib_per_connection"), 3.0));
    assert!(near(of("latency_ms.during.acked.p99"), 3.0));
    assert!(near(of("phases.orders.latency_ms.acked.p99"), 3.0));
    assert!(near(of("phases.orders.during.latency_ms.acked.p99"), 3.0));
    assert!(near(of("platform.cpu_us_per_command"), 1.0));
    assert_eq!(of("counts.lost"), None, "nothing divides by nothing");
    let is_there = |path: &str| rows.iter().any(|row| row.path == path);
    assert!(!is_there("latency_ms.group.acked.p99"), "no run has it");
    let text = table(&reports);
    let line = text.lines().find(|line| line.starts_with("hub.kib")).expect("a line");
    assert!(line.contains("12.000") && line.contains("36.000") && line.ends_with("3.00"), "{line}");
}

#[test]
fn what_only_one_run_has_is_shown_without_a_ratio() {
    let mut without = made_up("b", 1);
    without.hub = None;
    let rows = rows(&[made_up("a", 1), without]);
    let row = rows.iter().find(|row| row.path == "hub.kib_per_connection").expect("a row");
    assert_eq!((row.values[0], row.values[1]), (Some(12.0), None));
    assert_eq!(ratio(row.values[0], row.values[1]), None);
}

#[test]
fn requirements_may_speak_of_ratios() {
    let judged = judged(&[made_up("a", 1), made_up("b", 2)]);
    let missed = |text: &str| text.parse::<Requirement>().expect("one").missed(&judged);
    assert_eq!(missed("ratio.latency_ms.acked.p99<=2.1"), None);
    assert!(missed("ratio.latency_ms.acked.p99<=1.1").is_some());
    assert_eq!(missed("ratio.phases.orders.during.latency_ms.acked.p99<=2.1"), None);
    assert_eq!(missed("phases.orders.during.latency_ms.acked.p99<=100"), None);
    assert!(missed("ratio.latency_ms.group.acked.p99<=1.1").is_some(), "it was not measured");
    assert_eq!(missed("hub.kib_per_connection<=24.1"), None, "the last report itself");
}
