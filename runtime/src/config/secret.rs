//! A secret in a configuration: given in place, or as the name of where it is kept.
//!
//! Owns redaction and resolving. The source is read when the secret is needed, not when the
//! configuration is parsed, so that a sample can be checked on a machine without its secrets.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::files::{FileError, read_bounded};

/// The largest secret that is read from a file, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// A secret or a reference to one: plain text, `file:/path`, or `credential:name`, which is a
/// file in the folder that systemd passes in `$CREDENTIALS_DIRECTORY`. Debug shows references
/// but never plain text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Source);

#[derive(Clone, PartialEq, Eq)]
enum Source {
    Inline(Zeroizing<String>),
    File(PathBuf),
    Credential(String),
}

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error("secret unavailable")]
    File(#[from] FileError),
    /// The file is not UTF-8 text.
    #[error("secret in {} is not utf-8 text", .0.display())]
    NotText(PathBuf),
    /// The secret is empty.
    #[error("secret is empty")]
    Empty,
    /// The name of a credential has to be a plain file name.
    #[error("credential name {0:?} is not a plain file name")]
    CredentialName(String),
    /// The process was started without credentials.
    #[error("credential {0} wanted, but CREDENTIALS_DIRECTORY is not set")]
    NoCredentials(String),
}

impl Secret {
    /// A secret given in place.
    #[must_use]
    pub fn inline(text: impl Into<String>) -> Self {
        Self(Source::Inline(Zeroizing::new(text.into())))
    }

    /// The secret itself; one line end at the end of a file is not part of it.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn read(&self) -> Result<Zeroizing<String>, SecretError> {
        self.read_with(std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new))
    }

    /// As [`read`](Self::read), with the folder of the credentials given.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn read_with(&self, credentials: Option<&Path>) -> Result<Zeroizing<String>, SecretError> {
        let text = match &self.0 {
            Source::Inline(text) => text.clone(),
            Source::File(path) => read_text(path)?,
            Source::Credential(name) => {
                if name.is_empty() || name.contains('/') || name.starts_with('.') {
                    return Err(SecretError::CredentialName(name.clone()));
                }
                let folder = credentials.ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                read_text(&folder.join(name))?
            }
        };
        if text.is_empty() { Err(SecretError::Empty) } else { Ok(text) }
    }
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, SecretError> {
    let bytes = Zeroizing::new(read_bounded(path, MAX_BYTES)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretError::NotText(path.to_owned()))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(if let Some(path) = text.strip_prefix("file:") {
            Source::File(PathBuf::from(path))
        } else if let Some(name) = text.strip_prefix("credential:") {
            Source::Credential(name.to_owned())
        } else {
            Source::Inline(Zeroizing::new(text.to_owned()))
        }))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let Ok(secret) = text.parse::<Self>();
        Ok(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Inline(_) => out.write_str("Secret(redacted)"),
            Source::File(path) => write!(out, "Secret(file:{})", path.display()),
            Source::Credential(name) => write!(out, "Secret(credential:{name})"),
        }
    }
}
