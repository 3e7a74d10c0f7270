//! Who this device is: its key, its certificate, and the TLS client that shows it.
//!
//! Owns making the key and the certificate request. The private key is made here or in the TPM, is written for
//! its owner alone where it is in a file, and leaves neither this machine nor this module.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::escrow::{self, Escrow};
use protocol::id::DeviceId;
use protocol::jws::{CompactJws, JwsError, Signer as _};
use protocol::key::{DeviceKey, DevicePublicKey, KeyError};
use protocol::notice::{self, Notice};
use protocol::proof::{self, Proof};
use protocol::receipt::{self, Receipt};
use protocol::time::Timestamp;
use protocol::trust::AuthorityPin;
use runtime::files::{FileError, PRIVATE, read_bounded, write_atomic};
use runtime::tls::pki_types::pem::{Error as PemError, PemObject as _};
use runtime::tls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use runtime::tls::{self, SpkiPin, TlsError};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureAlgorithm, SignatureScheme};
use zeroize::Zeroizing;

use self::tpm::TpmKey;
pub use self::tpm::{Cleared, TpmError, clear as clear_tpm};

mod der;
#[cfg(test)]
mod tests;
mod tpm;

/// The PEM label of a key in a TPM (draft-bottomley-tpm2-keys).
const SEALED: &str = "TSS2 PRIVATE KEY";
/// How the device's key signs a handshake.
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
/// The largest key file that is read, in bytes.
const KEY_BYTES: usize = 4096;

/// Why a key or a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key file could not be read or written.
    #[error("the device key is unavailable")]
    File(#[from] FileError),
    /// The key file holds no P-256 key.
    #[error("the device key is damaged")]
    Key(#[from] KeyError),
    /// There is a key in a file, where only one in the TPM will do.
    #[error(
        "{} is a key in a file, and [key] in agent.toml wants one in the tpm: remove it and enroll with \
         --force, which makes another device", .0.display()
    )]
    InFile(PathBuf),
    /// The key file is of a TPM, and damaged.
    #[error("the device key, which a tpm has sealed, is damaged")]
    Sealed,
    /// The TPM does not do its part.
    #[error(
        "the device key is in the tpm at {}, which does not load it: is it another tpm, was it \
         cleared, or may this user not open it? A key that is lost takes `enroll --force` without \
         the old device.key, and makes another device", path.display()
    )]
    Tpm {
        /// Where it is.
        path: PathBuf,
        /// What it said.
        source: TpmError,
    },
    /// A key was to be made in a TPM only.
    #[error("no key can be made in the tpm at {}; see [key] in agent.toml", path.display())]
    NoTpm {
        /// Where it should be.
        path: PathBuf,
        /// What it said.
        source: TpmError,
    },
    /// The system could not draw a key.
    #[error("no key could be made")]
    Making,
    /// A certificate is not PEM.
    #[error("a certificate is not pem")]
    Pem(#[from] PemError),
    /// A certificate has no validity that can be read.
    #[error("a certificate's validity cannot be read")]
    Validity,
    /// Key, certificate and authorities make no TLS client.
    #[error("no tls client can be made of the device's certificate")]
    Tls(#[from] TlsError),
}

/// Where the key of a new device is made, and where one in a TPM is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPlace {
    /// The TPM: a device, or the socket of one in software.
    pub tpm: PathBuf,
    /// What a new key is kept by.
    pub made: Made,
}

/// What keeps a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// A file.
    File,
    /// The TPM, and nothing else.
    Tpm,
    /// The TPM where there is one that works, else a file.
    TpmOrFile,
}

/// The device's key.
#[derive(Debug, Clone)]
pub struct KeyPair(Arc<DeviceKey>);

impl KeyPair {
    /// The key of that file; made and written first when there is none.
    ///
    /// # Errors
    /// [`IdentityError`], never for a file that is simply not there.
    pub fn load_or_make(path: &Path, place: &KeyPlace) -> Result<Self, IdentityError> {
        match Self::load(path, &place.tpm) {
            Err(IdentityError::File(error)) if error.is_not_found() => {
                write_atomic(path, &place.make()?, PRIVATE)?;
                Self::load(path, &place.tpm)
            }
            Ok(known) if place.made == Made::Tpm && !known.is_in_tpm() => {
                Err(IdentityError::InFile(path.to_owned()))
            }
            known => known,
        }
    }

    /// The key of that file: PKCS#8 (DER), or sealed to that TPM (draft-bottomley-tpm2-keys, PEM).
    ///
    /// # Errors
    /// [`IdentityError::File`], [`IdentityError::Key`], [`IdentityError::Sealed`], or
    /// [`IdentityError::Tpm`].
    pub fn load(path: &Path, tpm: &Path) -> Result<Self, IdentityError> {
        let bytes = Zeroizing::new(read_bounded(path, KEY_BYTES)?);
        let key = match unpem(SEALED, &bytes).map(|der| der::read_sealed_key(&der)) {
            None => DeviceKey::from_pkcs8(&bytes)?,
            Some(None) => return Err(IdentityError::Sealed),
            Some(Some(sealed)) => {
                let failed = |source| IdentityError::Tpm { path: tpm.to_owned(), source };
                DeviceKey::of_hardware(TpmKey::load(tpm, sealed).map_err(failed)?)?
            }
        };
        Ok(Self(Arc::new(key)))
    }

    /// Its public half.
    pub fn public(&self) -> DevicePublicKey {
        self.0.public()
    }

    /// Whether a TPM holds it.
    pub fn is_in_tpm(&self) -> bool {
        self.0.is_of_hardware()
    }

