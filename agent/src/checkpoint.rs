//! What this device remembers of the control plane's audit log: `checkpoint.json`.
//!
//! Owns the file and the judgement of a new checkpoint. Two that contradict each other are
//! evidence, and both are kept.

use std::time::Duration;

use protocol::checkpoint::{Checkpoint, Fork, Memory};
use protocol::jws::{CompactJws, JwsError};
use protocol::time::Timestamp;
use protocol::trust::TrustRoot;
use serde::{Deserialize, Serialize};

use crate::state::{StateDir, StateError};

/// For how long a fork is told: an auditor has to hear of it, and a device cannot know that one did.
const TOLD: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Why a checkpoint changed nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    /// It is not by a command key of the trust root.
    #[error("checkpoint is not believed")]
    Document(#[from] JwsError),
    /// It cannot be kept.
    #[error("checkpoint was not written")]
    State(#[from] StateError),
}

/// What is remembered.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// The newest, as it was signed.
    newest: Option<CompactJws>,
    memory: Memory,
    /// The last two that contradict each other, and when that was noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fork: Option<Evidence>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Evidence {
    before: CompactJws,
    after: CompactJws,
    at: Timestamp,
}

/// The device's memory of the log.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    document: Document,
}

impl Checkpoints {
    /// What is on disk. A file that cannot be read is as good as none: it vouches for nothing.
    pub(crate) fn load(state: &StateDir) -> Self {
        let document = state.checkpoint().unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "memory of the audit log is lost");
            None
        });
        Self { document: document.unwrap_or_default() }
    }

    /// Takes a checkpoint, and answers how it contradicts what was known if it does.
    pub(crate) fn take(
        &mut self,
        state: &StateDir,
        jws: CompactJws,
        (trust, now): (&TrustRoot, Timestamp),
    ) -> Result<Option<Fork>, CheckpointError> {
        if self.document.newest.as_ref() == Some(&jws) {
            return Ok(None);
        }
        let checkpoint = Checkpoint::verify(&jws, trust)?;
        let fork = self.document.memory.take(&checkpoint).err();
        let is_newest = self.document.memory.newest().as_ref() == Some(&checkpoint.head);
        if fork.is_some()
            && let Some(before) = self.document.newest.clone()
        {
            self.document.fork = Some(Evidence { before, after: jws.clone(), at: now });
        }
        if is_newest {
            self.document.newest = Some(jws);
        }
        state.save_checkpoint(&self.document)?;
        Ok(fork)
    }

    /// Whether the log was seen to contradict itself of late.
    pub(crate) fn is_forked(&self, now: Timestamp) -> bool {
        self.document.fork.as_ref().is_some_and(|fork| now.since(fork.at) < TOLD)
    }
}
