//! From the outbox to the hubs.
//!
//! Owns the fast way of a committed command. What it does not reach stays queued, for the next
//! hello, check-in or redelivery.

use std::convert::Infallible;

use broker::Downstream;
use protocol::frame::HubFrame;
use protocol::id::CommandId;
use protocol::state::Lane;

use crate::app::App;
use crate::deliver::{self, Look, Reached};
use crate::outbox::Delivery;

/// Delivers one lane until the drain begins. Each lane has a task of its own, so that urgent
/// commands never wait for the broker behind bulk ones.
pub(crate) async fn dispatch(app: App, lane: Lane) -> Result<(), Infallible> {
    loop {
        let batch = tokio::select! {
            biased;
            () = app.drain.soft().cancelled() => return Ok(()),
            batch = app.outbox.next(lane) => batch,
        };
        let Some(batch) = batch else { return Ok(()) };
        let (_, sent) = publish(&app, batch, Look::Guess).await;
        app.sent.note(app.now(), sent);
    }
}

/// Sends commands to the sessions of their devices, and says which were taken.
pub(super) async fn publish(
    app: &App,
    batch: Vec<Delivery>,
    look: Look,
) -> (Reached, Vec<CommandId>) {
    let ids: Vec<_> = batch.iter().map(|part| (part.device, part.frame.command_id)).collect();
    let parts = batch.into_iter().map(|part| Downstream::Deliver {
        device: part.device,
        frames: vec![HubFrame::Command(part.frame)],
    });
    let reached = deliver::to_present(app, parts.collect(), look).await;
    let sent = ids
        .iter()
        .filter(|(device, _)| reached.taken.contains(device))
        .map(|(_, command)| *command)
        .collect();
    (reached, sent)
}
