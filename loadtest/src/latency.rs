//! Latencies: HDR histograms, and the numbers that are read from them.
//!
//! Pure arithmetic. Where a latency begins is decided by whoever records it.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// The longest latency that is told apart, in microseconds; longer ones count as this.
const LONGEST_MICROS: u64 = 3_600_000_000;
/// Digits of a latency that are kept.
const DIGITS: u8 = 3;
/// The quantiles of a curve: more of them where it is steep.
const CURVE: [f64; 14] =
    [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0];

/// A histogram of durations.
#[derive(Debug, Clone)]
pub struct Durations(Histogram<u64>);

impl Default for Durations {
    fn default() -> Self {
        // It grows with what it takes: a run has many of them, and most stay small.
        Self(Histogram::new(DIGITS).expect("three digits are a sound number"))
    }
}

impl Durations {
    /// Records one.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let recorded = self.0.record(micros.min(LONGEST_MICROS));
        recorded.expect("it grows up to the longest");
    }

    /// Takes all of another's.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows up to the longest");
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The numbers that are told of them.
    pub fn latency(&self) -> Latency {
        if self.0.is_empty() {
            return Latency::default();
        }
        let at = |quantile| millis(self.0.value_at_quantile(quantile));
        let max = millis(self.0.max());
        Latency { max, ..Latency::of(self.0.len(), self.0.mean() / 1000.0, at) }
    }
}

impl FromIterator<Duration> for Durations {
    fn from_iter<T: IntoIterator<Item = Duration>>(durations: T) -> Self {
        let mut all = Self::default();
        durations.into_iter().for_each(|duration| all.record(duration));
        all
    }
}

/// Latencies in milliseconds; all zero when there were none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half were no longer.
    pub p50: f64,
    /// Nine of ten were no longer.
    pub p90: f64,
    /// 99 of 100 were no longer.
    pub p99: f64,
    /// 999 of 1,000 were no longer.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// Percentiles and their milliseconds, for a plot.
    pub curve: Vec<(f64, f64)>,
}

impl Latency {
    /// Of so many, with that mean and those milliseconds at each quantile.
    pub(crate) fn of(count: u64, mean: f64, at: impl Fn(f64) -> f64) -> Self {
        Self {
            count,
            mean,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
            curve: CURVE.iter().map(|&quantile| (quantile * 100.0, at(quantile))).collect(),
        }
    }

    /// The columns of a table, in order.
    pub const COLUMNS: [&'static str; 5] = ["p50", "p90", "p99", "p99.9", "max"];

    /// Their values.
    pub const fn columns(&self) -> [f64; 5] {
        [self.p50, self.p90, self.p99, self.p999, self.max]
    }
}

fn millis(micros: u64) -> f64 {
    // An hour has fewer microseconds than 32 bits count.
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1000.0
}
