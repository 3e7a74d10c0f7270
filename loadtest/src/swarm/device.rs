//! One simulated device: it verifies for real, remembers in memory, and does nothing.
//!
//! Owns the device's ledger, key and trust root. No I/O: frames go in, frames come out, and who
//! calls owns the socket and the time.

use std::collections::HashMap;

use aws_lc_rs::rand::SystemRandom;
use protocol::envelope::{Envelope, Refusal, TYP, Verifying};
use protocol::frame::{AgentFrame, CommandFrame, Hello};
use protocol::id::{BootId, CommandId};
use protocol::jws::{self, CompactJws};
use protocol::ledger::{Answer, Ledger, Offer, Record, Refused, Work};
use protocol::limits;
use protocol::receipt::{self, Evidence, Outcome, Receipt, RefusalReason};
use protocol::state::Lane;
use protocol::time::Timestamp;
use protocol::trust::{SignedTrustRoot, TrustError};

use crate::fleet::Enrolled;

#[cfg(test)]
mod tests;

/// What a simulated device says that it can do.
const CAPABILITIES: [&str; 3] = ["simulated", "lock", "refresh"];

/// What became of a delivered command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// New and believed: to be acked, then carried out.
    Taken,
    /// Known already: to be answered again.
    Known(AgentFrame),
    /// The ledger is full: neither taken nor answered.
    Dropped,
    /// Something earlier is missing: ask for everything.
    Gap,
    /// Not believed; the receipt says so.
    Refused(RefusalReason, Option<AgentFrame>),
}

/// The device.
#[derive(Debug)]
pub(super) struct Device {
    enrolled: Enrolled,
    boot_id: BootId,
    ledger: Ledger,
    /// The epoch of the newest session.
    epoch: u64,
    /// Receipts on their way, by their SHA-256.
    unconfirmed: HashMap<String, CommandId>,
    /// How often a hub said how to behave.
    modes: u32,
}

/// What a receipt is about.
struct About<'a> {
    command_id: CommandId,
    envelope: Option<&'a Envelope>,
    envelope_sha256: String,
}

impl Device {
    pub(super) fn new(enrolled: Enrolled, boot_id: BootId) -> Self {
        let (ledger, unconfirmed) = (Ledger::default(), HashMap::new());
        Self { enrolled, boot_id, ledger, epoch: 0, unconfirmed, modes: 0 }
    }

    /// The first frame of a session.
    pub(super) fn hello(&mut self, now: Timestamp) -> Hello {
        self.epoch = now.as_millis().max(self.epoch + 1);
        Hello {
            agent: concat!("loadtest/", env!("CARGO_PKG_VERSION")).to_owned(),
            boot_id: self.boot_id,
            generation: self.enrolled.generation,
            epoch: self.epoch,
            run: None,
            last_seq: self.ledger.last_seq(),
            trust_version: self.enrolled.trust.version,
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            degraded_since: None,
        }
    }

    /// A hub said how to behave: how often that was before.
    pub(super) const fn told(&mut self) -> u32 {
        let before = self.modes;
        self.modes = before.saturating_add(1);
        before
    }

    /// The wish for everything pending.
    pub(super) const fn sync(&self) -> AgentFrame {
        AgentFrame::Sync { last_seq: self.ledger.last_seq() }
    }

    /// Receipts that the store has not confirmed, to be sent (again).
    pub(super) fn receipts(&self) -> Vec<AgentFrame> {
        let frame = |(command_id, jws): (CommandId, &CompactJws)| AgentFrame::Receipt {
            command_id,
            jws: jws.clone(),
        };
        self.ledger.unconfirmed().take(limits::EXCHANGE_FRAMES / 2).map(frame).collect()
    }

