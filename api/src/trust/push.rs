//! Passing a new version on to the devices that have a session now.
//!
//! Owns a best effort: whoever is missed gets the version at its next hello or check-in.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use broker::Downstream;
use protocol::frame::HubFrame;

use crate::app::App;
use crate::db::DbError;
use crate::devices;

use super::frames_after;

/// Sends every present device the versions it is missing.
pub(crate) async fn push_to_present(app: &App) {
    if let Err(error) = try_push(app).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "trust root was not pushed");
    }
}

async fn try_push(app: &App) -> Result<(), DbError> {
    let mut after = None;
    loop {
        let mut conn = app.db.read().await?;
        let behind = devices::behind_on_trust(&mut conn, after).await?;
        let Some(last) = behind.last() else { return Ok(()) };
        after = Some(last.0);
        let mut batch = Vec::with_capacity(behind.len());
        let mut by_version: BTreeMap<u32, Vec<HubFrame>> = BTreeMap::new();
        for (device, version) in behind {
            let frames = match by_version.entry(version) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(frames_after(&mut conn, version).await?),
            };
            batch.push(Downstream::Deliver { device, frames: frames.clone() });
        }
        drop(conn);
        crate::deliver::to_present(app, batch, crate::deliver::Look::Guess).await;
    }
}
