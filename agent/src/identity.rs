//! Who this device is: its key, its certificate, and the TLS client that shows it.
//!
//! Owns making the key and the certificate request. The private key is made here, is written for
//! its owner alone, and leaves neither this machine nor this module.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::escrow::{self, Escrow};
use protocol::id::DeviceId;
use protocol::jws::{CompactJws, JwsError};
use protocol::key::{DeviceKey, DevicePublicKey, KeyError};
use protocol::notice::{self, Notice};
use protocol::proof::{self, Proof};
use protocol::receipt::{self, Receipt};
use protocol::time::Timestamp;
use runtime::files::{FileError, PRIVATE, read_bounded, write_atomic};
use runtime::tls::pki_types::pem::{Error as PemError, PemObject as _};
use runtime::tls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use runtime::tls::{self, TlsError};
use rustls::ClientConfig;
use zeroize::Zeroizing;

mod der;
#[cfg(test)]
mod tests;

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

/// The device's key with its PKCS#8 document.
#[derive(Clone)]
pub struct KeyPair {
    pkcs8: Arc<Zeroizing<Vec<u8>>>,
    key: Arc<DeviceKey>,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}

impl KeyPair {
    /// The key in that file; made and written first when there is none.
    ///
    /// # Errors
    /// [`IdentityError`], never for a file that is simply not there.
    pub fn load_or_make(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::File(error)) if error.is_not_found() => {
                let made = EcdsaKeyPair::generate_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    &SystemRandom::new(),
                )
                .map_err(|_| IdentityError::Making)?;
                write_atomic(path, made.as_ref(), PRIVATE)?;
                Self::load(path)
            }
            known => known,
        }
    }

    /// The key in that file (PKCS#8, DER).
    ///
    /// # Errors
    /// [`IdentityError::File`] or [`IdentityError::Key`].
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let pkcs8 = Zeroizing::new(read_bounded(path, KEY_BYTES)?);
        let key = Arc::new(DeviceKey::from_pkcs8(&pkcs8)?);
        Ok(Self { pkcs8: Arc::new(pkcs8), key })
    }

    /// Its public half.
    pub fn public(&self) -> DevicePublicKey {
        self.key.public()
    }

    /// A certificate request for this key (PKCS#10, PEM).
    ///
    /// # Errors
    /// [`IdentityError::Making`] when the key cannot sign.
    pub fn certificate_request(&self) -> Result<String, IdentityError> {
        let der = der::certificate_request(&self.pkcs8).ok_or(IdentityError::Making)?;
        Ok(pem("CERTIFICATE REQUEST", &der))
    }

    /// Signs a receipt.
    ///
    /// # Errors
    /// [`JwsError`].
    pub fn sign(&self, receipt: &Receipt) -> Result<CompactJws, JwsError> {
        receipt::sign(receipt, &self.key.signer(&SystemRandom::new()))
    }

    /// The signed form of a notice.
    ///
    /// # Errors
    /// [`JwsError::Signing`] when the key does not sign.
    pub fn sign_notice(&self, said: &Notice) -> Result<CompactJws, JwsError> {
        notice::sign(said, &self.key.signer(&SystemRandom::new()))
    }

    /// Signs a proof.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign_proof(&self, proof: &Proof) -> Result<CompactJws, JwsError> {
        proof::sign(proof, &self.key.signer(&SystemRandom::new()))
    }

    /// Signs an escrow.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign_escrow(&self, escrow: &Escrow) -> Result<CompactJws, JwsError> {
        escrow::sign(escrow, &self.key.signer(&SystemRandom::new()))
    }
}

/// The device as hubs and control plane know it.
#[derive(Clone)]
pub struct Identity {
    /// The device.
    pub device_id: DeviceId,
    /// Its enrollment generation.
    pub generation: u32,
    /// When its certificate begins.
    pub not_before: Timestamp,
    /// When its certificate ends.
    pub not_after: Timestamp,
    /// The TLS client that shows the certificate. Resumption is on.
    pub tls: Arc<ClientConfig>,
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
    /// The identity that key, chain (PEM, leaf first) and authorities (PEM) make.
    ///
    /// # Errors
    /// [`IdentityError`] when they do not fit together.
    pub fn new(
        (device_id, generation): (DeviceId, u32),
        key: &KeyPair,
        chain_pem: &str,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Self, IdentityError> {
        let chain = certificates(chain_pem)?;
        let leaf = chain.first().ok_or(IdentityError::Validity)?;
        let (not_before, not_after) = der::validity(leaf).ok_or(IdentityError::Validity)?;
        let pkcs8 = PrivatePkcs8KeyDer::from(key.pkcs8.to_vec());
        let identity = tls::Identity { chain, key: PrivateKeyDer::Pkcs8(pkcs8) };
        let tls = tls::client_config(authorities, Some(&identity), &[b"http/1.1"])?;
        Ok(Self { device_id, generation, not_before, not_after, tls: Arc::new(tls) })
    }

    /// When to renew: at two thirds of the certificate's life.
    pub fn renew_at(&self) -> Timestamp {
        self.not_before.plus(self.not_after.since(self.not_before) * 2 / 3)
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
