//! How old commands are at the hubs: the stages between the store and the device, which nobody else sees.
//!
//! Owns what is read from the hubs' own histograms, and what was added to them in between. An age is the
//! difference of two clocks, the control plane's and the hub's: of one machine they are one. What a hub counted that
//! ended meanwhile is gone, and then nothing is known of the others either.

use std::collections::BTreeMap;

use protocol::state::Lane;

use crate::evaluate::float;
use crate::latency::Latency;

#[cfg(test)]
mod tests;

/// The histograms, without their lanes.
const NAMES: [&str; 2] =
    ["tocsin_push_hub_routed_age_seconds", "tocsin_push_hub_written_age_seconds"];
const LANES: [&str; 2] = ["urgent", "bulk"];

/// What each hub has counted, by its role and process.
pub(crate) type ByHub = BTreeMap<(String, u32), Ages>;

/// Both histograms, each of both lanes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Ages([[Buckets; 2]; 2]);

/// One histogram.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Buckets {
    /// Upper bounds in seconds, ascending, and how many ages were no longer.
    bounds: Vec<(f64, u64)>,
    count: u64,
    sum_secs: f64,
}

impl Ages {
    /// Those of a page of metrics. A histogram that is not there has counted nothing.
    pub(crate) fn read(page: &str) -> Self {
        let mut ages = Self::default();
        for line in page.lines() {
            for (name, lanes) in NAMES.iter().zip(&mut ages.0) {
                for (lane, buckets) in LANES.iter().zip(lanes) {
                    if let Some(rest) = line.strip_prefix(name) {
                        buckets.take(rest, lane);
                    }
                }
            }
        }
        ages
    }

    /// Commands of that lane when their sessions had them, and when their frames were flushed.
    pub(crate) const fn of(&self, lane: Lane) -> [&Buckets; 2] {
        let at = match lane {
            Lane::Urgent => 0,
            Lane::Bulk => 1,
        };
        let [routed, written] = &self.0;
        [&routed[at], &written[at]]
    }

    /// What there is to say of them, for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let of = |lane: Lane, name: &str| {
            let [routed, written] = self.of(lane).map(Buckets::latency);
            (routed.count > 0).then(|| {
                format!(
                    "{name} commands by the hubs: routed p50 {:.1} ms, p99 {:.1}; written p50 {:.1}, p99 {:.1}",
                    routed.p50, routed.p99, written.p50, written.p99
                )
            })
        };
        [of(Lane::Urgent, LANES[0]), of(Lane::Bulk, LANES[1])].into_iter().flatten().collect()
    }

    fn combine(
        &self,
        other: &Self,
        both: impl Fn(&Buckets, &Buckets) -> Option<Buckets>,
    ) -> Option<Self> {
        let mut sum = Self::default();
        for (step, lanes) in sum.0.iter_mut().enumerate() {
            for (lane, buckets) in lanes.iter_mut().enumerate() {
                *buckets = both(&self.0[step][lane], &other.0[step][lane])?;
            }
        }
        Some(sum)
    }
}

/// What all hubs counted from then to now; `None`: one of them was not there all the time.
pub(crate) fn between(then: &ByHub, now: &ByHub) -> Option<Ages> {
    if !then.keys().eq(now.keys()) {
        return None;
    }
    let each = now.iter().map(|(hub, ages)| ages.combine(then.get(hub)?, Buckets::since));
    each.reduce(|sum, ages| sum?.combine(&ages?, |one, other| Some(one.plus(other))))?
}

impl Buckets {
    /// One line, behind the histogram's name: `_bucket{lane="bulk",le="0.0005"} 3`, `_sum{lane="bulk"} 0.4`.
    fn take(&mut self, rest: &str, lane: &str) {
        let Some((what, rest)) = rest.split_once('{') else { return };
        let Some((labels, value)) = rest.split_once("} ") else { return };
        let label = |name: &str| {
            let of = |label: &'_ str| {
                let (own, value) = label.split_once('=')?;
                (own == name).then(|| value.trim_matches('"').to_owned())
            };
            labels.split(',').find_map(of)
        };
        if label("lane").as_deref() != Some(lane) {
            return;
        }
        let (value, bound) = (value.trim(), label("le").and_then(|bound| bound.parse().ok()));
        match (what, bound) {
            ("_bucket", Some(bound)) => self.bounds.push((bound, value.parse().unwrap_or(0))),
            ("_count", None) => self.count = value.parse().unwrap_or(0),
            ("_sum", None) => self.sum_secs = value.parse().unwrap_or(0.0),
            _ => {}
        }
    }

    /// Both together. Programs of one version have the same bounds.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        if self.bounds.is_empty() || other.bounds.is_empty() {
            return if self.bounds.is_empty() { other.clone() } else { self.clone() };
        }
        let bounds = self.bounds.iter().zip(&other.bounds);
        Self {
            bounds: bounds.map(|(own, more)| (own.0, own.1 + more.1)).collect(),
            count: self.count + other.count,
            sum_secs: self.sum_secs + other.sum_secs,
        }
    }

    /// What came after `then`; `None`: it counts less than it did.
    fn since(&self, then: &Self) -> Option<Self> {
        if then.bounds.is_empty() {
            return Some(self.clone());
        }
        let less =
            |(own, then): (&(f64, u64), &(f64, u64))| Some((own.0, own.1.checked_sub(then.1)?));
        Some(Self {
            bounds: self.bounds.iter().zip(&then.bounds).map(less).collect::<Option<_>>()?,
            count: self.count.checked_sub(then.count)?,
            sum_secs: self.sum_secs - then.sum_secs,
        })
    }

    /// The numbers that are told of them: within a bucket ages are taken to be spread evenly, and the longest is
    /// no longer than its bucket's bound.
    pub(crate) fn latency(&self) -> Latency {
        if self.count == 0 {
            return Latency::default();
        }
        let mean = self.sum_secs * 1e3 / float(self.count);
        Latency::of(self.count, mean, |quantile| self.secs_at(quantile) * 1e3)
    }

    fn secs_at(&self, quantile: f64) -> f64 {
        let rank = quantile * float(self.count);
        let (mut lower, mut below) = (0.0, 0);
        for &(upper, no_longer) in &self.bounds {
            let here = no_longer - below;
            if here > 0 && float(no_longer) >= rank {
                // Of the last one nothing is known but that it is longer than all others.
                let upper = if upper.is_finite() { upper } else { lower };
                return lower + (upper - lower) * ((rank - float(below)) / float(here)).max(0.0);
            }
            (lower, below) = (if upper.is_finite() { upper } else { lower }, no_longer);
        }
        lower
    }
}
