//! Enrollment: how a device gets its identity, keeps it, and loses it.
//!
//! Owns enrollment tokens (single use, minutes, hashed at rest), device certificates and
//! revocation. A new enrollment of a known key is the next generation; whatever was ordered for
//! the former one ends with it.

use std::time::Duration;

use protocol::id::GroupName;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::time::Time;

mod create_token;
mod enroll;
mod evict;
mod renew;
mod revoke;
mod source;
mod store;

pub(crate) use self::evict::evict;
pub use self::source::{Network, NetworkError};

/// How long a token lasts when the request does not say.
pub const DEFAULT_TTL: Duration = Duration::from_secs(15 * 60);
/// How long a token lasts at most.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The routes for operators.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create_token::create)).routes(routes!(revoke::revoke))
}

/// The routes for agents.
pub fn agent_router() -> axum::Router<App> {
    axum::Router::new()
        .route(protocol::enrollment::ENROLL_PATH, axum::routing::post(enroll::enroll))
        .route(protocol::enrollment::RENEW_PATH, axum::routing::post(renew::renew))
}

/// An enrollment token to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnrollmentToken {
    /// The group that the device will be in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub group: Option<GroupName>,
    /// How long it lasts, in seconds; 15 minutes by default, a day at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<u64>,
    /// Networks from which alone it may be used, such as `192.0.2.0/24`: 16 at most. None: from
    /// anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub from: Vec<Network>,
    /// The device acts on nothing, as those of a load test: orders reach it only if they are for
    /// simulated devices, and these reach no other. A device never changes from one to the other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
}

/// An enrollment token that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CreatedEnrollmentToken {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// The text for the device, `tocsin-enroll-1.…`. Shown once: absent when the same request is
    /// repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The group that the device will be in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub group: Option<GroupName>,
    /// Networks from which alone it may be used. None: from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub from: Vec<Network>,
    /// Whether the device will be one that acts on nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Time,
}
