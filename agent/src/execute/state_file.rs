//! One typed JSON document per file in the state directory: whole or absent, durable once saved.
//!
//! Holds what must outlive a reboot beside the journal. Knows nothing of what the documents mean.

use std::fs::File;
use std::io::ErrorKind;

use protocol::receipt::{Failure, FailureKind};
use runtime::files::{PRIVATE, read_bounded, write_atomic};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failure;
use crate::host::Host;

/// Bytes of the largest document; an envelope is the largest thing in any of them.
const MAX_BYTES: usize = 1024 * 1024;

/// A document with a file of its own.
pub trait StateFile: Serialize + DeserializeOwned {
    /// The file's name in the state directory.
    const NAME: &'static str;

    /// The document, if there is one.
    ///
    /// # Errors
    /// `Io` when it is there and cannot be read or understood.
    fn load(host: &Host, stage: &str) -> Result<Option<Self>, Failure> {
        let bytes = match read_bounded(&host.state_dir.join(Self::NAME), MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(broken::<Self>(stage, error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| broken::<Self>(stage, error))
    }

    /// Replaces the document. After `Ok` it survives a power cut.
    ///
    /// # Errors
    /// `Io`; the former document is still whole.
    fn save(&self, host: &Host, stage: &str) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(self).map_err(|error| broken::<Self>(stage, error))?;
        write_atomic(&host.state_dir.join(Self::NAME), &bytes, PRIVATE)
            .map_err(|error| broken::<Self>(stage, error))
    }

    /// Removes the document, also when it is not there. After `Ok` that survives a power cut.
    ///
    /// # Errors
    /// `Io`.
    fn remove(host: &Host, stage: &str) -> Result<(), Failure> {
        match std::fs::remove_file(host.state_dir.join(Self::NAME)) {
            Ok(()) => File::open(&host.state_dir)
                .and_then(|folder| folder.sync_all())
                .map_err(|error| broken::<Self>(stage, error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(broken::<Self>(stage, error)),
        }
    }
}

fn broken<T: StateFile>(stage: &str, error: impl std::error::Error) -> Failure {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    failure(FailureKind::Io, stage, format!("{}: {error}{source}", T::NAME))
}
