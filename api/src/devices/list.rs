//! `GET /v1/devices`

use axum::Json;
use axum::extract::State;
use protocol::id::{DeviceId, GroupName};
use serde::Deserialize;

use super::{DeviceView, locate, store, view};
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::http::problem::ProblemBody;
use crate::http::{PageQuery, Paged, Problem, Query};

/// Which devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeviceQuery {
    /// Only of this group.
    #[param(value_type = Option<String>)]
    pub group: Option<GroupName>,
    /// Only with exactly this name.
    pub name: Option<String>,
    /// Only with, or only without, a session. A page may then have fewer items than asked for,
    /// and still a `next`.
    pub online: Option<bool>,
}

/// Lists the devices within reach of the token.
#[utoipa::path(get, path = "/v1/devices", tag = "devices", params(PageQuery, DeviceQuery),
    security(("token" = ["read"])),
    responses((status = 200, body = Paged<DeviceView>), (status = "4XX", body = ProblemBody)))]
pub(super) async fn list(
    State(app): State<App>,
    principal: Principal,
    Query(page): Query<PageQuery>,
    Query(query): Query<DeviceQuery>,
) -> Result<Json<Paged<DeviceView>>, Problem> {
    let permit: Permit<ability::Read> = principal.permit()?;
    let page = page.page::<DeviceId>()?;
    let mut conn = app.db.read().await?;
    let devices = store::list(&mut conn, &permit, &page, &query).await?;
    let devices = page.cut(devices, |device| device.id.to_string());
    let ids: Vec<_> = devices.items.iter().map(|device| device.id).collect();
    let mut groups = store::groups_of(&mut conn, &ids).await?;
    drop(conn);
    let mut places = locate(&app, &ids).await.map(Vec::into_iter);
    let mut items = Vec::with_capacity(ids.len());
    for device in devices.items {
        let place = places.as_mut().map(|places| places.next().flatten());
        items.push(view(device, &mut groups, place));
    }
    items.retain(|item| query.online.is_none() || item.online == query.online);
    Ok(Json(Paged { items, next: devices.next }))
}
