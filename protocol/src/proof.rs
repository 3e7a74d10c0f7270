//! The proof of a stage: what a device has observed of a command that still goes on.
//!
//! A proof is a JWS (`typ` `tocsin-proof+jws`, ES256). It leaves while the link lives: what comes
//! after it may take the device's own disk away, and its receipt with it. It ends nothing.

use serde::{Deserialize, Serialize};

use crate::action::Verb;
use crate::id::{BootId, CommandId, DeviceId, OrderId};
use crate::jws::{self, CompactJws, JwsError};
use crate::key::{DevicePublicKey, DeviceSigner};
use crate::limits;
use crate::receipt::Evidence;
use crate::time::Timestamp;

#[cfg(test)]
mod tests;

/// The media type of a proof's JWS header.
pub const TYP: &str = "tocsin-proof+jws";

/// What a proof says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// The device that speaks.
    pub iss: DeviceId,
    /// Its enrollment generation.
    pub generation: u32,
    /// The command.
    pub command_id: CommandId,
    /// The order the command belongs to.
    pub order_id: OrderId,
    /// The verb.
    pub verb: Verb,
    /// What was observed.
    pub evidence: Evidence,
    /// When, by the device's clock.
    pub proved_at: Timestamp,
    /// The boot in which it was observed.
    pub boot_id: BootId,
    /// Version of the agent.
    pub agent_version: String,
    /// SHA-256 of the envelope as it was received, base64url: what exactly is answered.
    pub envelope_sha256: String,
}

/// Signs a proof with the device's key.
pub fn sign(proof: &Proof, signer: &DeviceSigner<'_>) -> Result<CompactJws, JwsError> {
    jws::sign(TYP, proof, signer)
}

/// Verifies that a proof was signed by that device's key, and reads it.
///
/// The caller compares `iss` and `generation` with whom it believes to talk to.
pub fn verify(jws: &CompactJws, key: &DevicePublicKey) -> Result<Proof, JwsError> {
    let parsed = jws::parse(jws, TYP, limits::RECEIPT_BYTES)?;
    parsed.verify(key)?;
    parsed.claims()
}
