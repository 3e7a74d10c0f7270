//! Times and durations as people read them.
//!
//! Owns their text. Times of day are UTC and say so: the people on one incident sit in several
//! zones, and so do the logs they compare with.

use std::time::Duration;

use protocol::time::Timestamp;

/// `12 ms`, `3.4 s`, `5 min`, `2 h`, `3 d`.
pub fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let secs = duration.as_secs();
    match secs {
        0 => format!("{millis} ms"),
        1..=9 => format!("{}.{} s", secs, millis % 1000 / 100),
        10..=119 => format!("{secs} s"),
        120..=7199 => format!("{} min", secs / 60),
        7200..=172_799 => format!("{} h", secs / 3600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// How long ago that was.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    if then.plus(Duration::from_secs(1)) >= now {
        "now".to_owned()
    } else {
        format!("{} ago", duration(now.since(then)))
    }
}

/// `14:05Z` on the day of now, else `2026-03-11 14:05Z`.
pub fn clock(time: Timestamp, now: Timestamp) -> String {
    let text = api::time::Time(time).to_string();
    let (day, hour) = text.split_once('T').unwrap_or((&text, ""));
    let minute = hour.get(..5).unwrap_or(hour);
    if api::time::Time(now).to_string().starts_with(day) {
        format!("{minute}Z")
    } else {
        format!("{day} {minute}Z")
    }
}
