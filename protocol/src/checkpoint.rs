//! The checkpoint: how far the event chain went at a moment, signed by the control plane.
//!
//! Devices remember what they were shown. A control plane whose history was rewritten has to sign
//! either a chain that they know otherwise, which they notice, or one that its own events do not
//! bear out, which whoever verifies the log notices. Each checkpoint names earlier ones, so that a
//! device that missed many still finds one that it knows.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::jws::{self, CompactJws, JwsError, Signer};
use crate::limits;
use crate::time::Timestamp;
use crate::trust::TrustRoot;

#[cfg(test)]
mod tests;

/// The media type of a checkpoint's JWS header.
pub const TYP: &str = "tocsin-checkpoint+jws";

/// A place in the event chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The event's place.
    pub seq: u64,
    /// Its hash, 64 hex digits.
    pub hash: String,
}

/// The claims of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Counts checkpoints of one chain, from 1.
    pub number: u64,
    /// The newest event.
    pub head: Mark,
    /// When it was signed.
    pub at: Timestamp,
    /// The heads of earlier checkpoints: of the one before, and of the last two whose numbers are
    /// multiples of 2, of 4, of 8 and so on, and of the first. Two always have one in common.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Mark>,
}

/// Numbers of the earlier checkpoints that one of that number names, newest first.
pub fn earlier(number: u64) -> Vec<u64> {
    let before = number.saturating_sub(1);
    let multiples = (0..u64::BITS).flat_map(|bits| {
        let last = before >> bits;
        [last << bits, last.saturating_sub(1) << bits]
    });
    let numbers: BTreeSet<_> = multiples.filter(|number| *number > 1).collect();
    let newest = numbers.into_iter().rev().take(limits::CHECKPOINT_MARKS - 1);
    newest.chain((number > 1).then_some(1)).collect()
}

impl Checkpoint {
    /// Signs it with a command key.
    pub fn sign(&self, signer: &dyn Signer) -> Result<CompactJws, JwsError> {
        jws::sign(TYP, self, signer)
    }

    /// Reads a checkpoint that a command key of this trust root signed.
    pub fn verify(jws: &CompactJws, trust: &TrustRoot) -> Result<Self, JwsError> {
        let parsed = jws::parse(jws, TYP, limits::CHECKPOINT_BYTES)?;
        let key = trust.command_key(parsed.key_id()).ok_or(JwsError::BadSignature)?;
        parsed.verify(&key.key)?;
        let checkpoint: Self = parsed.claims()?;
        let is_hash =
            |mark: &Mark| mark.hash.len() == 64 && mark.hash.bytes().all(|b| b.is_ascii_hexdigit());
        if checkpoint.earlier.len() > limits::CHECKPOINT_MARKS || !checkpoint.marks().all(is_hash) {
            return Err(JwsError::Claims("not a checkpoint".to_owned()));
        }
        Ok(checkpoint)
    }

    /// Its head, and those of the earlier ones that it names.
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        std::iter::once(&self.head).chain(&self.earlier)
    }
}

/// What one device remembers of the event chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory(BTreeMap<u64, String>);

/// How a chain contradicts what was signed of it before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fork {
    /// An event has another hash than before.
    #[error("event {0} of the audit log was another one before")]
    Other(u64),
    /// The chain ends before it ended already.
    #[error("the audit log ends at event {ends}, and went to {went} before")]
    Shorter {
        /// Where it ends.
        ends: u64,
        /// Where it ended before.
        went: u64,
    },
}

impl Memory {
    /// Takes a checkpoint that was verified. One that contradicts is remembered in place of what
    /// it contradicts, so that each fork is told once.
    ///
    /// # Errors
    /// [`Fork`].
    pub fn take(&mut self, checkpoint: &Checkpoint) -> Result<(), Fork> {
        let newest = self.0.last_key_value().map_or(0, |(seq, _)| *seq);
        let is_other =
            |mark: &&Mark| self.0.get(&mark.seq).is_some_and(|known| *known != mark.hash);
        let fork = match checkpoint.marks().find(is_other) {
            Some(mark) => Some(Fork::Other(mark.seq)),
            None if checkpoint.head.seq < newest && !self.0.contains_key(&checkpoint.head.seq) => {
                Some(Fork::Shorter { ends: checkpoint.head.seq, went: newest })
            }
            None => None,
        };
        if fork.is_some() {
            self.0.clear();
        }
        let marks = checkpoint.marks().map(|mark| (mark.seq, mark.hash.clone()));
        self.0.extend(marks);
        // What this one names is what the next ones will have in common with it.
        let mut surplus = self.0.len().saturating_sub(limits::CHECKPOINT_MEMORY);
        self.0.retain(|seq, _| {
            let goes = surplus > 0 && !checkpoint.marks().any(|mark| mark.seq == *seq);
            surplus -= usize::from(goes);
            !goes
        });
        fork.map_or(Ok(()), Err)
    }

    /// The newest event that it knows of.
    pub fn newest(&self) -> Option<Mark> {
        self.0.last_key_value().map(|(seq, hash)| Mark { seq: *seq, hash: hash.clone() })
    }
}
