//! PEM files of certificates and keys (RFC 7468).
//!
//! Owns reading and writing them; must not judge what is in them. Keys are written for their
//! owner only, and durably.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::Identity;
use crate::files::{FileError, PRIVATE, PUBLIC, read_bounded, write_atomic};

/// The largest PEM file that is read, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// Why a PEM file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file could not be read or written.
    #[error("pem file unavailable")]
    File(#[from] FileError),
    /// The file is not PEM, or its private key is missing.
    #[error("{} is not the expected pem", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: pem::Error,
    },
    /// The file is PEM but holds no certificate.
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
}

/// Every certificate of a file, in its order; at least one.
///
/// # Errors
/// See [`PemError`].
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let bytes = read_bounded(path, MAX_BYTES)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| PemError::Malformed { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(PemError::NoCertificate(path.to_owned()));
    }
    Ok(certificates)
}

/// An identity from a chain file (leaf first) and a key file (PKCS#8, SEC1 or PKCS#1).
///
/// # Errors
/// See [`PemError`].
pub fn read_identity(chain: &Path, key: &Path) -> Result<Identity, PemError> {
    let bytes = Zeroizing::new(read_bounded(key, MAX_BYTES)?);
    let parsed = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|source| PemError::Malformed { path: key.to_owned(), source })?;
    Ok(Identity { chain: read_certificates(chain)?, key: parsed })
}

/// Writes certificates, readable by everybody, atomically and durably.
///
/// # Errors
/// [`PemError::File`].
pub fn write_certificates(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), PemError> {
    let text: String = chain.iter().map(|der| encode("CERTIFICATE", der)).collect();
    Ok(write_atomic(path, text.as_bytes(), PUBLIC)?)
}

/// Writes a private key with mode 0600, atomically and durably.
///
/// # Errors
/// [`PemError::File`].
pub fn write_key(path: &Path, key: &PrivateKeyDer<'_>) -> Result<(), PemError> {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        // The enum is foreign and open; every form added since PKCS#8 is wrapped in it.
        PrivateKeyDer::Pkcs8(_) | _ => "PRIVATE KEY",
    };
    let text = Zeroizing::new(encode(label, key.secret_der()));
    Ok(write_atomic(path, text.as_bytes(), PRIVATE)?)
}

fn encode(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in body.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
