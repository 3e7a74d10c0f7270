//! `POST /v1/escrows/{id}/read`

use axum::Json;
use axum::extract::State;
use protocol::action::is_printable;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{OpenEscrow, store};
use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Act, Permit, Principal, ability};
use crate::http::problem::ProblemBody;
use crate::http::{Body, Path, Problem};

/// Why an escrow is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadEscrow {
    /// For the audit log: the case, the call, who asked.
    pub reason: String,
}

/// Answers an escrow with what is sealed. Not a `GET`: that it was read is an event, committed
/// before the answer.
#[utoipa::path(post, path = "/v1/escrows/{id}/read", tag = "escrows",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["escrows"])),
    request_body = ReadEscrow,
    responses((status = 200, body = OpenEscrow), (status = "4XX", body = ProblemBody)))]
pub(super) async fn read(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<Uuid>,
    body: Body<ReadEscrow>,
) -> Result<Json<OpenEscrow>, Problem> {
    let permit: Permit<ability::Escrows> = principal.permit()?;
    let reason = body.value.reason;
    if reason.trim().is_empty() || !is_printable(&reason) {
        return Err(Problem::field("/reason", "is empty, too long or has hidden characters"));
    }
    let mut tx = app.db.write(principal.actor(), app.now()).await?;
    principal.step_up((&app, tx.conn()), Act::ReadEscrow).await?;
    let found = store::find(tx.conn(), &permit, id).await?;
    let found = found.ok_or_else(|| Problem::not_found("escrow"))?;
    let payload = json!({
        "reason": reason,
        "command_id": found.escrow.command_id,
        "device_id": found.escrow.device_id,
        "subjects": found.escrow.subjects,
    });
    tx.append(Kind::EscrowRead, id, payload);
    tx.commit().await?;
    Ok(Json(found))
}
