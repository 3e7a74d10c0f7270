//! The escrow: a credential that a device is about to put into force, sealed to a recovery key.
//!
//! An escrow is a JWS (`typ` `tocsin-escrow+jws`, ES256). It goes to the control plane itself and
//! through no hub, for what follows when it is confirmed takes the former credential away. Nobody
//! on the way reads it: what is sealed opens with the recovery key that the order names.

use serde::{Deserialize, Serialize};

use crate::action::Verb;
use crate::id::{CommandId, DeviceId, OrderId};
use crate::jws::{self, CompactJws, JwsError};
use crate::key::{DevicePublicKey, DeviceSigner};
use crate::limits;
use crate::sealed::{CaseKey, CaseSecret, SealedError};
use crate::time::Timestamp;

#[cfg(test)]
mod tests;

/// The media type of an escrow's JWS header.
pub const TYP: &str = "tocsin-escrow+jws";

/// What an escrow says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escrow {
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
    /// What the credentials open.
    pub subjects: Vec<Subject>,
    /// Whose key opens what is sealed.
    pub recovery_key: CaseKey,
    /// The credentials, sealed.
    pub sealed: String,
    /// When, by the device's clock.
    pub made_at: Timestamp,
    /// SHA-256 of the envelope as it was received, base64url: what exactly is answered.
    pub envelope_sha256: String,
}

/// What a credential opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Subject {
    /// A LUKS volume.
    Volume {
        /// Its UUID, as its header spells it.
        uuid: String,
        /// Where the device has it.
        path: String,
    },
    /// A local account.
    Account {
        /// Its name.
        name: String,
    },
}

/// One credential, in the open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// What it opens.
    pub subject: Subject,
    /// The passphrase or password.
    pub secret: String,
}

/// Seals credentials for that key, about that command. `chance` must be used once and never again.
///
/// # Errors
/// [`SealedError::Key`] when this is no usable key.
pub fn seal(
    credentials: &[Credential],
    (key, command): (&CaseKey, CommandId),
    chance: [u8; 32],
) -> Result<String, SealedError> {
    let bytes = serde_json::to_vec(credentials).map_err(|_| SealedError::Malformed)?;
    key.seal(&bytes, &about(command), chance)
}

/// What was sealed.
///
/// # Errors
/// [`SealedError`].
pub fn open(escrow: &Escrow, secret: &CaseSecret) -> Result<Vec<Credential>, SealedError> {
    let opened = secret.open(&escrow.sealed, &about(escrow.command_id))?;
    serde_json::from_slice(&opened).map_err(|_| SealedError::Malformed)
}

/// Nothing that is sealed for another purpose opens as an escrow, and no escrow as something else.
fn about(command: CommandId) -> Vec<u8> {
    format!("escrow {command}").into_bytes()
}

/// Signs an escrow with the device's key.
pub fn sign(escrow: &Escrow, signer: &DeviceSigner<'_>) -> Result<CompactJws, JwsError> {
    jws::sign(TYP, escrow, signer)
}

/// Verifies that an escrow was signed by that device's key, and reads it.
///
/// The caller compares `iss` and `generation` with whom it believes to talk to.
pub fn verify(jws: &CompactJws, key: &DevicePublicKey) -> Result<Escrow, JwsError> {
    let parsed = jws::parse(jws, TYP, limits::ESCROW_BYTES)?;
    parsed.verify(key)?;
    parsed.claims()
}
