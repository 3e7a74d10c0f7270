//! From the hub's channel into the sessions' inboxes.
//!
//! Owns reading the channel, always and fast: a subscriber that rests is cut off by the broker.
//! Must not wait for a session, and takes what it reads for hostile.

use std::sync::Arc;

use broker::{Downstream, Subscription};
use protocol::close::CloseCode;
use protocol::frame::{Frame as _, HubFrame};
use protocol::id::DeviceId;
use protocol::state::Lane;
use tokio::sync::mpsc;

use crate::core::Core;

/// Reads subscription after subscription; a new one replaces the one before.
pub(crate) async fn run(core: Arc<Core>, mut subscriptions: mpsc::Receiver<Box<dyn Subscription>>) {
    let Some(mut subscription) = subscriptions.recv().await else { return };
    loop {
        tokio::select! {
            biased;
            next = subscriptions.recv() => match next {
                Some(next) => subscription = next,
                None => return,
            },
            message = subscription.next() => match message {
                Some(message) => handle(&core, message),
                None => {
                    core.link.subscription_ended();
                    let Some(next) = subscriptions.recv().await else { return };
                    subscription = next;
                }
            },
        }
    }
}

fn handle(core: &Core, message: Downstream) {
    match message {
        Downstream::Deliver { device, frames } => deliver(core, device, frames),
        Downstream::Revoke { device, through_generation } => {
            core.revocations.add(device, through_generation);
            let session = core.registry.get(device);
            if let Some(handle) = session.filter(|handle| handle.generation <= through_generation) {
                tracing::info!(
                    device.id = %device,
                    session.id = %handle.session,
                    "session of a revoked device is closed"
                );
                handle.close(CloseCode::Revoked);
            }
        }
        Downstream::Replaced { device, session } => core.registry.replaced(device, session),
    }
}

fn deliver(core: &Core, device: DeviceId, frames: Vec<HubFrame>) {
    let Some(handle) = core.registry.get(device) else {
        core.metrics.absent.increment(1);
        if frames.iter().any(is_urgent) {
            core.owed.note(device, core.clock.now());
        }
        return;
    };
    let frames = frames.into_iter().filter(is_for_agents).inspect(|frame| {
        core.metrics.frame_out(frame);
    });
    if handle.push(frames).is_err() {
        tracing::debug!(device.id = %device, session.id = %handle.session, "inbox is full");
    }
}

fn is_urgent(frame: &HubFrame) -> bool {
    matches!(frame, HubFrame::Command(command) if command.lane == Lane::Urgent)
}

/// What the control plane may say through a hub.
pub(crate) fn is_for_agents(frame: &HubFrame) -> bool {
    let may_pass = match frame {
        HubFrame::Command(_)
        | HubFrame::Confirmed { .. }
        | HubFrame::Trust { .. }
        | HubFrame::Checkpoint { .. }
        | HubFrame::Mode { .. }
        | HubFrame::Reconnect(_) => true,
        HubFrame::Welcome(_) | HubFrame::Unknown => false,
    };
    may_pass && frame.check().is_ok()
}
