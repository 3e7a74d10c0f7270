//! Check-in with the control plane: the last rung, and the slow second look under a session.

use std::time::{Duration, Instant};

use protocol::frame::CHECK_IN_PATH;
use runtime::Backoff;
use tokio::sync::Notify;

use super::Shared;
use super::exchange::{Outgoing, exchange};
use super::rotation::Rotation;
use crate::status::Rung;

/// What a check-in may take, once connected.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// Checks in at the pace of the last rung, and carries the core's frames; never ends. `pace` is
/// the interval while nothing runs. Each success notifies `reached`.
pub(super) async fn carry(
    shared: &Shared,
    rotation: &mut Rotation,
    pace: Duration,
    reached: &Notify,
) {
    let (_keep, frames) = shared.link().await;
    let mut outgoing = Outgoing::new(frames);
    let mut core = shared.core.clone();
    let mut backoff = Backoff::new(shared.config.backoff_base, pace);
    loop {
        let batch = outgoing.batch();
        let count = batch.len();
        let outcome = once(shared, rotation, batch).await;
        let began = shared.clock.now();
        if outcome {
            outgoing.answered(count);
            backoff.reset();
            reached.notify_one();
            let (idle, busy) = (shared.jittered(pace), shared.config.check_in_running.min(pace));
            let busy = shared.jittered(busy);
            loop {
                let is_busy = !core.borrow_and_update().running.is_empty();
                let due = began + if is_busy { busy } else { idle };
                tokio::select! {
                    biased;
                    () = outgoing.wanted() => break,
                    () = until(shared, due) => break,
                    changed = core.changed() => if changed.is_err() { return },
                }
            }
        } else {
            tokio::time::sleep(backoff.next(shared.entropy.next_u64())).await;
        }
    }
}

/// Looks for what a healthy session may have missed, at long intervals; never ends.
pub(super) async fn look(shared: &Shared, rotation: &mut Rotation, pace: Duration) {
    loop {
        tokio::time::sleep(shared.jittered(pace)).await;
        let api = shared.places.borrow().api.clone();
        let Some(address) = rotation.current(&api) else { continue };
        match exchange(shared, (&address, CHECK_IN_PATH), Vec::new(), TIMEOUT).await {
            Ok(frames) => shared.dispatch(frames).await,
            Err(error) => {
                rotation.next();
                tracing::debug!(error = super::chain(&error), "slow check-in failed");
            }
        }
    }
}

async fn once(
    shared: &Shared,
    rotation: &mut Rotation,
    batch: Vec<protocol::frame::AgentFrame>,
) -> bool {
    let api = shared.places.borrow().api.clone();
    let Some(address) = rotation.current(&api) else { return false };
    match exchange(shared, (&address, CHECK_IN_PATH), batch, TIMEOUT).await {
        Ok(frames) => {
            shared.stands(Rung::CheckIn, &address, None);
            shared.dispatch(frames).await;
            true
        }
        Err(error) => {
            rotation.next();
            shared.falls(Rung::CheckIn, &error);
            false
        }
    }
}

async fn until(shared: &Shared, due: Instant) {
    tokio::time::sleep(due.saturating_duration_since(shared.clock.now())).await;
}