    /// Whether a receipt waits for its confirmation.
    pub(super) fn is_waiting(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    /// Takes a delivered command, or says why not.
    pub(super) fn deliver(&mut self, frame: &CommandFrame, now: Timestamp) -> Delivered {
        let verifying = Verifying {
            device: self.enrolled.id,
            generation: self.enrolled.generation,
            now,
            trust: &self.enrolled.trust,
            is_simulated: true,
        };
        let command_id = frame.command_id;
        match self.ledger.offer(frame, &verifying) {
            Offer::Take(received) => {
                self.ledger.apply(&Record::Received(*received));
                Delivered::Taken
            }
            Offer::Known(Answer::Ack) => Delivered::Known(AgentFrame::Ack { command_id }),
            Offer::Known(Answer::Receipt(jws)) => {
                Delivered::Known(AgentFrame::Receipt { command_id, jws })
            }
            Offer::Drop => Delivered::Dropped,
            Offer::Gap => Delivered::Gap,
            Offer::Refuse(refusal) => self.refuse(frame, refusal, now),
        }
    }

    /// Ends everything that was taken, urgent first: receipts that say "simulated".
    pub(super) fn work(&mut self, now: Timestamp) -> Vec<(CommandId, AgentFrame)> {
        let mut ended = Vec::new();
        for lane in Lane::ALL {
            while let Some(work) = self.ledger.next_work(lane) {
                let Some(jws) = self.carry_out(&work, now) else { break };
                let command_id = work.command_id;
                ended.push((command_id, AgentFrame::Receipt { command_id, jws }));
            }
        }
        ended
    }

    /// The store holds that receipt. Answers its command, once.
    pub(super) fn confirm(&mut self, receipt_sha256: String, now: Timestamp) -> Option<CommandId> {
        let command_id = self.unconfirmed.remove(&receipt_sha256)?;
        self.ledger.apply(&Record::Confirmed { receipt_sha256 });
        self.ledger.forget(now);
        Some(command_id)
    }

    /// Puts the next trust root in force.
    pub(super) fn trust(&mut self, root: &SignedTrustRoot) -> Result<(), TrustError> {
        self.enrolled.trust = root.succeed(&self.enrolled.trust)?;
        Ok(())
    }

    fn carry_out(&mut self, work: &Work, now: Timestamp) -> Option<CompactJws> {
        let command_id = work.command_id;
        self.ledger.apply(&Record::Intent { command_id });
        let envelope = claims(&work.envelope);
        let about = About {
            command_id,
            envelope: envelope.as_ref(),
            envelope_sha256: work.envelope.sha256(),
        };
        let evidence = Evidence::new().with("simulated", true);
        let receipt = self.sign(about, Outcome::Succeeded { evidence }, now)?;
        self.ledger.apply(&Record::Done { command_id, receipt: receipt.clone() });
        self.unconfirmed.insert(receipt.sha256(), command_id);
        Some(receipt)
    }

    fn refuse(&mut self, frame: &CommandFrame, refusal: Refusal, now: Timestamp) -> Delivered {
        let reason = refusal.reason;
        let authentic = refusal.authentic.as_deref();
        let command_id = authentic.map_or(frame.command_id, |envelope| envelope.jti);
        let place = authentic.map(|envelope| (envelope.lane, envelope.seq));
        let envelope_sha256 = frame.jws.sha256();
        let about =
            About { command_id, envelope: authentic, envelope_sha256: envelope_sha256.clone() };
        let outcome = Outcome::Refused { reason, detail: refusal.detail };
        let Some(jws) = self.sign(about, outcome, now) else {
            return Delivered::Refused(reason, None);
        };
        self.unconfirmed.insert(jws.sha256(), command_id);
        let receipt = jws.clone();
        self.ledger.apply(&Record::Refused(Refused {
            command_id,
            place,
            envelope_sha256,
            receipt,
        }));
        Delivered::Refused(reason, Some(AgentFrame::Receipt { command_id, jws }))
    }

    fn sign(&self, about: About<'_>, outcome: Outcome, now: Timestamp) -> Option<CompactJws> {
        let receipt = Receipt {
            iss: self.enrolled.id,
            generation: self.enrolled.generation,
            command_id: about.command_id,
            order_id: about.envelope.map(Envelope::order_id),
            verb: about.envelope.map(|envelope| envelope.action().verb()),
            outcome,
            started_at: now,
            finished_at: now,
            boot_id: self.boot_id,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            envelope_sha256: about.envelope_sha256,
        };
        let signed = receipt::sign(&receipt, &self.enrolled.key.signer(&SystemRandom::new()));
        signed.inspect_err(|error| tracing::warn!(%error, "receipt was not signed")).ok()
    }
}

/// The claims of an envelope that was verified before.
fn claims(jws: &CompactJws) -> Option<Envelope> {
    jws::parse(jws, TYP, limits::ENVELOPE_BYTES).ok()?.claims().ok()
}
