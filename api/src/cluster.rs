//! The cluster: which hubs live, what they hold, whether the bus between delivers, and what waits.
//!
//! Owns a view and nothing stored: leases and presence are the broker's, commands the store's. What
//! the broker does not answer is absent, never zero.

use std::time::Duration;

use protocol::id::HubId;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::time::Time;

mod get;
mod store;
mod watch;

pub(crate) use self::watch::watch;

/// The routes.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get::get))
}

/// How often the metrics of the cluster are brought up to date.
pub(crate) const PERIOD: Duration = Duration::from_secs(5);
/// The ages by which commands without an ack are counted, youngest first; beyond the last is one
/// class more.
const AGES: [(&str, Duration); 4] = [
    ("10s", Duration::from_secs(10)),
    ("1m", Duration::from_secs(60)),
    ("10m", Duration::from_secs(600)),
    ("1h", Duration::from_secs(3600)),
];
/// The class of what is older than all of [`AGES`].
const OLDER: &str = "older";

/// The whole, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ClusterView {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
    /// The bus to the hubs.
    pub broker: BrokerView,
    /// Hubs that hold a lease, by name; absent when the broker does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hubs: Option<Vec<HubView>>,
    /// Devices that are enrolled.
    pub devices: u64,
    /// Those of them with a session; absent when the broker does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<u64>,
    /// Commands that may go out and that no device has on disk, by age; youngest first.
    pub unacked: Vec<AgeView>,
}

/// The bus, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BrokerView {
    /// Whether it delivers. While it does not, devices get their orders by check-in.
    pub delivers: bool,
    /// Messages of hubs that no node has read and committed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_waiting: Option<u64>,
}

/// A hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HubView {
    /// Its name.
    #[schema(value_type = String)]
    pub hub: HubId,
    /// Drawn at its start.
    #[schema(value_type = String, format = "uuid")]
    pub incarnation: protocol::id::SessionId,
    /// Devices with a session there.
    pub sessions: u64,
}

/// Commands of one class of age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgeView {
    /// At most so old: `10s`, `1m`, `10m`, `1h`; `older` is the rest.
    pub age: String,
    /// How many.
    pub commands: u64,
}
