//! `PUT /v1/devices/{id}/groups`

use axum::Json;
use axum::extract::State;
use protocol::id::{DeviceId, GroupName};
use protocol::limits;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{DeviceView, store, view};
use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Permit, Principal, ability};
use crate::http::problem::ProblemBody;
use crate::http::{Body, Path, Problem};

/// The groups that a device is to be in, instead of its present ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetGroups {
    /// The groups.
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupName>,
}

/// Puts a device into exactly these groups.
#[utoipa::path(put, path = "/v1/devices/{id}/groups", tag = "devices",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["devices"])),
    request_body = SetGroups,
    responses((status = 200, body = DeviceView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn set_groups(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<DeviceId>,
    body: Body<SetGroups>,
) -> Result<Json<DeviceView>, Problem> {
    let permit: Permit<ability::Devices> = principal.permit()?;
    let mut groups = body.value.groups;
    groups.sort();
    groups.dedup();
    if groups.len() > limits::LIST_ENTRIES {
        return Err(Problem::field("/groups", "has too many entries"));
    }
    let mut tx = app.db.write(principal.actor(), app.now()).await?;
    let device = store::find(tx.conn(), permit.reach(), id).await?;
    let device = device.ok_or_else(|| Problem::not_found("device"))?;
    let former = store::groups_of(tx.conn(), &[id]).await?.remove(&id).unwrap_or_default();
    // Whoever is bound to groups neither takes a device out of others' nor puts it there.
    for group in groups.iter().filter(|group| !former.contains(group)) {
        permit.demand(std::slice::from_ref(group))?;
    }
    for group in former.iter().filter(|group| !groups.contains(group)) {
        permit.demand(std::slice::from_ref(group))?;
    }
    if former != groups {
        store::set_groups(&mut tx, id, &groups).await?;
        let payload = json!({ "groups": groups, "former": former });
        tx.append(Kind::DeviceGroupsChanged, id, payload);
        tx.commit().await?;
    }
    Ok(Json(view(device, &mut [(id, groups)].into(), None)))
}
