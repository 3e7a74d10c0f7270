//! `GET /v1/cluster`

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use broker::{BrokerError, HubLease};
use protocol::id::{DeviceId, SessionId};

use super::{AgeView, BrokerView, ClusterView, HubView, store};
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::db::DbError;
use crate::http::Problem;
use crate::http::problem::ProblemBody;

/// Answers how hubs, broker and deliveries fare. Reads the place of every device, so ask it as a
/// person asks, and watch the metrics instead.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster", security(("token" = ["read"])),
    responses((status = 200, body = ClusterView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn get(
    State(app): State<App>,
    principal: Principal,
) -> Result<Json<ClusterView>, Problem> {
    let _everywhere = principal.permit::<ability::Read>().and_then(Permit::everywhere)?;
    let now = app.now();
    let mut conn = app.db.read().await?;
    let unacked = store::unacked(&mut conn, now).await?;
    drop(conn);
    let waiting = waiting(&app).await;
    let mut places = Places::default();
    let devices = places.fill(&app).await?;
    let hubs = app.broker.hubs().await.ok().filter(|_| !places.is_partial);
    let online = hubs.is_some().then(|| places.sessions.values().sum());
    Ok(Json(ClusterView {
        at: now.into(),
        broker: BrokerView { delivers: waiting.is_ok(), upstream_waiting: waiting.ok() },
        hubs: hubs.map(|hubs| places.by_hub(hubs)),
        devices,
        online,
        unacked: unacked
            .into_iter()
            .map(|(age, commands)| AgeView { age: age.to_owned(), commands })
            .collect(),
    }))
}

/// Whether the bus delivers, and what waits in it.
pub(super) async fn waiting(app: &App) -> Result<u64, BrokerError> {
    app.broker.probe().await?;
    app.broker.upstream_waiting().await
}

/// Sessions by the incarnation of their hub.
#[derive(Default)]
struct Places {
    sessions: BTreeMap<SessionId, u64>,
    /// The broker did not answer for all.
    is_partial: bool,
}

impl Places {
    /// Looks every device up, a batch at a time, and says how many there are.
    async fn fill(&mut self, app: &App) -> Result<u64, DbError> {
        let (mut devices, mut after) = (0, None::<DeviceId>);
        loop {
            let mut conn = app.db.read().await?;
            let some = store::enrolled(&mut conn, after, broker::BATCH).await?;
            drop(conn);
            let Some(last) = some.last() else { return Ok(devices) };
            after = Some(*last);
            devices += u64::try_from(some.len()).unwrap_or(0);
            // What it does not answer once it is not asked again: each time costs a time-out.
            if self.is_partial {
                continue;
            }
            let Ok(places) = app.broker.locate(&some).await else {
                self.is_partial = true;
                continue;
            };
            for place in places.into_iter().flatten() {
                *self.sessions.entry(place.incarnation).or_default() += 1;
            }
        }
    }

    fn by_hub(&self, mut hubs: Vec<HubLease>) -> Vec<HubView> {
        hubs.sort_by(|a, b| a.hub.cmp(&b.hub));
        let view = |HubLease { hub, incarnation }| HubView {
            sessions: self.sessions.get(&incarnation).copied().unwrap_or(0),
            hub,
            incarnation,
        };
        hubs.into_iter().map(view).collect()
    }
}
