//! The TPM of a device that is wiped: cleared, so that nothing opens any more that was sealed to it.
//!
//! Owns when that happens: after the proof of the keys; and where the device's own key is in the TPM, which signs
//! the receipt, only when the power goes. What is said to a TPM is the part of `identity`.

use super::record::TpmFate;
use crate::host::Host;
use crate::identity::{self, Cleared};

/// What is to become of the TPM, where there is one.
pub(super) fn fate(host: &Host, powers_off: bool) -> Option<TpmFate> {
    host.tpm.there()?;
    Some(match (host.tpm.holds_device_key, powers_off) {
        (false, _) => TpmFate::Pending,
        (true, true) => TpmFate::WithPower,
        (true, false) => TpmFate::KeptForKey,
    })
}

/// Clears it, and answers what that came to.
pub(super) fn clear(host: &Host) -> TpmFate {
    let Some(path) = host.tpm.there() else { return TpmFate::Failed };
    match identity::clear_tpm(path) {
        Ok(Cleared::Anew) => TpmFate::Cleared,
        Ok(Cleared::NotAuthorized) => TpmFate::NotAuthorized,
        Ok(Cleared::Unchanged) => TpmFate::Failed,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "tpm was not cleared");
            TpmFate::Failed
        }
    }
}
