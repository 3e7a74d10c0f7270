//! Long-poll: the rung for when a hub answers, but no WebSocket comes to stand.
//!
//! One request is always open at the hub; frames of our own end it and go with the next.

use std::time::Duration;

use protocol::frame::POLL_PATH;
use runtime::Backoff;

use super::Shared;
use super::exchange::{ExchangeError, Outgoing, exchange};
use super::hubs::Hubs;
use crate::status::Rung;

/// What a request may take beyond the hold.
const MARGIN: Duration = Duration::from_secs(10);
/// A hub that answers faster with nothing is asked no faster than this.
const PAUSE: Duration = Duration::from_secs(1);

/// Polls until as many requests in a row failed as `attempts` says.
pub(super) async fn run(shared: &Shared, hubs: &mut Hubs) -> ExchangeError {
    let config = &shared.config;
    let (_keep, frames) = shared.link().await;
    let mut outgoing = Outgoing::new(frames);
    let mut backoff = Backoff::new(config.backoff_base, config.backoff_cap);
    loop {
        let known = shared.places.borrow().hubs.clone();
        let began = shared.clock.now();
        let Some(address) = hubs.next(&known, None, began) else {
            return ExchangeError::NoAddress;
        };
        let batch = outgoing.batch();
        let count = batch.len();
        let asking = exchange(shared, (&address, POLL_PATH), batch, config.long_poll_hold + MARGIN);
        let outcome = tokio::select! {
            biased;
            outcome = asking => outcome,
            // What was sent is held, and goes again with the new frames.
            () = outgoing.wanted() => continue,
        };
        match outcome {
            Ok(frames) => {
                backoff.reset();
                outgoing.answered(count);
                shared.stands(Rung::LongPoll, &address, None);
                let is_empty = frames.len() <= 1;
                shared.dispatch(frames).await;
                let took = shared.clock.now().saturating_duration_since(began);
                if is_empty && took < PAUSE.min(config.long_poll_hold) {
                    let pause = PAUSE.min(config.long_poll_hold);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = outgoing.wanted() => {}
                    }
                }
            }
            Err(error) => {
                shared.falls(Rung::LongPoll, &error);
                let now = shared.clock.now();
                hubs.tried(&address, &known, (error.retry_after(), now));
                // A hub that asked to be left alone holds nobody up who can go to another one.
                let next = hubs.next(&known, None, now);
                let left_alone = next.map_or(Duration::ZERO, |next| hubs.wait(&next, now));
                let delay = left_alone + backoff.next(shared.entropy.next_u64());
                if backoff.attempts() >= config.attempts {
                    return error;
                }
                tokio::time::sleep(delay).await;
            }
        }
    }
}