    /// A certificate request for this key (PKCS#10, PEM).
    ///
    /// # Errors
    /// [`IdentityError::Making`] when the key does not sign.
    pub fn certificate_request(&self) -> Result<String, IdentityError> {
        let sign = |info: &[u8]| self.0.signer(&SystemRandom::new()).sign(info).ok();
        let der = der::certificate_request(self.public().as_point(), sign);
        Ok(pem("CERTIFICATE REQUEST", &der.ok_or(IdentityError::Making)?))
    }

    /// Signs a receipt.
    ///
    /// # Errors
    /// [`JwsError`].
    pub fn sign(&self, receipt: &Receipt) -> Result<CompactJws, JwsError> {
        receipt::sign(receipt, &self.0.signer(&SystemRandom::new()))
    }

    /// The signed form of a notice.
    ///
    /// # Errors
    /// [`JwsError::Signing`] when the key does not sign.
    pub fn sign_notice(&self, said: &Notice) -> Result<CompactJws, JwsError> {
        notice::sign(said, &self.0.signer(&SystemRandom::new()))
    }

    /// Signs a proof.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign_proof(&self, proof: &Proof) -> Result<CompactJws, JwsError> {
        proof::sign(proof, &self.0.signer(&SystemRandom::new()))
    }

    /// Signs an escrow.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign_escrow(&self, escrow: &Escrow) -> Result<CompactJws, JwsError> {
        escrow::sign(escrow, &self.0.signer(&SystemRandom::new()))
    }
}

impl KeyPlace {
    /// A file, on a machine whose TPM is not to be touched.
    pub fn file() -> Self {
        Self { tpm: PathBuf::new(), made: Made::File }
    }

    /// Makes a key, and answers what its file holds.
    fn make(&self) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        let sealed = match self.made {
            Made::File => None,
            Made::TpmOrFile if !self.tpm.exists() => None,
            Made::Tpm | Made::TpmOrFile => Some(TpmKey::make(&self.tpm)),
        };
        match sealed {
            Some(Ok(sealed)) => {
                return Ok(Zeroizing::new(pem(SEALED, &der::sealed_key(&sealed)).into_bytes()));
            }
            Some(Err(source)) if self.made == Made::Tpm => {
                return Err(IdentityError::NoTpm { path: self.tpm.clone(), source });
            }
            Some(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "tpm makes no key, so it is made in a file");
            }
            None => {}
        }
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        Ok(Zeroizing::new(made.map_err(|_| IdentityError::Making)?.as_ref().to_vec()))
    }
}

/// The device as hubs and control plane know it.
#[derive(Clone)]
pub struct Identity {
    /// The device.
    pub device_id: DeviceId,
    /// Its enrollment generation.
    pub generation: u32,
    /// Whether its key is in the TPM.
    pub key_in_tpm: bool,
    /// When its certificate begins.
    pub not_before: Timestamp,
    /// When its certificate ends.
    pub not_after: Timestamp,
    /// The pins of the authorities that count alone, if there are any.
    pub pins: Vec<SpkiPin>,
    /// The TLS client that shows the certificate. Resumption is on.
    pub tls: Arc<ClientConfig>,
}

/// The pins of a trust root, as TLS takes them.
pub(crate) fn pins(pinned: &BTreeSet<AuthorityPin>) -> Vec<SpkiPin> {
    pinned.iter().map(|pin| SpkiPin::from_bytes(*pin.as_bytes())).collect()
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("device_id", &self.device_id)
            .field("generation", &self.generation)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity that key and chain (PEM, leaf first) make, with whom it trusts: authorities, and the
    /// pins of those that count alone, if there are any.
    ///
    /// # Errors
    /// [`IdentityError`] when they do not fit together.
    pub fn new(
        (device_id, generation): (DeviceId, u32),
        key: &KeyPair,
        chain_pem: &str,
        trusted: (&[CertificateDer<'static>], &[SpkiPin]),
    ) -> Result<Self, IdentityError> {
        let chain = certificates(chain_pem)?;
        let leaf = chain.first().ok_or(IdentityError::Validity)?;
        let (not_before, not_after) = der::validity(leaf).ok_or(IdentityError::Validity)?;
        let certified = CertifiedKey::new(chain, Arc::new(TlsKey(key.0.clone())));
        let tls = tls::client_config_signing(trusted, certified, &[b"http/1.1"])?;
        let (key_in_tpm, pins, tls) = (key.is_in_tpm(), trusted.1.to_vec(), Arc::new(tls));
        Ok(Self { device_id, generation, key_in_tpm, not_before, not_after, pins, tls })
    }

    /// When to renew: at two thirds of the certificate's life.
    pub fn renew_at(&self) -> Timestamp {
        self.not_before.plus(self.not_after.since(self.not_before) * 2 / 3)
    }
}

/// The device's key, as TLS asks it to sign.
#[derive(Debug)]
struct TlsKey(Arc<DeviceKey>);

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered.contains(&SCHEME).then(|| Box::new(Self(self.0.clone())) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(der::public_key(self.0.public().as_point()).into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl rustls::sign::Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signed = self.0.signer(&SystemRandom::new()).sign(message);
        let signed = signed.map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(der::ecdsa(&signed))
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}

/// The certificates of a PEM text, in its order.
///
/// # Errors
/// [`IdentityError::Pem`].
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?)
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, c) in body.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(c);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

/// The content of a PEM text of that label and nothing else.
fn unpem(label: &str, text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let body = text.strip_prefix(&format!("-----BEGIN {label}-----"))?;
    let body = body.strip_suffix(&format!("-----END {label}-----"))?;
    STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}
