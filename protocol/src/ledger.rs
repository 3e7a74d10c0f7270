//! The ledger: what a device remembers of its commands, so that each takes effect at most once.
//!
//! Pure state, changed only by [`Record`]s. The agent writes a record to its journal, syncs it,
//! and only then applies it here and acts on it; after a crash the same records rebuild the same
//! ledger. Replay, order within a lane and "one effect per order" are decided here.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, Refusal, Verified, Verifying};
use crate::frame::CommandFrame;
use crate::id::{CommandId, OrderId};
use crate::jws::CompactJws;
use crate::limits;
use crate::receipt::RefusalReason;
use crate::state::{Lane, PerLane};
use crate::time::Timestamp;

#[cfg(test)]
mod tests;

/// One durable step in the life of a command on the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The envelope was verified and is on disk. Synced before the ack.
    Received(Received),
    /// The effect begins. Synced before it does.
    Intent {
        /// Which command.
        command_id: CommandId,
    },
    /// The outcome stands. Synced before the receipt leaves.
    Done {
        /// Which command.
        command_id: CommandId,
        /// The signed receipt.
        receipt: CompactJws,
    },
    /// An envelope was declined before it was received.
    Refused(Refused),
    /// The store holds that receipt.
    Confirmed {
        /// SHA-256 of the receipt's text.
        receipt_sha256: String,
    },
    /// An order whose command is forgotten, while its approvals still hold.
    Order {
        /// Which order.
        order_id: OrderId,
        /// When its approvals end.
        remember_until: Timestamp,
    },
    /// The newest sequence numbers: opens a compacted journal.
    Sequence {
        /// By lane.
        last_seq: PerLane<u64>,
    },
}

/// A verified envelope with what the ledger needs of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The command.
    pub command_id: CommandId,
    /// Its order.
    pub order_id: OrderId,
    /// Its lane.
    pub lane: Lane,
    /// Its place in the lane.
    pub seq: u64,
    /// When the order's approvals end: until then its order id is remembered.
    pub remember_until: Timestamp,
    /// The envelope.
    pub envelope: CompactJws,
}

/// A declined envelope with its receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The command that the frame or the envelope named.
    pub command_id: CommandId,
    /// Where it stands in a lane, when the envelope was authentic: then it counts as seen.
    pub place: Option<(Lane, u64)>,
    /// SHA-256 of the envelope's text.
    pub envelope_sha256: String,
    /// The signed receipt.
    pub receipt: CompactJws,
}

/// What to do with a delivered command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// New and verified: write the record, apply it, then ack.
    Take(Box<Received>),
    /// Known already: answer again, do nothing else.
    Known(Answer),
    /// Something earlier in its lane is missing: ask for everything pending.
    Gap,
    /// Not to be done: write [`Record::Refused`] with a receipt, apply it, then send the receipt.
    Refuse(Refusal),
    /// The ledger is full, of refusals that nobody confirms or of orders: neither taken nor
    /// answered. It comes again.
    Drop,
}

/// The answer to a command that is delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is on disk.
    Ack,
    /// It has ended so. Also when the store was said to know: who delivers it again does not.
    Receipt(CompactJws),
}

/// A command to be carried out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// The command.
    pub command_id: CommandId,
    /// Its envelope, to be verified again at this moment.
    pub envelope: CompactJws,
    /// An intent stands without an outcome: the executor must recover, not begin.
    pub is_begun: bool,
}

#[derive(Debug, Clone)]
struct Entry {
    received: Received,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Received,
    Begun,
    Done(CompactJws),
    Confirmed(CompactJws),
}

/// What the device remembers.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    last_seq: PerLane<u64>,
    entries: BTreeMap<CommandId, Entry>,
    /// Orders that were taken, each until its approvals end: they outlive their commands here.
    orders: BTreeMap<OrderId, Timestamp>,
    refused: VecDeque<Refused>,
}

