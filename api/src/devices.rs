//! Devices: what is known of them, and their groups.
//!
//! Owns the projection of what enrollment and hellos said. Facts come from the device and are
//! hostile: typed, capped and without hidden characters. Whether a device is online is the
//! broker's to say and never stored.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use broker::Presence;
use protocol::id::{DeviceId, GroupName, HubId};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::time::Time;

mod authenticate;
mod get;
mod groups;
mod list;
mod store;

pub(crate) use self::authenticate::{authenticate, authenticate_late};
pub use self::groups::SetGroups;
pub use self::list::DeviceQuery;
pub(crate) use self::store::{
    Device, Enrolling, Key, add_to_group, behind_on_trust, cloned, enroll_again, enroll_new,
    enrolled_after, find, find_by_key, groups_of, in_group, keys, record_boot, record_certificate,
    record_clone, record_facts, revoke, revoked_with_certificate, standing_generations, with_ids,
    with_names,
};

/// The capability word of an agent that found an encrypted volume to wipe, and nothing readable beside it.
pub(crate) const ENCRYPTED_VOLUME: &str = "encrypted_volume";

/// The routes.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list::list))
        .routes(routes!(get::get))
        .routes(routes!(groups::set_groups))
}

/// A device as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceView {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: DeviceId,
    /// What it calls itself. Names are not unique.
    pub name: String,
    /// Its groups.
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupName>,
    /// Its enrollment generation.
    pub generation: u32,
    /// Its key, an uncompressed P-256 point as base64url: what its receipts are verified with.
    pub public_key: String,
    /// Since when this enrollment.
    #[schema(value_type = String, format = DateTime)]
    pub enrolled_at: Time,
    /// When it was revoked, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Time>,
    /// Since when two machines are known to hold its identity, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cloned_at: Option<Time>,
    /// Whether it was enrolled as a device that acts on nothing: only orders for simulated devices
    /// reach it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
    /// When its certificate ends.
    #[schema(value_type = String, format = DateTime)]
    pub certificate_expires_at: Time,
    /// Version of the trust root it reported last.
    pub trust_version: u32,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Verbs and words that the agent reported.
    pub capabilities: Vec<String>,
    /// What an incident would show too late: `wipe_not_provable` of a device that has reported no encrypted
    /// volume, or something unencrypted beside it. Its data outlives a wipe of keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub findings: Vec<Finding>,
    /// Since when the agent has been on a lower rung of its ladder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub degraded_since: Option<Time>,
    /// When it was last heard of, within ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen_at: Option<Time>,
    /// Whether it has a session; absent when the broker does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// The hub of its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub hub: Option<HubId>,
}

/// What is wrong with a device before anything is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// A wipe cannot be proven fast: not all of it is encrypted.
    WipeNotProvable,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

impl Finding {
    fn all(device: &Device) -> Vec<Self> {
        let says = |word: &str| device.capabilities.iter().any(|known| known == word);
        // One that was never heard of has said nothing, and a simulated one has nothing to wipe.
        let is_known = device.last_seen_at.is_some() && !device.is_simulated;
        let is_provable = !is_known || says(ENCRYPTED_VOLUME);
        (!is_provable).then_some(Self::WipeNotProvable).into_iter().collect()
    }
}

/// Where devices are; `None` when the broker does not answer.
pub(crate) async fn locate(app: &App, devices: &[DeviceId]) -> Option<Vec<Option<Presence>>> {
    match app.broker.locate(devices).await {
        Ok(places) => Some(places),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "devices were not located");
            None
        }
    }
}

fn view(
    device: Device,
    groups: &mut BTreeMap<DeviceId, Vec<GroupName>>,
    place: Option<Option<Presence>>,
) -> DeviceView {
    DeviceView {
        findings: Finding::all(&device),
        groups: groups.remove(&device.id).unwrap_or_default(),
        id: device.id,
        name: device.name,
        generation: device.generation,
        public_key: BASE64.encode(device.public_key.as_point()),
        enrolled_at: device.enrolled_at.into(),
        revoked_at: device.revoked_at.map(Time),
        cloned_at: device.cloned_at.map(Time),
        simulated: device.is_simulated,
        certificate_expires_at: device.certificate_expires_at.into(),
        trust_version: device.trust_version,
        agent_version: device.agent_version,
        capabilities: device.capabilities,
        degraded_since: device.degraded_since.map(Time),
        last_seen_at: device.last_seen_at.map(Time),
        online: place.as_ref().map(Option::is_some),
        hub: place.flatten().map(|presence| presence.hub),
    }
}
