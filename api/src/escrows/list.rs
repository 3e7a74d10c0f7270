//! `GET /v1/escrows`

use axum::Json;
use axum::extract::State;
use protocol::id::{CommandId, DeviceId};
use serde::Deserialize;
use uuid::Uuid;

use super::{EscrowView, store};
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::http::problem::ProblemBody;
use crate::http::{PageQuery, Paged, Problem, Query};

/// Which escrows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EscrowQuery {
    /// Only those of this device.
    #[param(value_type = Option<String>)]
    pub(super) device: Option<DeviceId>,
    /// Only those of this command.
    #[param(value_type = Option<String>)]
    pub(super) command: Option<CommandId>,
}

/// Lists escrows, oldest first, of the devices within reach: what there is, and nothing of what is
/// sealed.
#[utoipa::path(get, path = "/v1/escrows", tag = "escrows", params(PageQuery, EscrowQuery),
    security(("token" = ["escrows"])),
    responses((status = 200, body = Paged<EscrowView>), (status = "4XX", body = ProblemBody)))]
pub(super) async fn list(
    State(app): State<App>,
    principal: Principal,
    Query(page): Query<PageQuery>,
    Query(query): Query<EscrowQuery>,
) -> Result<Json<Paged<EscrowView>>, Problem> {
    let permit: Permit<ability::Escrows> = principal.permit()?;
    let page = page.page::<Uuid>()?;
    let mut conn = app.db.read().await?;
    let items = store::list(&mut conn, &permit, &page, &query).await?;
    Ok(Json(page.cut(items, |escrow| escrow.id.to_string())))
}
