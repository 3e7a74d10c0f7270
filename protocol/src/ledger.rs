//! The ledger: what a device remembers of its commands, so that each takes effect at most once.
//!
//! Pure state, changed only by [`Record`]s. The agent writes a record to its journal, syncs it,
//! and only then applies it here and acts on it; after a crash the same records rebuild the same
//! ledger. Replay, order within a lane and "one effect per order" are decided here.

use std::collections::{BTreeMap, VecDeque};

use crate::envelope::{Envelope, Refusal, Verified, Verifying};
use crate::frame::CommandFrame;
use crate::id::{CommandId, OrderId};
use crate::jws::CompactJws;
use crate::limits;
use crate::receipt::RefusalReason;
use crate::state::{Lane, PerLane};
use crate::time::Timestamp;

pub use self::record::{Frozen, Held, Received, Record, Refused};

mod record;
#[cfg(test)]
mod tests;

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
    /// Its undo window, if it had one: over, unless the journal lost a part.
    pub held: Option<Held>,
}

/// Where the command of an order stands on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has not begun: nothing is done yet.
    Waiting(Work),
    /// It has begun.
    Begun(Work),
    /// It has ended with that receipt.
    Ended(CommandId, CompactJws),
}

#[derive(Debug, Clone)]
struct Entry {
    received: Received,
    stage: Stage,
    held: Option<Held>,
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
    /// Orders that were called back before they came, each until that is over.
    barred: BTreeMap<OrderId, Timestamp>,
    frozen: Option<Frozen>,
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
        if self.orders.len() + self.barred.len() >= limits::LEDGER_ORDERS {
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
                self.remember(*order_id, *remember_until);
            }
            Record::Sequence { last_seq } => {
                for lane in Lane::ALL {
                    self.see(lane, *last_seq.get(lane));
                }
            }
            Record::Held(held) => self.hold(*held),
            Record::Barred { order_id, remember_until } => self.bar(*order_id, *remember_until),
            Record::Frozen(frozen) => self.freeze(*frozen),
            Record::Thawed => self.frozen = None,
        }
    }

    /// A window never opens again, and never grows.
    fn hold(&mut self, held: Held) {
        let Some(entry) = self.entries.get_mut(&held.command_id) else { return };
        if entry.held.is_none_or(|known| held.left_ms <= known.left_ms) {
            entry.held = Some(held);
        }
    }

    /// Of two freezes the later end counts: one that is short must not cut another one short.
    fn freeze(&mut self, frozen: Frozen) {
        let stands = self.frozen.get_or_insert(frozen);
        stands.ordered_at = stands.ordered_at.max(frozen.ordered_at);
        if frozen.until > stands.until {
            stands.until = frozen.until;
            stands.command_id = frozen.command_id;
        }
    }

    /// Of two times the later one counts: an order that is forgotten could be carried out again.
    fn remember(&mut self, order_id: OrderId, until: Timestamp) {
        let kept = self.orders.entry(order_id).or_insert(until);
        *kept = until.max(*kept);
    }

    /// The same of a bar: a second cancel that is soon over must not let in what the first one holds back.
    fn bar(&mut self, order_id: OrderId, until: Timestamp) {
        let kept = self.barred.entry(order_id).or_insert(until);
        *kept = until.max(*kept);
    }

    fn receive(&mut self, received: &Received) {
        self.see(received.lane, received.seq);
        self.remember(received.order_id, received.remember_until);
        self.entries.entry(received.command_id).or_insert_with(|| Entry {
            received: received.clone(),
            stage: Stage::Received,
            held: None,
        });
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

    /// The next command of that lane that has no outcome yet, in order. One that was held comes
    /// behind everything that came meanwhile: that may have been what calls it back.
    pub fn next_work(&self, lane: Lane) -> Option<Work> {
        let is_due = |entry: &&Entry| {
            let is_here = entry.received.lane == lane && !entry.received.is_about_orders;
            is_here && (entry.stage == Stage::Begun || entry.is_waiting() && !entry.is_held())
        };
        let place = |entry: &&Entry| {
            let was_held = entry.is_waiting() && entry.held.is_some();
            (was_held, entry.received.seq)
        };
        self.entries.values().filter(is_due).min_by_key(place).map(Entry::work)
    }

    /// The next command about other orders that has no outcome yet, in order.
    pub fn next_about_orders(&self) -> Option<Work> {
        let is_due = |entry: &&Entry| entry.received.is_about_orders && entry.is_open();
        self.entries.values().filter(is_due).min_by_key(|e| e.received.seq).map(Entry::work)
    }

    /// The commands whose undo window is open.
    pub fn held(&self) -> impl Iterator<Item = Held> {
        self.entries.values().filter(|entry| entry.is_held()).filter_map(|entry| entry.held)
    }

    /// The undo window of a command, open or over.
    pub fn window(&self, command_id: CommandId) -> Option<Held> {
        self.entries.get(&command_id)?.held
    }

    /// Whether a command is on disk and has no outcome yet.
    pub fn is_open(&self, command_id: CommandId) -> bool {
        self.entries.get(&command_id).is_some_and(Entry::is_open)
    }

    /// Commands that are on disk and have not begun.
    pub fn waiting(&self) -> impl Iterator<Item = Work> {
        self.entries.values().filter(|entry| entry.is_waiting()).map(Entry::work)
    }

    /// Where the command of that order stands, if it is remembered.
    pub fn standing(&self, order_id: OrderId) -> Option<Standing> {
        let entry = self.entries.values().find(|entry| entry.received.order_id == order_id)?;
        Some(match &entry.stage {
            Stage::Received => Standing::Waiting(entry.work()),
            Stage::Begun => Standing::Begun(entry.work()),
            Stage::Done(receipt) | Stage::Confirmed(receipt) => {
                Standing::Ended(entry.received.command_id, receipt.clone())
            }
        })
    }

    /// Whether a command of that order was taken, remembered or not.
    pub fn has_taken(&self, order_id: OrderId) -> bool {
        self.orders.contains_key(&order_id)
    }

    /// Whether that order was called back before it came.
    pub fn is_barred(&self, order_id: OrderId) -> bool {
        self.barred.contains_key(&order_id)
    }

    /// The freeze that was ordered last, over or not.
    pub const fn frozen(&self) -> Option<Frozen> {
        self.frozen
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
        self.entries.iter().filter(|(_, entry)| entry.is_open()).map(|(id, _)| *id)
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
        self.barred.retain(|_, remember_until| *remember_until > now);
    }

    /// The records that rebuild this ledger: a compacted journal.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = vec![Record::Sequence { last_seq: self.last_seq }];
        records.extend(self.orders.iter().map(|(order_id, remember_until)| Record::Order {
            order_id: *order_id,
            remember_until: *remember_until,
        }));
        records.extend(self.barred.iter().map(|(order_id, remember_until)| Record::Barred {
            order_id: *order_id,
            remember_until: *remember_until,
        }));
        records.extend(self.frozen.map(Record::Frozen));
        for (command_id, entry) in &self.entries {
            let command_id = *command_id;
            records.push(Record::Received(entry.received.clone()));
            records.extend(entry.held.map(Record::Held));
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

impl Entry {
    fn is_waiting(&self) -> bool {
        self.stage == Stage::Received
    }

    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Received | Stage::Begun)
    }

    /// Whether it waits for the end of its undo window.
    fn is_held(&self) -> bool {
        self.is_waiting() && self.held.is_some_and(|held| held.left_ms > 0)
    }

    fn work(&self) -> Work {
        Work {
            command_id: self.received.command_id,
            envelope: self.received.envelope.clone(),
            is_begun: self.stage == Stage::Begun,
            held: self.held,
        }
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
        is_about_orders: claims.action().verb().is_about_orders(),
    }
}