impl Ledger {
    /// The ledger that those records leave.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut ledger = Self::default();
        for record in records {
            ledger.apply(record);
        }
        ledger
    }

    /// The newest sequence number on disk, by lane.
    pub const fn last_seq(&self) -> PerLane<u64> {
        self.last_seq
    }

    /// Decides about a delivered command. Changes nothing.
    pub fn offer(&self, frame: &CommandFrame, verifying: &Verifying<'_>) -> Offer {
        if let Some(answer) = self.known(frame) {
            return Offer::Known(answer);
        }
        let outcome = verifying.verify(&frame.jws);
        let authentic = match &outcome {
            Ok(verified) => Some(verified.envelope()),
            Err(refusal) => refusal.authentic.as_deref(),
        };
        // First of all, so that nobody gets a signed "expired" for what was carried out.
        if let Some(envelope) = authentic {
            if self.entry(envelope.jti, &frame.jws).is_some() {
                // Under another command's name: its outcome is told under its own only.
                return Offer::Drop;
            }
            if let Some(refusal) = self.seen_before(envelope) {
                return self.refuse(refusal.of(envelope));
            }
            // Also before a refusal: it counts as seen, and what is missing before it would be late.
            let is_hint_sound = frame.after_seq < envelope.seq;
            if is_hint_sound && frame.after_seq > *self.last_seq.get(envelope.lane) {
                return Offer::Gap;
            }
        }
        let verified = match outcome {
            Ok(verified) => verified,
            Err(refusal) => return self.refuse(refusal),
        };
        if self.orders.len() >= limits::LEDGER_ORDERS {
            return Offer::Drop;
        }
        Offer::Take(Box::new(received(&verified, frame.jws.clone())))
    }

    fn known(&self, frame: &CommandFrame) -> Option<Answer> {
        if let Some(entry) = self.entry(frame.command_id, &frame.jws) {
            return Some(match &entry.stage {
                Stage::Received | Stage::Begun => Answer::Ack,
                Stage::Done(receipt) | Stage::Confirmed(receipt) => {
                    Answer::Receipt(receipt.clone())
                }
            });
        }
        let sha256 = frame.jws.sha256();
        let refused = self.refused.iter().find(|refused| refused.envelope_sha256 == sha256)?;
        Some(Answer::Receipt(refused.receipt.clone()))
    }

    fn entry(&self, command_id: CommandId, envelope: &CompactJws) -> Option<&Entry> {
        self.entries.get(&command_id).filter(|entry| entry.received.envelope == *envelope)
    }

    fn seen_before(&self, envelope: &Envelope) -> Option<Refusal> {
        let last = *self.last_seq.get(envelope.lane);
        if envelope.seq <= last {
            let detail = format!("number {} of its lane, {last} was seen", envelope.seq);
            return Some(Refusal::new(RefusalReason::Replayed, detail));
        }
        if self.orders.contains_key(&envelope.order_id()) {
            let detail = format!("order {} was taken already", envelope.order_id());
            return Some(Refusal::new(RefusalReason::DuplicateOrder, detail));
        }
        None
    }

    fn refuse(&self, refusal: Refusal) -> Offer {
        if self.refused.len() < limits::LEDGER_STRANGERS {
            Offer::Refuse(refusal)
        } else {
            Offer::Drop
        }
    }

    /// Takes a step that is on disk. A step that cannot follow changes nothing.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Received(received) => self.receive(received),
            Record::Intent { command_id } => {
                if let Some(entry) = self.entries.get_mut(command_id)
                    && entry.stage == Stage::Received
                {
                    entry.stage = Stage::Begun;
                }
            }
            Record::Done { command_id, receipt } => {
                if let Some(entry) = self.entries.get_mut(command_id)
                    && matches!(entry.stage, Stage::Received | Stage::Begun)
                {
                    entry.stage = Stage::Done(receipt.clone());
                }
            }
            Record::Refused(refused) => {
                if let Some((lane, seq)) = refused.place {
                    self.see(lane, seq);
                }
                self.refused.push_back(refused.clone());
            }
            Record::Confirmed { receipt_sha256 } => self.confirm(receipt_sha256),
            Record::Order { order_id, remember_until } => {
                self.orders.insert(*order_id, *remember_until);
            }
            Record::Sequence { last_seq } => {
                for lane in Lane::ALL {
                    self.see(lane, *last_seq.get(lane));
                }
            }
        }
    }

    fn receive(&mut self, received: &Received) {
        self.see(received.lane, received.seq);
        self.orders.insert(received.order_id, received.remember_until);
        self.entries
            .entry(received.command_id)
            .or_insert_with(|| Entry { received: received.clone(), stage: Stage::Received });
    }

    fn see(&mut self, lane: Lane, seq: u64) {
        let last = self.last_seq.get_mut(lane);
        *last = seq.max(*last);
    }

    fn confirm(&mut self, receipt_sha256: &str) {
        self.refused.retain(|refused| refused.receipt.sha256() != receipt_sha256);
        for entry in self.entries.values_mut() {
            if let Stage::Done(receipt) = &entry.stage
                && receipt.sha256() == receipt_sha256
            {
                entry.stage = Stage::Confirmed(receipt.clone());
            }
        }
    }

    /// The next command of that lane that has no outcome yet, in order.
    pub fn next_work(&self, lane: Lane) -> Option<Work> {
        let is_open = |entry: &&Entry| {
            entry.received.lane == lane && matches!(entry.stage, Stage::Received | Stage::Begun)
        };
        let entry = self.entries.values().filter(is_open).min_by_key(|e| e.received.seq)?;
        Some(Work {
            command_id: entry.received.command_id,
            envelope: entry.received.envelope.clone(),
            is_begun: entry.stage == Stage::Begun,
        })
    }

    /// Receipts that the store has not confirmed, oldest command first.
    pub fn unconfirmed(&self) -> impl Iterator<Item = (CommandId, &CompactJws)> {
        let done = self.entries.iter().filter_map(|(command_id, entry)| match &entry.stage {
            Stage::Done(receipt) => Some((*command_id, receipt)),
            Stage::Received | Stage::Begun | Stage::Confirmed(_) => None,
        });
        done.chain(self.refused.iter().map(|refused| (refused.command_id, &refused.receipt)))
    }

    /// Commands that are on disk and have no outcome yet.
    pub fn open_commands(&self) -> impl Iterator<Item = CommandId> {
        self.entries.iter().filter_map(|(command_id, entry)| match entry.stage {
            Stage::Received | Stage::Begun => Some(*command_id),
            Stage::Done(_) | Stage::Confirmed(_) => None,
        })
    }

    /// Forgets confirmed commands whose order can no longer come again, and the oldest confirmed
    /// ones beyond the bound. Sequence numbers stay seen, and orders stay taken until their
    /// approvals end: an approval is good for one effect, however much came in between.
    pub fn forget(&mut self, now: Timestamp) {
        let mut surplus = self.entries.len().saturating_sub(limits::LEDGER_ENTRIES);
        self.entries.retain(|_, entry| {
            if !matches!(entry.stage, Stage::Confirmed(_)) {
                return true;
            }
            let is_over = entry.received.remember_until <= now || surplus > 0;
            if is_over {
                surplus = surplus.saturating_sub(1);
            }
            !is_over
        });
        self.orders.retain(|_, remember_until| *remember_until > now);
    }

    /// The records that rebuild this ledger: a compacted journal.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = vec![Record::Sequence { last_seq: self.last_seq }];
        records.extend(self.orders.iter().map(|(order_id, remember_until)| Record::Order {
            order_id: *order_id,
            remember_until: *remember_until,
        }));
        for (command_id, entry) in &self.entries {
            let command_id = *command_id;
            records.push(Record::Received(entry.received.clone()));
            match &entry.stage {
                Stage::Received => {}
                Stage::Begun => records.push(Record::Intent { command_id }),
                Stage::Done(receipt) => {
                    records.push(Record::Done { command_id, receipt: receipt.clone() });
                }
                Stage::Confirmed(receipt) => {
                    let receipt_sha256 = receipt.sha256();
                    records.push(Record::Done { command_id, receipt: receipt.clone() });
                    records.push(Record::Confirmed { receipt_sha256 });
                }
            }
        }
        records.extend(self.refused.iter().cloned().map(Record::Refused));
        records
    }
}

fn received(verified: &Verified, envelope: CompactJws) -> Received {
    let claims = verified.envelope();
    Received {
        command_id: claims.jti,
        order_id: claims.order_id(),
        lane: claims.lane,
        seq: claims.seq,
        remember_until: claims.manifest.expires_at,
        envelope,
    }
}
