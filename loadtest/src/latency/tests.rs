//! Percentiles of known durations.

use super::*;

#[test]
fn percentiles_are_true_to_three_digits() {
    let latency = (1..=1000).map(Duration::from_millis).collect::<Durations>().latency();
    let near = |found: f64, expected: f64| (found - expected).abs() <= expected / 1000.0;
    assert_eq!(latency.count, 1000);
    for (found, expected) in [
        (latency.mean, 500.5),
        (latency.p50, 500.0),
        (latency.p90, 900.0),
        (latency.p99, 990.0),
        (latency.p999, 999.0),
        (latency.max, 1000.0),
    ] {
        assert!(near(found, expected), "{found} is not {expected}");
    }
    assert_eq!(Durations::default().latency(), Latency::default());
}

#[test]
fn what_is_longer_than_an_hour_counts_as_an_hour() {
    let latency = [Duration::MAX].into_iter().collect::<Durations>().latency();
    assert_eq!(latency.count, 1);
    assert!(latency.max >= 3_600_000.0 && latency.max < 3_610_000.0, "{}", latency.max);
}

#[test]
fn curve_never_falls() {
    let durations: Durations = (1..=5000).map(|n| Duration::from_micros(n * n)).collect();
    let curve = durations.latency().curve;
    assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
}
