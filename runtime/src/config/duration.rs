//! Durations as people write them: `30` (seconds), `0.5`, `"250ms"`, `"5s"`, `"2m"`, `"1h"`, `"7d"`.
//!
//! For `#[serde(with = "runtime::config::duration")]`. Must not accept anything that another
//! reader could take for a different length.

use std::fmt;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// The longest duration accepted: a hundred years keeps every later sum inside its type.
const MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Writes a duration as seconds, whole if it is whole.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    if duration.subsec_nanos() == 0 {
        serializer.serialize_u64(duration.as_secs())
    } else {
        serializer.serialize_f64(duration.as_secs_f64())
    }
}

/// Reads a number of seconds, or text of a number and a unit (`ms`, `s`, `m`, `h`, `d`).
///
/// # Errors
/// For anything else, for negative numbers and for more than a hundred years.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(Humane)
}

/// Reads text of a number and a unit, such as `250ms`. The unit may be missing: seconds.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number = number.parse::<u64>().ok()?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let duration = Duration::from_millis(number.checked_mul(millis_per_unit)?);
    (duration <= MAX).then_some(duration)
}

struct Humane;

impl Visitor<'_> for Humane {
    type Value = Duration;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(
            "a duration: seconds, or text such as \"250ms\", \"5s\", \"2m\", \"1h\", \"7d\"",
        )
    }

    fn visit_u64<E: Error>(self, secs: u64) -> Result<Duration, E> {
        Some(Duration::from_secs(secs))
            .filter(|duration| *duration <= MAX)
            .ok_or_else(|| E::custom("a duration of more than a hundred years"))
    }

    fn visit_i64<E: Error>(self, secs: i64) -> Result<Duration, E> {
        let secs = u64::try_from(secs).map_err(|_| E::custom("a negative duration"))?;
        self.visit_u64(secs)
    }

    fn visit_f64<E: Error>(self, secs: f64) -> Result<Duration, E> {
        Duration::try_from_secs_f64(secs)
            .ok()
            .filter(|duration| *duration <= MAX)
            .ok_or_else(|| E::custom("not a usable number of seconds"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}
