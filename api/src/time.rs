//! Time as people read it: RFC 3339 with milliseconds, in every operator-facing answer.
//!
//! Owns the text form only. Inside, and in the store, time is `protocol::time::Timestamp`.

use std::fmt;

use protocol::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time, as text `2026-03-11T09:26:53.589Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl From<Timestamp> for Time {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{time:.3}")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        let millis = u64::try_from(time.as_millisecond()).map_err(serde::de::Error::custom)?;
        Ok(Self(Timestamp::from_millis(millis)))
    }
}
