//! The agent's disk as the event loop uses it: whether it can be written, and the journal's records.
//!
//! Owns what follows when a write fails: nothing has happened, and the disk is tried again. What the
//! records mean is not its part.

use std::time::{Duration, Instant};

use protocol::ledger::Record;

use super::{Reconcile, Storage};
use crate::journal::JournalError;

/// How long after a failed write the disk is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long after a failed compaction the next one is tried; until then the journal grows.
const COMPACT_RETRY: Duration = Duration::from_secs(60);
pub(super) const STORAGE_IS_HERE: &str = "the storage is away only while on_disk waits for it";

impl Reconcile {
    /// Whether the journal can be written, as far as is known. After a failure that is found out
    /// by a record that changes nothing, and what was not taken meanwhile is asked for again.
    pub(super) async fn is_disk_back(&mut self, now: Instant) -> bool {
        let Some(retry_at) = self.retry_at else { return true };
        if now < retry_at {
            return false;
        }
        if self.storage().journal.is_detached() {
            self.compact().await;
        } else {
            let last_seq = self.ledger.last_seq();
            if self.commit(vec![Record::Sequence { last_seq }]).await.is_ok() {
                self.retry_at = None;
            }
        }
        self.sync.is_due |= self.retry_at.is_none();
        self.retry_at.is_none()
    }

    /// Makes records durable, then applies them. After an error nothing has happened.
    pub(super) async fn commit(&mut self, records: Vec<Record>) -> Result<(), JournalError> {
        let (records, outcome) = self
            .on_disk(move |storage| {
                let outcome = storage.append(&records);
                (records, outcome)
            })
            .await;
        match outcome {
            Ok(()) => {
                records.iter().for_each(|record| self.ledger.apply(record));
                Ok(())
            }
            Err(error) => {
                self.retry_at = Some(self.core.clock.now() + RETRY);
                self.fault("journal was not written", &error);
                Err(error)
            }
        }
    }

    pub(super) async fn compact(&mut self) {
        self.ledger.forget(self.now());
        let snapshot = self.ledger.snapshot();
        let outcome = self.on_disk(move |storage| storage.compact(&snapshot)).await;
        let now = self.core.clock.now();
        // A journal that is only long still serves; one without its file does not.
        self.retry_at = self.storage().journal.is_detached().then_some(now + RETRY);
        if let Err(error) = outcome {
            self.compact_not_before = Some(now + COMPACT_RETRY);
            self.fault("journal was not compacted", &error);
        }
    }

    pub(super) async fn on_disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Storage) -> T + Send + 'static,
    ) -> T {
        let mut storage = self.storage.take().expect(STORAGE_IS_HERE);
        let task = self.core.blocking.run(move || {
            let result = work(&mut storage);
            (storage, result)
        });
        let (storage, result) = task.await.expect("work on the storage does not panic");
        self.storage = Some(storage);
        result
    }

    pub(super) fn storage(&self) -> &Storage {
        self.storage.as_ref().expect(STORAGE_IS_HERE)
    }
}
