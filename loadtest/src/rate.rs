//! Rates and the schedule they make: at which moment each order is meant to leave.
//!
//! Pure arithmetic. The schedule never waits for what it schedules: that is what makes latencies
//! counted from it safe from coordinated omission.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Orders, or connections, per second at most: beyond it one process cannot keep the time.
const MAX_PER_SEC: u64 = 1_000_000;

/// So many within so much time. As text `50/s`, `300/m` or `50`, which means per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    count: u32,
    per: Duration,
}

/// A text that is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a rate such as 50/s or 300/m, at most {MAX_PER_SEC}/s")]
pub struct ParseRateError;

impl Rate {
    /// One of so many equal parts, at least one in the same time.
    #[must_use]
    pub fn share(self, parts: u64) -> Self {
        let count = u64::from(self.count).div_ceil(parts.max(1));
        Self { count: u32::try_from(count).unwrap_or(u32::MAX).max(1), per: self.per }
    }

    /// So many in that time, at least one.
    pub fn count_in(self, time: Duration) -> u64 {
        let nanos = self.per.as_nanos().max(1);
        let count = u128::from(self.count) * time.as_nanos() / nanos;
        u64::try_from(count).unwrap_or(u64::MAX).max(1)
    }

    /// As a number per second.
    pub fn per_sec(self) -> f64 {
        f64::from(self.count) / self.per.as_secs_f64()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.per == Duration::from_secs(1) { "s" } else { "m" };
        write!(f, "{}/{unit}", self.count)
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

impl TryFrom<String> for Rate {
    type Error = ParseRateError;

    fn try_from(text: String) -> Result<Self, ParseRateError> {
        text.parse()
    }
}

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
        let secs = match unit {
            "s" => 1,
            "m" => 60,
            _ => return Err(ParseRateError),
        };
        let count: u32 = count.trim().parse().map_err(|_| ParseRateError)?;
        if count == 0 || u64::from(count) > MAX_PER_SEC * secs {
            return Err(ParseRateError);
        }
        Ok(Self { count, per: Duration::from_secs(secs) })
    }
}

/// Moments at a constant rate.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Instant,
    rate: Rate,
}

impl Schedule {
    /// The first moment is `start`.
    pub const fn new(start: Instant, rate: Rate) -> Self {
        Self { start, rate }
    }

    /// The moment of that number, counting from 0. Computed from the start each time, so that no
    /// rounding adds up.
    pub fn at(&self, index: u64) -> Instant {
        let nanos = self.rate.per.as_nanos() * u128::from(index) / u128::from(self.rate.count);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4))
    }
}
