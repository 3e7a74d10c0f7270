//! What goes to the control plane itself, whichever rung stands: escrows.
//!
//! A check-in of their own, at once and again until they are answered. Only here an answer counts as
//! the control plane's own word; it is told apart by whom the connection was made to.

use protocol::frame::{AgentFrame, CHECK_IN_PATH, HubFrame};
use runtime::Backoff;
use runtime::lifecycle::CancellationToken;

use super::Shared;
use super::check_in::TIMEOUT;
use super::exchange::exchange;
use super::rotation::Rotation;
use crate::reconcile::Event;

/// Runs until `stop`.
pub(crate) async fn run(shared: Shared, stop: CancellationToken) {
    let mut frames = shared.direct.clone();
    let mut rotation = Rotation::starting(shared.entropy.next_u64());
    let mut backoff = Backoff::new(shared.config.backoff_base, shared.config.check_in_running);
    loop {
        let waiting = frames.borrow_and_update().clone();
        let pause = if waiting.is_empty() {
            backoff.reset();
            None
        } else {
            let sent = send(&shared, &mut rotation, waiting);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sent => {}
            }
            Some(shared.config.backoff_base + backoff.next(shared.entropy.next_u64()))
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = frames.changed() => if changed.is_err() { return },
            () = super::after(pause) => {}
        }
    }
}

async fn send(shared: &Shared, rotation: &mut Rotation, frames: Vec<AgentFrame>) {
    let api = shared.places.borrow().api.clone();
    let Some(address) = rotation.current(&api) else { return };
    match exchange(shared, (&address, CHECK_IN_PATH), frames, TIMEOUT).await {
        Ok(frames) => {
            for frame in &frames {
                if let HubFrame::Confirmed { receipts } = frame {
                    shared.tell(Event::Stored(receipts.clone())).await;
                }
            }
            shared.dispatch(frames).await;
        }
        Err(error) => {
            rotation.next();
            tracing::warn!(error = super::chain(&error), "control plane took no escrow");
        }
    }
}
