//! `GET /v1/commands`

use axum::Json;
use axum::extract::State;
use protocol::action::Verb;
use protocol::id::{CommandId, DeviceId, OrderId};
use protocol::state::CommandState;
use serde::Deserialize;

use super::store;
use super::wire::CommandView;
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::http::problem::ProblemBody;
use crate::http::{PageQuery, Paged, Problem, Query};

/// Which commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CommandQuery {
    /// Only those that stand there.
    #[param(value_type = Option<String>)]
    pub(super) state: Option<CommandState>,
    /// Only those of this device.
    #[param(value_type = Option<String>)]
    pub(super) device: Option<DeviceId>,
    /// Only those of this order.
    #[param(value_type = Option<String>)]
    pub(super) order: Option<OrderId>,
    /// Only those of this verb.
    #[param(value_type = Option<String>)]
    pub(super) verb: Option<Verb>,
}

/// Lists commands, oldest first, of the devices within reach.
#[utoipa::path(get, path = "/v1/commands", tag = "commands", params(PageQuery, CommandQuery),
    security(("token" = ["read"])),
    responses((status = 200, body = Paged<CommandView>), (status = "4XX", body = ProblemBody)))]
pub(super) async fn list(
    State(app): State<App>,
    principal: Principal,
    Query(page): Query<PageQuery>,
    Query(query): Query<CommandQuery>,
) -> Result<Json<Paged<CommandView>>, Problem> {
    let permit: Permit<ability::Read> = principal.permit()?;
    let page = page.page::<CommandId>()?;
    let mut conn = app.db.read().await?;
    let items = store::list(&mut conn, permit.reach(), &page, &query, app.now()).await?;
    Ok(Json(page.cut(items, |command| command.id.to_string())))
}
