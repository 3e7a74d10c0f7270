//! The times within a phase that it is about: from a cut until everybody is back, from an order of
//! everybody until its last ack. Percentiles over the whole phase are those of calm time, the more so
//! the longer it lasts; what a phase is to show is how orders fare that were meant to leave within
//! these times.
//!
//! Owns those times and what falls into them. An end is known later than it was: what may lie before
//! it is kept until then.

use std::time::Duration;

use crate::latency::Durations;
use crate::moment::Moment;

/// Orders that wait for an end that is not known; further ones count as within.
const MOST: usize = 1_000_000;

/// When an order was meant to leave, and when it reached each stage.
pub(super) type Times = (Moment, [Option<Moment>; 5]);

/// The times of one phase.
#[derive(Debug, Default)]
pub(super) struct During {
    windows: Vec<Window>,
    kept: Vec<Times>,
    durations: [Durations; 5],
}

#[derive(Debug)]
struct Window {
    from: Moment,
    to: Option<Moment>,
    /// What has yet to happen before it is over.
    waiting: u64,
    /// The last of what has happened.
    last: Moment,
}

impl Window {
    /// Whether that moment is in it; `None`: its end is not known.
    fn has(&self, at: Moment) -> Option<bool> {
        if at < self.from { Some(false) } else { self.to.map(|to| at <= to) }
    }
}

impl During {
    /// A time begins, which is over when so much has happened. Answers its number.
    pub(super) fn open(&mut self, from: Moment, waiting: u64) -> usize {
        self.windows.push(Window { from, to: None, waiting, last: from });
        self.windows.len() - 1
    }

    /// More has to happen before it is over.
    pub(super) fn await_more(&mut self, window: usize, count: u64) {
        if let Some(window) = self.windows.get_mut(window) {
            window.waiting += count;
        }
    }

    /// One thing has happened, at that moment.
    pub(super) fn happened(&mut self, window: usize, at: Moment) {
        let Some(window) = self.windows.get_mut(window) else { return };
        window.last = window.last.max(at);
        window.waiting = window.waiting.saturating_sub(1);
        if window.waiting == 0 && window.to.is_none() {
            window.to = Some(window.last);
            self.place_kept();
        }
    }

    /// Every time is over by then.
    pub(super) fn finish(&mut self, at: Moment) {
        let open = self.windows.iter_mut().filter(|window| window.to.is_none());
        open.for_each(|window| window.to = Some(at));
        self.place_kept();
    }

    /// An order is done.
    pub(super) fn take(&mut self, times: Times) {
        match self.has(times.0) {
            Some(false) => {}
            None if self.kept.len() < MOST => self.kept.push(times),
            Some(true) | None => record(&mut self.durations, times),
        }
    }

    /// Whether that moment is in one of the times; `None`: that is not known yet.
    fn has(&self, at: Moment) -> Option<bool> {
        let mut is_known = true;
        for window in &self.windows {
            match window.has(at) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => is_known = false,
            }
        }
        is_known.then_some(false)
    }

    fn place_kept(&mut self) {
        for times in std::mem::take(&mut self.kept) {
            self.take(times);
        }
    }

    /// The latencies of a stage, with those of orders that are not done.
    pub(super) fn durations(&self, stage: usize, open: impl Iterator<Item = Times>) -> Durations {
        let mut all = self.durations.clone();
        for times in self.kept.iter().copied().chain(open) {
            if self.has(times.0) != Some(false) {
                record(&mut all, times);
            }
        }
        all.into_iter().nth(stage).unwrap_or_default()
    }

    /// How long the times are together, each moment counted once; `None`: there is none.
    pub(super) fn whole(&self) -> Option<Duration> {
        let ended = |window: &Window| Some((window.from, window.to?));
        let mut spans: Vec<_> = self.windows.iter().filter_map(ended).collect();
        spans.sort_unstable();
        let mut until = spans.first()?.0;
        let mut whole = Duration::ZERO;
        for (from, to) in spans {
            whole += to.since(from.max(until));
            until = until.max(to);
        }
        Some(whole)
    }
}

pub(super) fn record(durations: &mut [Durations; 5], (intended, stages): Times) {
    for (durations, at) in durations.iter_mut().zip(stages) {
        if let Some(at) = at {
            durations.record(at.since(intended));
        }
    }
}
