//! Requirements as people write them.

use serde_json::json;

use super::*;

fn missed(requirement: &str) -> Option<String> {
    let report = json!({
        "latency_ms": {
            "acked": { "count": 10, "p50": 2.0, "p99": 15.0 },
            "confirmed": { "count": 0, "p50": 0.0, "p99": 0.0 },
        },
        "counts": { "lost": 0 },
        "phases": [{ "name": "connect" }, { "name": "storm", "during": { "secs": 3.5 } }],
    });
    requirement.parse::<Requirement>().expect("a requirement").missed(&report)
}

#[test]
fn bounds_are_held_to_the_letter() {
    for holds in [
        "latency_ms.acked.p99<=15",
        "latency_ms.acked.p99 <= 15.0",
        "latency_ms.acked.p99>=15",
        "latency_ms.acked.p50<3",
        "latency_ms.acked.p50>1",
        "counts.lost==0",
        "latency_ms.confirmed.count==0",
        "phases.storm.during.secs<=3.5",
    ] {
        assert_eq!(missed(holds), None, "{holds}");
    }
    for fails in ["latency_ms.acked.p99<15", "counts.lost>0", "latency_ms.acked.p50==2.1"] {
        assert!(missed(fails).is_some(), "{fails}");
    }
    let text = missed("latency_ms.acked.p99<=14").expect("it is missed");
    assert_eq!(text, "latency_ms.acked.p99<=14: it is 15.000");
}

#[test]
fn what_was_not_measured_holds_nothing() {
    for path in [
        "latency_ms.confirmed.p99<=15",
        "hub.kib_per_connection<=14",
        "counts<=1",
        "phases.connect.during.secs<=9",
        "phases.calm.during.secs<=9",
    ] {
        let text = missed(path).expect("it is missed");
        assert!(text.ends_with("it was not measured"), "{text}");
    }
}

#[test]
fn what_is_no_requirement_is_refused() {
    for text in ["", "p99", "<=15", "a..b<=1", "a<=x", "a<=NaN", "a=1", "a b<=1"] {
        assert!(text.parse::<Requirement>().is_err(), "{text}");
    }
}
