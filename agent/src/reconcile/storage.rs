//! What the agent keeps on disk while it runs, used off the event loop.
//!
//! Owns journal, trust chain and lower bound of time together, and the opening of the journal
//! with its consequences: which records the ledger is built from, and what damage costs.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::checkpoint::Fork;
use protocol::jws::CompactJws;
use protocol::ledger::{Ledger, Record};
use protocol::state::{Lane, PerLane};
use protocol::time::Timestamp;

use super::Reconcile;
use crate::checkpoint::{CheckpointError, Checkpoints};
use crate::epoch::Epochs;
use crate::journal::{Damage, Journal, JournalError};
use crate::state::{Enrollment, StateDir, StateError, TimeFloor, TrustChain};

#[cfg(test)]
mod tests;

/// The journal is compacted when it is longer than this and four times what it was last.
const COMPACT_BYTES: u64 = 1024 * 1024;

/// Why the storage cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A document of the state directory.
    #[error("the state cannot be read")]
    State(#[from] StateError),
    /// The journal.
    #[error("the journal cannot be opened")]
    Journal(#[from] JournalError),
}

/// Everything durable that the event loop changes.
#[derive(Debug)]
pub(crate) struct Storage {
    state: Arc<StateDir>,
    pub(crate) journal: Journal,
    pub(crate) trust: TrustChain,
    pub(crate) floor: TimeFloor,
    pub(crate) checkpoints: Checkpoints,
    /// Records in the journal, for the status.
    pub(crate) records: usize,
    pub(crate) is_damaged: bool,
    compacted: u64,
}

impl Storage {
    /// Opens everything, and rebuilds the ledger.
    ///
    /// After damage the ledger is made safe: numbers beyond the damage count as seen, what was
    /// signed before now is not believed to be new, and every open command counts as begun, so
    /// that its executor finds out what happened instead of beginning again.
    pub(crate) fn open(
        state: Arc<StateDir>,
        enrollment: &Enrollment,
        now: Timestamp,
    ) -> Result<(Self, Ledger, Vec<Record>), StorageError> {
        let trust = TrustChain::load(&state)?;
        let mut floor = TimeFloor::load(&state)?;
        let opened = Journal::open(&state.journal_path(enrollment))?;
        if opened.torn_bytes > 0 {
            tracing::info!(torn_bytes = opened.torn_bytes, "torn end of the journal was cut off");
        }
        let mut ledger = Ledger::replay(&opened.records);
        let mut journal = opened.journal;
        let mut records = opened.records;
        if let Some(damage) = &opened.damage {
            tracing::error!(set_aside = ?damage.set_aside, "journal is damaged");
            floor.distrust(now)?;
            let made_safe = after_damage(&ledger, damage);
            journal.append(&made_safe)?;
            made_safe.iter().for_each(|record| ledger.apply(record));
            records.extend(made_safe);
        }
        let compacted = journal.len();
        let is_damaged = opened.damage.is_some();
        let count = records.len();
        let checkpoints = Checkpoints::load(&state);
        let storage = Self {
            state,
            journal,
            trust,
            floor,
            checkpoints,
            records: count,
            is_damaged,
            compacted,
        };
        Ok((storage, ledger, records))
    }

    /// Session epochs that begin where the lower bound of time is.
    pub(crate) fn epochs(&self) -> Epochs {
        Epochs::new(self.floor.now(Timestamp::default()))
    }

    /// Takes a checkpoint of the audit log, and answers how it contradicts another if it does.
    pub(crate) fn take_checkpoint(
        &mut self,
        jws: CompactJws,
        now: Timestamp,
    ) -> Result<Option<Fork>, CheckpointError> {
        self.checkpoints.take(&self.state, jws, (self.trust.in_force(), now))
    }

    /// Makes records durable; the caller applies them to the ledger only after `Ok`.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        self.journal.append(records)?;
        self.records += records.len();
        Ok(())
    }

    /// Whether the journal has grown enough to be worth rewriting.
    pub(crate) fn wants_compaction(&self) -> bool {
        self.journal.is_detached()
            || self.journal.len() > COMPACT_BYTES.max(self.compacted.saturating_mul(4))
    }

    /// Rewrites the journal.
    pub(crate) fn compact(&mut self, snapshot: &[Record]) -> Result<(), JournalError> {
        self.journal.compact(snapshot)?;
        self.records = snapshot.len();
        self.compacted = self.journal.len();
        Ok(())
    }
}

impl Reconcile {
    /// Remembers a checkpoint. One that contradicts what was signed before is told at every
    /// contact: the word `audit_forked` is among the capabilities of the next ones.
    pub(super) async fn take_checkpoint(&mut self, jws: CompactJws) {
        let now = self.now();
        match self.on_disk(move |storage| storage.take_checkpoint(jws, now)).await {
            Ok(None) => {}
            Ok(Some(fork)) => {
                tracing::error!(%fork, "audit log of the control plane contradicts itself");
                self.last_error = Some(fork.to_string());
            }
            Err(error) => self.fault("checkpoint was not taken", &error),
        }
    }
}

/// The records that make a ledger safe whose journal lost some.
fn after_damage(ledger: &Ledger, damage: &Damage) -> Vec<Record> {
    let mut beyond = Ledger::replay(&damage.beyond);
    beyond.apply(&Record::Sequence { last_seq: ledger.last_seq() });
    let mut last_seq = PerLane::default();
    for lane in Lane::ALL {
        *last_seq.get_mut(lane) = *beyond.last_seq().get(lane);
    }
    let mut records = vec![Record::Sequence { last_seq }];
    let mut open: BTreeSet<_> = ledger.open_commands().collect();
    // What stops and ends something counts, wherever it stood.
    for record in &damage.beyond {
        match record {
            Record::Done { command_id, .. } if open.remove(command_id) => {}
            Record::Frozen(_) | Record::Barred { .. } => {}
            Record::Done { .. }
            | Record::Received(_)
            | Record::Intent { .. }
            | Record::Refused(_)
            | Record::Confirmed { .. }
            | Record::Order { .. }
            | Record::Sequence { .. }
            | Record::Held(_)
            | Record::Thawed => continue,
        }
        records.push(record.clone());
    }
    records.extend(open.into_iter().map(|command_id| Record::Intent { command_id }));
    records
}
