//! The notice: what a device says unasked about a command's effect, signed by the device's own key.
//!
//! A notice is a JWS (`typ` `tocsin-notice+jws`, ES256). It is no outcome: the command that it names
//! keeps its state. It is sent again until it is confirmed, as a receipt is.

use serde::{Deserialize, Serialize};

use crate::id::{BootId, CommandId, DeviceId};
use crate::jws::{self, CompactJws, JwsError};
use crate::key::{DevicePublicKey, DeviceSigner};
use crate::limits;
use crate::time::Timestamp;

/// The media type of a notice's JWS header.
pub const TYP: &str = "tocsin-notice+jws";

/// What a notice says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The device that speaks.
    pub iss: DeviceId,
    /// Its enrollment generation.
    pub generation: u32,
    /// The command whose effect it is about.
    pub command_id: CommandId,
    /// What happened, a word of `a-z` and `_` that each executor documents, such as
    /// `quarantine_flushed`. Readers take words that they do not know.
    pub what: String,
    /// When it was noticed, by the device's clock.
    pub at: Timestamp,
    /// The boot in which it was.
    pub boot_id: BootId,
    /// Version of the agent.
    pub agent_version: String,
}

/// Signs a notice with the device's key.
pub fn sign(notice: &Notice, signer: &DeviceSigner<'_>) -> Result<CompactJws, JwsError> {
    jws::sign(TYP, notice, signer)
}

/// Verifies that a notice was signed by that device's key, and reads it.
///
/// The caller compares `iss` and `generation` with whom it believes to talk to.
pub fn verify(jws: &CompactJws, key: &DevicePublicKey) -> Result<Notice, JwsError> {
    let parsed = jws::parse(jws, TYP, limits::NOTICE_BYTES)?;
    parsed.verify(key)?;
    parsed.claims()
}
