//! The job that keeps the metrics of the cluster.
//!
//! Owns what can be counted cheaply; sessions per hub are in the hubs' own metrics.

use super::{get, store};
use crate::app::App;
use crate::http::Problem;
use crate::jobs::Found;
use crate::metrics;

/// Looks once.
pub(crate) async fn watch(app: App) -> Result<Found, Problem> {
    let waiting = get::waiting(&app).await;
    metrics::broker(waiting.as_ref().copied().ok());
    if waiting.is_ok()
        && let Ok(hubs) = app.broker.hubs().await
    {
        metrics::hubs(hubs.len());
    }
    let mut conn = app.db.read().await?;
    for (age, commands) in store::unacked(&mut conn, app.now()).await? {
        metrics::unacked(age, commands);
    }
    Ok(Found::Nothing)
}
