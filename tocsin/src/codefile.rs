//! What an operator keeps to make the offline codes of one order: its secret, sealed with a passphrase.
//!
//! Owns the form of the file: TOML with the order and its devices in the clear, so that whoever is
//! called finds the right file, and the secret sealed (`sealing`). It is written before the order
//! is given, and says of which order it is once that was accepted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::action::Verb;
use protocol::id::{DeviceId, OrderId};
use protocol::offline::OfflineSecret;
use runtime::Entropy;
use runtime::files::{self, FileError};
use serde::{Deserialize, Serialize};

use crate::sealing::{self, Cost, SealError, Sealed};

#[cfg(test)]
mod tests;

/// Bytes of the largest file that is read.
const MAX_BYTES: usize = 64 * 1024;
/// First line of every file.
const HEADER: &str =
    "# Offline codes of one Tocsin order. Whoever has this and its passphrase ends the order.\n";

/// Why a file of offline codes is not usable.
#[derive(Debug, thiserror::Error)]
pub enum CodeFileError {
    /// It cannot be read or written.
    #[error("the file of offline codes is not usable")]
    File(#[from] FileError),
    /// There is a file already, and none is overwritten.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// It is no such file.
    #[error("{} is no file of offline codes of this version", .0.display())]
    Malformed(PathBuf),
    /// The secret was not sealed or not opened.
    #[error("the secret of the offline codes is not usable")]
    Sealing(#[from] SealError),
    /// The order has no code for such a device.
    #[error("the order has no device `{0}`, or several of that name")]
    Device(String),
}

/// A file of offline codes.
#[derive(Debug)]
pub struct CodeFile {
    path: PathBuf,
    document: Document,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u8,
    verb: Verb,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order_id: Option<OrderId>,
    salt: String,
    nonce: String,
    sealed_secret: String,
    argon2id: Cost,
    devices: BTreeMap<DeviceId, String>,
}

/// Of what the codes are.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What is ordered.
    pub verb: Verb,
    /// On which devices, with their names.
    pub devices: BTreeMap<DeviceId, String>,
}

impl CodeFile {
    /// Seals a secret and writes its file. An existing file is left alone.
    pub fn create(
        path: &Path,
        secret: &OfflineSecret,
        subject: Subject,
        (passphrase, cost): (&str, Cost),
        entropy: &Entropy,
    ) -> Result<Self, CodeFileError> {
        if path.exists() {
            return Err(CodeFileError::Exists(path.to_owned()));
        }
        let Subject { verb, devices } = subject;
        let beside = associated(verb, &devices, cost);
        let sealed = sealing::seal(secret.reveal(), (passphrase, cost), &beside, entropy)?;
        let document = Document {
            version: 1,
            verb,
            order_id: None,
            salt: sealed.salt,
            nonce: sealed.nonce,
            sealed_secret: sealed.secret,
            argon2id: cost,
            devices,
        };
        let this = Self { path: path.to_owned(), document };
        this.write()?;
        Ok(this)
    }

    /// Reads a file, which takes no passphrase. It is believed only when it opens.
    pub fn read(path: &Path) -> Result<Self, CodeFileError> {
        let bytes = files::read_bounded(path, MAX_BYTES)?;
        let text = std::str::from_utf8(&bytes).ok();
        let document: Option<Document> = text.and_then(|text| toml::from_str(text).ok());
        let document = document
            .filter(|document| document.version == 1 && document.argon2id.is_bounded())
            .ok_or_else(|| CodeFileError::Malformed(path.to_owned()))?;
        Ok(Self { path: path.to_owned(), document })
    }

    /// Writes down of which order the codes are.
    pub fn accepted(&mut self, order: OrderId) -> Result<(), CodeFileError> {
        self.document.order_id = Some(order);
        self.write()
    }

    /// The order, once it was accepted.
    pub fn order(&self) -> Option<OrderId> {
        self.document.order_id
    }

    /// What was ordered.
    pub fn verb(&self) -> Verb {
        self.document.verb
    }

    /// The device that is meant, by its id or its name, and its name.
    pub fn device(&self, text: &str) -> Result<(DeviceId, &str), CodeFileError> {
        let is_meant = |id: &DeviceId, name: &str| id.to_string() == text || name == text;
        let mut found = self.document.devices.iter().filter(|(id, name)| is_meant(id, name));
        match (found.next(), found.next()) {
            (Some((id, name)), None) => Ok((*id, name)),
            (Some(_) | None, _) => Err(CodeFileError::Device(text.to_owned())),
        }
    }

    /// The secret.
    pub fn open(&self, passphrase: &str) -> Result<OfflineSecret, CodeFileError> {
        let Document { salt, nonce, sealed_secret, argon2id, verb, devices, .. } = &self.document;
        let sealed =
            Sealed { salt: salt.clone(), nonce: nonce.clone(), secret: sealed_secret.clone() };
        let beside = associated(*verb, devices, *argon2id);
        let secret = sealed.open::<32>((passphrase, *argon2id), &beside)?;
        Ok(OfflineSecret::new(*secret))
    }

    fn write(&self) -> Result<(), CodeFileError> {
        let text = toml::to_string(&self.document).map_err(|_| SealError::Sealing)?;
        Ok(files::write_atomic(&self.path, format!("{HEADER}{text}").as_bytes(), files::PRIVATE)?)
    }
}

/// What is in the clear, and must not be exchanged: with another device's id behind a name, a code
/// would be read out that is not the caller's.
fn associated(verb: Verb, devices: &BTreeMap<DeviceId, String>, cost: Cost) -> Vec<u8> {
    let devices = serde_json::to_string(devices).unwrap_or_default();
    let Cost { memory_kib, passes } = cost;
    format!("tocsin-offline-1\n{verb}\n{memory_kib}\n{passes}\n{devices}").into_bytes()
}
