//! Which hub to try next, for a session and for a long-poll.
//!
//! Owns the order: hubs that another one named come first, those that asked to be left alone come
//! last, and the one in use is left for others. Every hub that it answers is one of those given to
//! it: a hub can choose among the hubs of the signed configuration, and never add one.

use std::time::{Duration, Instant};

use runtime::backoff::RETRY_AFTER_CAP;

use crate::http::bare;

#[cfg(test)]
mod tests;

/// The order of the hubs.
#[derive(Debug)]
pub(super) struct Hubs {
    /// Where the search among all begins.
    at: usize,
    /// Named by a hub, to be tried before all others, each once.
    named: Vec<String>,
    /// Asked to be left alone until then.
    away: Vec<(String, Instant)>,
}

impl Hubs {
    /// An order that begins somewhere: not every agent of a fleet at the first hub.
    pub(super) fn starting(random: u64) -> Self {
        let at = usize::try_from(random % 1024).unwrap_or(0);
        Self { at, named: Vec::new(), away: Vec::new() }
    }

    /// The hub to try now; `None` when none is known. One that asked to be left alone, or the one
    /// `in_use`, only when there is no other.
    pub(super) fn next(
        &self,
        known: &[String],
        in_use: Option<&str>,
        now: Instant,
    ) -> Option<String> {
        let begin = self.at.checked_rem(known.len())?;
        let round = known.iter().cycle().skip(begin).take(known.len());
        let named = self.named.iter().filter_map(|name| find(known, name));
        let is_other = |hub: &&String| in_use.is_none_or(|used| bare(used) != bare(hub));
        let is_free = |hub: &&String| self.left_alone(hub, now).is_zero();
        let mut all = named.chain(round.clone());
        let other = all.clone().filter(is_other).find(is_free).or_else(|| all.find(is_other));
        other.or_else(|| round.clone().next()).cloned()
    }

    /// How long to wait until the hub that is next may be asked, back-off aside.
    pub(super) fn wait(&self, hub: &str, now: Instant) -> Duration {
        self.left_alone(hub, now)
    }

    /// That hub was tried, and did not serve or does not any more. `retry_after`: it asked to be
    /// left alone for so long.
    pub(super) fn tried(
        &mut self,
        hub: &str,
        known: &[String],
        (retry_after, now): (Option<Duration>, Instant),
    ) {
        self.named.retain(|name| bare(name) != bare(hub));
        if let Some(place) = known.iter().position(|other| bare(other) == bare(hub)) {
            self.at = place + 1;
        }
        self.away.retain(|(other, until)| bare(other) != bare(hub) && *until > now);
        if let Some(delay) = retry_after {
            // A hub that asks for more, by mistake or by malice, must not silence us.
            self.away.push((hub.to_owned(), now + delay.min(RETRY_AFTER_CAP)));
        }
    }

    /// A hub named others to go to. Answers whether any of them is known.
    pub(super) fn prefer(&mut self, named: Vec<String>, known: &[String]) -> bool {
        let strangers = named.iter().filter(|name| find(known, name).is_none()).count();
        if strangers > 0 {
            tracing::warn!(strangers, "hub names hubs that the configuration does not, ignored");
        }
        self.named = named;
        self.named.retain(|name| find(known, name).is_some());
        !self.named.is_empty()
    }

    fn left_alone(&self, hub: &str, now: Instant) -> Duration {
        let until = self.away.iter().find(|(other, _)| bare(other) == bare(hub));
        until.map_or(Duration::ZERO, |(_, until)| until.saturating_duration_since(now))
    }
}

/// The address as the configuration spells it.
fn find<'a>(known: &'a [String], name: &str) -> Option<&'a String> {
    known.iter().find(|hub| bare(hub) == bare(name))
}
