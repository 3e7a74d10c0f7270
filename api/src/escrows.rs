//! Escrows: the sealed credentials of devices, kept for whoever holds the recovery key.
//!
//! Owns the table and who reads it. Nothing of it is ever shown beside a command, and each reading of
//! what is sealed has a reason and an event. Opening it is nobody's here: the recovery key is the
//! organisation's, and lies with people. Nothing is ever deleted: which key a header on some disk
//! takes may be any of its past.

use protocol::escrow::{Escrow, Subject};
use protocol::id::{CommandId, DeviceId};
use protocol::jws::CompactJws;
use protocol::receipt::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::audit::{Actor, Kind};
use crate::db::{DbError, Tx};
use crate::time::Time;

mod list;
mod read;
mod store;

pub use self::read::ReadEscrow;

/// Different escrows of one command: a device whose state went back makes another one.
const OF_A_COMMAND: i64 = 4;
/// The stage at which a device fails that took back what was not escrowed.
const TAKEN_BACK: &str = "escrow";

/// The routes.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list::list)).routes(routes!(read::read))
}

/// How it stands with a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EscrowState {
    /// It is held; the device has not said whether it is in force. It may be.
    Held,
    /// The device signed that it is in force, and the former one gone.
    InForce,
    /// It was in force; another one for the same took its place.
    Superseded,
    /// The device signed that it took it back. It opens nothing.
    Withdrawn,
}

impl EscrowState {
    const ALL: [Self; 4] = [Self::Held, Self::InForce, Self::Superseded, Self::Withdrawn];

    /// The state as the store spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::InForce => "in_force",
            Self::Superseded => "superseded",
            Self::Withdrawn => "withdrawn",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// An escrow, without what is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EscrowView {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// The command by which the credential was made.
    #[schema(value_type = String, format = "uuid")]
    pub command_id: CommandId,
    /// Whose it is.
    #[schema(value_type = String, format = "uuid")]
    pub device_id: DeviceId,
    /// The name of that device.
    pub device_name: String,
    /// The device's enrollment generation.
    pub generation: u32,
    /// What it opens.
    #[schema(value_type = Vec<Object>)]
    pub subjects: Vec<Subject>,
    /// Whose key opens what is sealed.
    pub recovery_key: String,
    /// How it stands.
    pub state: EscrowState,
    /// Since when it is held.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Time,
}

/// An escrow with what is sealed, as the device signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OpenEscrow {
    /// The escrow.
    pub escrow: EscrowView,
    /// What the device signed: `tocsin-escrow+jws`.
    #[schema(value_type = String)]
    pub jws: CompactJws,
}

/// Keeps an escrow that verified. Whether the store holds it by the commit.
pub(crate) async fn keep(
    app: &App,
    tx: &mut Tx,
    escrow: &Escrow,
    jws: &CompactJws,
) -> Result<bool, DbError> {
    let sealed_sha256 = store::name_of(&escrow.sealed);
    if store::is_held(tx, escrow.command_id, &sealed_sha256).await? {
        return Ok(true);
    }
    if store::count(tx, escrow.command_id).await? >= OF_A_COMMAND {
        return Ok(false);
    }
    let id = app.uuid(tx.now());
    store::insert(tx, id, (escrow, jws), &sealed_sha256).await?;
    let payload = json!({
        "command_id": escrow.command_id,
        "device_id": escrow.iss,
        "subjects": escrow.subjects,
        "recovery_key": escrow.recovery_key,
        "sealed_sha256": sealed_sha256,
    });
    tx.append_by(Actor::Device(escrow.iss), Kind::EscrowKept, id, payload);
    Ok(true)
}

/// What a receipt says of the escrow of its command. Most speak of none.
pub(crate) async fn settle(
    tx: &mut Tx,
    command: CommandId,
    outcome: &Outcome,
) -> Result<(), DbError> {
    match outcome {
        Outcome::Succeeded { evidence } => {
            let sealed = evidence.get("sealed_sha256").and_then(|name| name.as_str());
            let Some(sealed) = sealed else { return Ok(()) };
            store::supersede(tx, command, sealed).await?;
            store::settle(tx, command, Some(sealed), EscrowState::InForce).await
        }
        Outcome::Failed { failure, .. } if failure.stage == TAKEN_BACK => {
            store::settle(tx, command, None, EscrowState::Withdrawn).await
        }
        // What failed elsewhere, or is in doubt, may be in force.
        Outcome::Failed { .. } | Outcome::Refused { .. } | Outcome::InDoubt { .. } => Ok(()),
    }
}
