//! The device key in a TPM 2.0: made there, and used there.
//!
//! Owns the loaded key and coming back to a TPM that went away. What lies on the disk is sealed to that one
//! TPM: a copy of the disk is not the device. Signing waits for the TPM, which takes some hundredths of a
//! second.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use protocol::key::HardwareKey;
use tpm2_protocol::basic::TpmHandle;

use self::wire::Link;
pub use self::wire::TpmError;

mod wire;

/// A key as the TPM gives it away: only that TPM reads its private half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sealed {
    /// `TPM2B_PUBLIC`.
    pub(super) public: Vec<u8>,
    /// `TPM2B_PRIVATE`.
    pub(super) private: Vec<u8>,
}

/// A signing key in a TPM.
pub(super) struct TpmKey {
    tpm: PathBuf,
    sealed: Sealed,
    point: [u8; 65],
    loaded: Mutex<Option<Loaded>>,
}

impl fmt::Debug for TpmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TpmKey({})", self.tpm.display())
    }
}

/// A connection on which the key is loaded.
struct Loaded {
    link: Link,
    key: TpmHandle,
}

impl Loaded {
    fn open(tpm: &Path, sealed: &Sealed) -> Result<Self, TpmError> {
        let mut link = Link::open(tpm)?;
        let primary = link.primary()?;
        let key = link.load(primary, sealed);
        // It takes one of the few places that a TPM has.
        link.flush(primary)?;
        Ok(Self { key: key?, link })
    }
}

impl Drop for Loaded {
    /// The kernel does so by itself, a TPM without it between does not: its few places would be full.
    fn drop(&mut self) {
        let _ = self.link.flush(self.key);
    }
}

impl TpmKey {
    /// Makes a key in that TPM: a device, or the socket of one in software.
    ///
    /// # Errors
    /// [`TpmError`]. Nothing is left in the TPM, then or later.
    pub(super) fn make(tpm: &Path) -> Result<Sealed, TpmError> {
        let mut link = Link::open(tpm)?;
        let primary = link.primary()?;
        let made = link.create(primary);
        link.flush(primary)?;
        made
    }

    /// The key that [`TpmKey::make`] made there.
    ///
    /// # Errors
    /// [`TpmError`], also when it is sealed to another TPM.
    pub(super) fn load(tpm: &Path, sealed: Sealed) -> Result<Self, TpmError> {
        let point = wire::point(&sealed)?;
        let loaded = Loaded::open(tpm, &sealed)?;
        Ok(Self { tpm: tpm.to_owned(), sealed, point, loaded: Mutex::new(Some(loaded)) })
    }

    fn try_sign(&self, digest: &[u8]) -> Result<[u8; 64], TpmError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out, so that a connection that failed is not used again.
        if let Some(mut former) = loaded.take() {
            match former.link.sign(former.key, digest) {
                Ok(signature) => {
                    *loaded = Some(former);
                    return Ok(signature);
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "tpm lost the key");
                }
            }
        }
        let mut anew = Loaded::open(&self.tpm, &self.sealed)?;
        let signature = anew.link.sign(anew.key, digest)?;
        *loaded = Some(anew);
        Ok(signature)
    }
}

impl HardwareKey for TpmKey {
    fn point(&self) -> &[u8] {
        &self.point
    }

    fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        let signed = self.try_sign(digest(&SHA256, message).as_ref());
        signed
            .inspect_err(|error| {
                tracing::error!(error = error as &dyn std::error::Error, "tpm does not sign");
            })
            .ok()
    }
}
