//! Percentiles, thresholds, and both forms of a report.

use super::*;

fn latency() -> Latency {
    Latency::of((1..=1000).map(Duration::from_millis))
}

fn report() -> Report {
    let stages = Stage::ALL.map(|stage| (stage, latency())).into();
    let orders = Orders {
        verb: "lock",
        rate_per_sec: 50.0,
        achieved_per_sec: 49.9,
        connections: 16,
        counts: Counts { ordered: 1000, lost: 3, ..Counts::default() },
        stages,
        missed: vec!["p50 is 500.00 ms, at most 5 ms are allowed".to_owned()],
    };
    Report {
        schema: SCHEMA,
        started_at_ms: 1,
        agents: 100,
        interrupted: false,
        findings: Findings::OrderToAck(orders),
        errors: BTreeMap::from([("connect".to_owned(), 2)]),
    }
}

#[test]
fn percentiles_are_true_to_three_digits() {
    let latency = latency();
    let near = |found: f64, expected: f64| (found - expected).abs() <= expected / 1000.0;
    assert_eq!(latency.count, 1000);
    for (found, expected) in [
        (latency.p50_ms, 500.0),
        (latency.p90_ms, 900.0),
        (latency.p99_ms, 990.0),
        (latency.p999_ms, 999.0),
        (latency.max_ms, 1000.0),
    ] {
        assert!(near(found, expected), "{found} is not {expected}");
    }
    assert_eq!(Latency::of([]), Latency::default());
}

#[test]
fn what_is_longer_than_an_hour_counts_as_an_hour() {
    let latency = Latency::of([Duration::MAX]);
    assert_eq!(latency.count, 1);
    assert!(latency.max_ms >= 3_600_000.0);
}

#[test]
fn thresholds_name_what_is_beyond_them() {
    let thresholds: Thresholds = "p50=5, p99.9=2000,max=999.5".parse().expect("thresholds");
    let missed = thresholds.missed(&latency());
    let [first, second] = missed.as_slice() else { panic!("two are missed: {missed:?}") };
    assert!(first.starts_with("p50 is 500"), "{first}");
    assert!(second.starts_with("max is 1000"), "{second}");
    assert_eq!(thresholds.missed(&Latency::default()).len(), 3, "nothing measured is no success");
    for text in ["", "p50", "p51=1", "p50=x", "p50=NaN", "p50=1,,p99=2"] {
        assert_eq!(text.parse::<Thresholds>(), Err(ParseThresholdsError), "{text}");
    }
}

#[test]
fn table_has_a_row_per_stage_and_every_count() {
    let text = report().to_string();
    for stage in Stage::ALL {
        let is_row = |line: &str| line.starts_with(stage.as_str()) && line.contains("1000");
        assert!(text.lines().any(is_row), "{text}");
    }
    assert!(text.contains("3 lost, 0 doubled") && text.contains("2 × connect"), "{text}");
}

#[test]
fn json_is_what_the_readme_says() {
    let json = serde_json::to_value(report()).expect("a report is JSON");
    assert_eq!(json["schema"], SCHEMA);
    assert_eq!(json["scenario"], "order-to-ack");
    assert_eq!(json["counts"]["lost"], 3);
    assert_eq!(json["stages"]["acked"]["count"], 1000);
    assert!(json["stages"]["acked"]["p99.9_ms"].is_f64());
    assert_eq!(json["errors"]["connect"], 2);
}
