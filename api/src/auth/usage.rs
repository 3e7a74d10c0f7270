//! How tokens are used: how often within a minute, and when last.
//!
//! Owns the counts in memory, which hold tokens that were valid a moment ago and no others, and
//! writing the times down. Each node counts its own requests.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::time::Timestamp;
use uuid::Uuid;

use crate::app::App;
use crate::audit::Actor;
use crate::db::{DbError, millis, sql};

const MINUTE: Duration = Duration::from_secs(60);

/// What is known of the use of tokens.
#[derive(Debug, Default)]
pub struct Usage(Mutex<HashMap<Uuid, Used>>);

#[derive(Debug)]
struct Used {
    at: Timestamp,
    is_written: bool,
    /// When the allowance is full again: the generic cell rate algorithm.
    full_at: Instant,
    /// The same for what stops.
    stops_full_at: Instant,
}

/// What a request counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowance {
    /// That of most requests.
    Usual,
    /// That of what stops or withdraws: whoever has used up the other can still call back.
    Stops,
}

impl Usage {
    /// Counts a request of that token.
    ///
    /// # Errors
    /// How long to wait, when it asks too often.
    pub(super) fn count(
        &self,
        (token, allowance): (Uuid, Allowance),
        rate: Option<NonZeroU32>,
        (now, at): (Instant, Timestamp),
    ) -> Result<(), Duration> {
        let mut tokens = self.lock();
        let used = tokens.entry(token).or_insert(Used {
            at,
            is_written: false,
            full_at: now,
            stops_full_at: now,
        });
        (used.at, used.is_written) = (at, false);
        let Some(rate) = rate else { return Ok(()) };
        let former = match allowance {
            Allowance::Usual => &mut used.full_at,
            Allowance::Stops => &mut used.stops_full_at,
        };
        let full_at = (*former).max(now) + MINUTE / rate.get();
        let over = full_at.saturating_duration_since(now + MINUTE);
        if over.is_zero() {
            *former = full_at;
            Ok(())
        } else {
            Err(over)
        }
    }

    /// When that token was used last, as far as this node knows.
    pub fn last(&self, token: Uuid) -> Option<Timestamp> {
        self.lock().get(&token).map(|used| used.at)
    }

    /// What is not written down yet. Whoever is at the full allowance again is forgotten after.
    fn take(&self, now: Instant) -> Vec<(Uuid, Timestamp)> {
        let mut tokens = self.lock();
        tokens.retain(|_, used| !used.is_written || used.full_at.max(used.stops_full_at) > now);
        let unwritten = tokens.iter_mut().filter(|(_, used)| !used.is_written);
        unwritten
            .map(|(token, used)| {
                used.is_written = true;
                (*token, used.at)
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Used>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes down when tokens were used last. What is lost on the way is a time, within a minute.
pub(crate) async fn write_down(app: &App) -> Result<(), DbError> {
    let used = app.usage.take(app.clock.now());
    if used.is_empty() {
        return Ok(());
    }
    let mut tx = app.db.write(Actor::System, app.now()).await?;
    for (token, at) in used {
        sql("UPDATE api_tokens SET last_used_at = $1 WHERE id = $2 \
             AND (last_used_at IS NULL OR last_used_at < $1)")
        .bind(millis(at))
        .bind(token)
        .execute(tx.conn())
        .await?;
    }
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_holds_within_each_minute_and_comes_back_evenly() {
        let (usage, token) = (Usage::default(), Uuid::nil());
        let start = runtime::Clock::system().now();
        let rate = NonZeroU32::new(60);
        let count = |after: u64| {
            let now = start + Duration::from_secs(after);
            let request = (token, Allowance::Usual);
            usage.count(request, rate, (now, Timestamp::from_millis(after)))
        };
        for request in 0..60 {
            assert_eq!(count(0), Ok(()), "request {request}");
        }
        assert_eq!(count(0), Err(Duration::from_secs(1)), "and says when to come again");
        assert_eq!(count(1), Ok(()), "one a second");
        assert!(count(1).is_err());
        let at = (start + Duration::from_secs(1), Timestamp::from_millis(1));
        let others = usage.count((Uuid::max(), Allowance::Usual), rate, at);
        assert_eq!(others, Ok(()), "each token has its own");
        let stops = (0..61).map(|_| usage.count((token, Allowance::Stops), rate, at).is_ok());
        let stops: Vec<bool> = stops.collect();
        assert!(stops[..60].iter().all(|it| *it), "and what stops is counted apart");
        assert!(!stops[60]);
        assert_eq!(usage.last(token), Some(Timestamp::from_millis(1)));
    }

    #[test]
    fn token_without_a_rate_asks_as_often_as_it_likes() {
        let usage = Usage::default();
        let now = (runtime::Clock::system().now(), Timestamp::from_millis(7));
        assert!(
            (0..10_000).all(|_| usage.count((Uuid::nil(), Allowance::Usual), None, now).is_ok())
        );
        assert_eq!(usage.take(now.0), [(Uuid::nil(), now.1)]);
        assert_eq!(usage.take(now.0), [], "written once");
        assert_eq!(usage.last(Uuid::nil()), None, "and forgotten then");
    }
}
