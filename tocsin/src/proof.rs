//! What a receipt proves, judged on this machine.
//!
//! Owns the comparison of a command with its device's signature. The control plane is not
//! believed: it could show any state, but it cannot sign for a device.

use api::commands::wire::CommandView;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use protocol::jws::JwsError;
use protocol::key::{DevicePublicKey, KeyError};
use protocol::proof;
use protocol::receipt::{self, Receipt};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Everything needed to judge a command without a control plane; what `proof --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// The command as the control plane tells it.
    pub command: CommandView,
    /// Its device's key, an uncompressed P-256 point as base64url.
    pub public_key: String,
}

/// Why a receipt does not prove what is said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// There is none.
    #[error("there is no receipt")]
    NoReceipt,
    /// The key is not usable.
    #[error("the device's key is not usable")]
    Key(#[from] KeyError),
    /// The key is not base64url.
    #[error("the device's key is not base64url")]
    Encoding,
    /// The signature does not verify.
    #[error("the receipt is not signed by the device: {0}")]
    Signature(#[from] JwsError),
    /// The receipt is genuine and speaks of something else.
    #[error("the receipt is genuine but names another {0}")]
    Other(&'static str),
}

impl Proof {
    /// What the device's receipt says, if the device signed it and it is about this command.
    pub fn verify(&self) -> Result<Receipt, ProofError> {
        let command = &self.command;
        let jws = command.receipt.as_ref().ok_or(ProofError::NoReceipt)?;
        let receipt = receipt::verify(jws, &self.key()?)?;
        ensure(receipt.iss == command.device_id, "device")?;
        ensure(receipt.generation == command.generation, "enrollment")?;
        ensure(receipt.command_id == command.id, "command")?;
        ensure(receipt.order_id.is_none_or(|order| order == command.order_id), "order")?;
        ensure(receipt.verb.is_none_or(|verb| verb == command.verb), "verb")?;
        ensure(receipt.outcome.state() == command.state, "outcome")?;
        let told = command.outcome.as_ref();
        ensure(told.is_none_or(|told| *told == receipt.outcome), "evidence")?;
        Ok(receipt)
    }

    /// What the device proved before the end, if the device signed it and it is about this
    /// command.
    pub fn verify_first(&self) -> Result<proof::Proof, ProofError> {
        let command = &self.command;
        let jws = command.proof.as_ref().ok_or(ProofError::NoReceipt)?;
        let proof = proof::verify(jws, &self.key()?)?;
        ensure(proof.iss == command.device_id, "device")?;
        ensure(proof.generation == command.generation, "enrollment")?;
        ensure(proof.command_id == command.id, "command")?;
        ensure(proof.order_id == command.order_id, "order")?;
        ensure(proof.verb == command.verb, "verb")?;
        Ok(proof)
    }

    fn key(&self) -> Result<DevicePublicKey, ProofError> {
        let point = BASE64.decode(&self.public_key).map_err(|_| ProofError::Encoding)?;
        Ok(DevicePublicKey::from_point(&point)?)
    }
}

fn ensure(holds: bool, what: &'static str) -> Result<(), ProofError> {
    if holds { Ok(()) } else { Err(ProofError::Other(what)) }
}
