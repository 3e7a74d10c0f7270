//! Rates as text, and the moments they make.

use runtime::Clock;

use super::*;

#[test]
fn rates_are_read_as_people_write_them() {
    for (text, per_sec) in [("50/s", 50.0), ("50", 50.0), ("300/m", 5.0), ("1/m", 1.0 / 60.0)] {
        let rate: Rate = text.parse().expect("a rate");
        assert!((rate.per_sec() - per_sec).abs() < 1e-9, "{text}");
    }
}

#[test]
fn what_is_no_rate_is_refused() {
    for text in ["", "0", "0/s", "-1/s", "5/h", "1.5/s", "1000001/s", "99999999999/s", "/s"] {
        assert_eq!(text.parse::<Rate>(), Err(ParseRateError), "{text}");
    }
}

#[test]
fn schedule_keeps_the_rate_without_drift() {
    let start = Clock::system().now();
    let schedule = Schedule::new(start, "3/s".parse().expect("a rate"));
    assert_eq!(schedule.at(0), start);
    assert_eq!(schedule.at(1), start + Duration::from_nanos(333_333_333));
    // A third of a second is no whole number of nanoseconds; a million of them still are exact.
    assert_eq!(schedule.at(3_000_000), start + Duration::from_secs(1_000_000));
}
