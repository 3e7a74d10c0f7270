//! The device key in a TPM 2.0: made there, and used there.
//!
//! Owns the loaded key and coming back to a TPM that went away. What lies on the disk is sealed to that one
//! TPM: a copy of the disk is not the device.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use protocol::key::HardwareKey;
use tpm2_protocol::basic::TpmHandle;
use tpm2_protocol::data::TpmRh;

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

/// What came of clearing a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleared {
    /// Its primary key is another one: what was sealed to it opens no more.
    Anew,
    /// It says that it is done, and its primary key is the same.
    Unchanged,
    /// It wants a password that is not known here, or forbids it.
    NotAuthorized,
}

/// Clears that TPM, where whoever set it up left it without a password for that, and looks whether it is
/// another one then.
///
/// # Errors
/// [`TpmError`] when it does something else than answer.
pub fn clear(tpm: &Path) -> Result<Cleared, TpmError> {
    let mut link = Link::open(tpm)?;
    // Who has taken the owner's password away from us did not take the right to clear.
    let before = link.fingerprint();
    // The second is for firmware, which closes it before any system starts; few forget to.
    let cleared = link.clear(TpmRh::Lockout).or_else(|_| link.clear(TpmRh::Platform));
    match cleared {
        Err(error) if error.is_about_authority() => return Ok(Cleared::NotAuthorized),
        Err(error) => return Err(error),
        Ok(()) => {}
    }
    let after = link.fingerprint()?;
    let is_same = before.is_ok_and(|before| before == after);
    Ok(if is_same { Cleared::Unchanged } else { Cleared::Anew })
}

/// Signatures that may wait for the TPM.
const WAITING: usize = 16;
/// How long a signature may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A signing key in a TPM. A thread of its own speaks with the TPM, so that one that hangs keeps nobody for
/// longer than [`PATIENCE`].
pub(super) struct TpmKey {
    point: [u8; 65],
    asked: SyncSender<Asked>,
}

/// A digest to be signed, and where the signature goes.
struct Asked {
    digest: Vec<u8>,
    answer: SyncSender<Result<[u8; 64], TpmError>>,
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
        let mut loaded = Some(Loaded::open(tpm, &sealed)?);
        let tpm = tpm.to_owned();
        let (asked, questions) = sync_channel::<Asked>(WAITING);
        let answering = move || {
            while let Ok(Asked { digest, answer }) = questions.recv() {
                // Whoever asked may have given up.
                let _ = answer.try_send(sign(&mut loaded, (&tpm, &sealed), &digest));
            }
        };
        thread::Builder::new().name("tpm".to_owned()).spawn(answering)?;
        Ok(Self { point, asked })
    }

    fn ask(&self, message: &[u8]) -> Result<[u8; 64], TpmError> {
        let (answer, answered) = sync_channel(1);
        let digest = digest(&SHA256, message).as_ref().to_vec();
        let late = || TpmError::Link(ErrorKind::TimedOut.into());
        self.asked.try_send(Asked { digest, answer }).map_err(|_| late())?;
        answered.recv_timeout(PATIENCE).map_err(|_| late())?
    }
}

/// Signs; with a key that is loaded anew when the TPM was away.
fn sign(
    loaded: &mut Option<Loaded>,
    (tpm, sealed): (&Path, &Sealed),
    digest: &[u8],
) -> Result<[u8; 64], TpmError> {
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
    let mut anew = Loaded::open(tpm, sealed)?;
    let signature = anew.link.sign(anew.key, digest)?;
    *loaded = Some(anew);
    Ok(signature)
}

impl HardwareKey for TpmKey {
    fn point(&self) -> &[u8] {
        &self.point
    }

    fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        let signed = self.ask(message);
        signed
            .inspect_err(|error| {
                tracing::error!(error = error as &dyn std::error::Error, "tpm does not sign");
            })
            .ok()
    }
}
