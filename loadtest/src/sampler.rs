//! Looking at everything once a second, for the plots over time and the live picture.
//!
//! Owns the series. A long run keeps as many samples as a short one: they are thinned out.

use std::sync::Arc;
use std::time::Duration;

use runtime::lifecycle::CancellationToken;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::book::Book;
use crate::crew::Standing;
use crate::live::Live;
use crate::meters::{Meters, Readings};
use crate::moment::{Moment, Timeline};
use crate::probe;
use crate::report::Sample;

#[cfg(test)]
mod tests;

/// Samples that are kept at most; then every second one is dropped.
const MOST: usize = 1200;
/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Samples of equal distance.
#[derive(Debug)]
pub(crate) struct Series {
    samples: Vec<Sample>,
    /// Looks for each sample that is kept.
    stride: usize,
    looks: usize,
}

impl Default for Series {
    fn default() -> Self {
        Self { samples: Vec::new(), stride: 1, looks: 0 }
    }
}

impl Series {
    fn push(&mut self, sample: Sample) {
        self.looks += 1;
        if !(self.looks - 1).is_multiple_of(self.stride) {
            return;
        }
        self.samples.push(sample);
        if self.samples.len() > MOST {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride *= 2;
        }
    }

    /// The samples, oldest first.
    pub(crate) fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}

/// What is looked at.
pub(crate) struct Sampler {
    pub(crate) timeline: Timeline,
    pub(crate) began: Moment,
    pub(crate) book: Arc<Book>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) live: watch::Sender<Live>,
}

impl Sampler {
    /// Looks until it is stopped, and answers what it saw.
    pub(crate) async fn run(self, stop: CancellationToken) -> Series {
        let mut series = Series::default();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = (self.began, self.meters.read(), 0);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return series,
                _ = ticks.tick() => {}
            }
            let sample = self.look(&mut before);
            self.live.send_modify(|live| {
                live.counts = self.book.counts();
                live.sample(sample.clone());
            });
            series.push(sample);
        }
    }

    fn look(&self, before: &mut (Moment, Readings, u64)) -> Sample {
        let (now, readings, acked) =
            (self.timeline.now(), self.meters.read(), self.book.counts().acked);
        let (then, earlier, acked_before) = before;
        let secs = now.since(*then).as_secs_f64().max(1e-3);
        let cpu = |(role, usage): (&String, &probe::Usage)| {
            let earlier = earlier.get(role).map_or(usage.cpu, |earlier| earlier.cpu);
            let used = usage.cpu?.saturating_sub(earlier?);
            Some((role.clone(), used.as_secs_f64() / secs))
        };
        let pss = |(role, usage): (&String, &probe::Usage)| Some((role.clone(), usage.pss_kib?));
        let window = self.book.take_window();
        let sample = Sample {
            at_secs: now.since(self.began).as_secs_f64(),
            connected: self.standing.borrow().connected(),
            acked_per_sec: crate::evaluate::float(acked.saturating_sub(*acked_before)) / secs,
            acked_ms: [window.p50, window.p99],
            pss_kib: readings.iter().filter_map(pss).collect(),
            cpu: readings.iter().filter_map(cpu).collect(),
            kernel: probe::kernel(),
        };
        *before = (now, readings, acked);
        sample
    }
}
