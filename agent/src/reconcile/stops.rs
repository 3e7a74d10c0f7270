//! Orders about other orders: cancel, freeze and thaw, and what they stop.
//!
//! No executor carries them out, and they wait for none: all that they change is what the ledger
//! remembers, in one write together with their own receipt. What has begun goes on.

use protocol::action::{Action, Freeze};
use protocol::envelope::{Envelope, Refusal};
use protocol::frame::AgentFrame;
use protocol::id::{CommandId, OrderId};
use protocol::jws::{self, CompactJws};
use protocol::ledger::{Frozen, Record, Standing, Work};
use protocol::limits;
use protocol::receipt::{self, Evidence, FailureKind, Outcome, Receipt, RefusalReason};
use protocol::state::{Lane, VerbClass};

use super::Reconcile;
use super::deliveries::claims;
use super::lanes::Running;
use super::outcome::{About, Times};
use crate::execute::failure;

/// How such an order ended, and what stands with it.
type Heeded = (Outcome, Vec<Record>);

impl Reconcile {
    /// Whether something that was ordered about other orders is not carried out yet, or would not be
    /// taken: nothing begins before it, and no window ends.
    pub(super) fn is_deaf(&self) -> bool {
        self.ledger.next_about_orders().is_some() || self.storage().trust.is_rolled_back()
    }

    /// Carries out what is ordered about other orders.
    pub(super) async fn heed_orders(&mut self) {
        while let Some(work) = self.ledger.next_about_orders() {
            if self.storage().trust.is_rolled_back() {
                return;
            }
            let Some(records) = self.heed(&work) else { return };
            if self.commit(records.clone()).await.is_err() {
                return;
            }
            self.close_windows();
            for record in records {
                if let Record::Done { command_id, receipt: jws } = record {
                    self.link.send(AgentFrame::Receipt { command_id, jws });
                }
            }
            let soon = self.core.clock.now() + self.core.config.resend;
            self.resend.at.get_or_insert(soon);
        }
    }

    /// The records of such an order, its own outcome the last; `None` when the key does not sign.
    fn heed(&self, work: &Work) -> Option<Vec<Record>> {
        let refused = |refusal: Refusal| {
            let Refusal { reason, detail, .. } = refusal;
            (Outcome::Refused { reason, detail }, Vec::new())
        };
        let (outcome, mut records) = match self.verify_now(work) {
            Ok(envelope) => self.heeded(&envelope)?,
            Err(refusal) => refused(refusal),
        };
        let (command_id, state) = (work.command_id, outcome.state().as_str());
        tracing::warn!(command.id = %command_id, state, "order about orders ended");
        let receipt = self.sign(about(work), Times::moment(self.wall()), outcome)?;
        records.push(Record::Done { command_id, receipt });
        Some(records)
    }

    fn heeded(&self, envelope: &Envelope) -> Option<Heeded> {
        match envelope.action() {
            Action::Cancel(cancel) => self.call_back(envelope, cancel.order_id),
            Action::Freeze(freeze) => self.freeze(envelope, freeze),
            Action::Thaw(_) => {
                let until = self.frozen().map(|frozen| frozen.until.as_millis());
                let evidence = Evidence::new().with("frozen_until", until);
                Some((Outcome::Succeeded { evidence }, vec![Record::Thawed]))
            }
            Action::Lock(_)
            | Action::Unlock(_)
            | Action::Quarantine(_)
            | Action::Release(_)
            | Action::Wipe(_)
            | Action::SelectiveWipe(_)
            | Action::Plan(_)
            | Action::Reboot(_)
            | Action::RunScript(_)
            | Action::CollectEvidence(_)
            | Action::RotateCredentials(_)
            | Action::CryptoLock(_)
            | Action::Refresh(_) => {
                let failure = failure(FailureKind::Internal, "apply", "not about other orders");
                Some((Outcome::Failed { failure, evidence: Evidence::new() }, Vec::new()))
            }
        }
    }

    /// Calls back the command of an order, if it has not begun. One that has not come yet is barred.
    fn call_back(&self, by: &Envelope, order_id: OrderId) -> Option<Heeded> {
        let standing = self.ledger.standing(order_id);
        let target = match &standing {
            Some(Standing::Waiting(work) | Standing::Begun(work)) => claims(&work.envelope),
            Some(Standing::Ended(..)) | None => None,
        };
        if target.is_some_and(|target| !can_be_called_back(&target)) {
            let detail = "only what destroys and scripts can be called back; what can be undone has its verb";
            let reason = RefusalReason::Unsupported;
            return Some((Outcome::Refused { reason, detail: detail.to_owned() }, Vec::new()));
        }
        match standing {
            Some(Standing::Waiting(work)) => {
                let detail = format!("called back by order {}", by.order_id());
                let ended = self.refuse_waiting(&work, RefusalReason::Cancelled, detail)?;
                Some((called_back(work.command_id), vec![ended]))
            }
            Some(Standing::Begun(work)) => {
                let step = self.step_of(work.command_id);
                Some((too_late(work.command_id, step), Vec::new()))
            }
            Some(Standing::Ended(id, receipt)) if was_cancelled(&receipt) => {
                Some((called_back(id), Vec::new()))
            }
            Some(Standing::Ended(id, _)) => Some((too_late(id, "ended"), Vec::new())),
            None if self.ledger.has_taken(order_id) => {
                let detail = "the order ended here before, and is forgotten";
                let failure = failure(FailureKind::Precondition, "apply", detail);
                let evidence = Evidence::new().with("result", "unknown");
                Some((Outcome::Failed { failure, evidence }, Vec::new()))
            }
            None => {
                let evidence = Evidence::new().with("result", "unknown").with("barred", true);
                let remember_until = by.manifest.expires_at;
                let barred = Record::Barred { order_id, remember_until };
                Some((Outcome::Succeeded { evidence }, vec![barred]))
            }
        }
    }

    /// Nothing that destroys begins from now on, and what waits to begin ends.
    fn freeze(&self, by: &Envelope, freeze: &Freeze) -> Option<Heeded> {
        let frozen = Frozen { command_id: by.jti, ordered_at: by.nbf, until: freeze.until };
        if self.storage().trust.in_force().has_thawed(frozen.ordered_at) {
            let detail = "the trust root has ended every freeze of that time".to_owned();
            let reason = RefusalReason::Expired;
            return Some((Outcome::Refused { reason, detail }, Vec::new()));
        }
        let mut records = Vec::new();
        if self.frozen().is_none() {
            // One that is over, by the trust root's word as well, lends its end to no other.
            records.push(Record::Thawed);
        }
        records.push(Record::Frozen(frozen));
        let mut stopped = Vec::new();
        for work in self.ledger.waiting() {
            if claims(&work.envelope).is_some_and(|envelope| destroys(&envelope)) {
                stopped.push(work.command_id.to_string());
                let detail = format!("stopped by a freeze until {}", frozen.until.rfc3339());
                records.push(self.refuse_waiting(&work, RefusalReason::Frozen, detail)?);
            }
        }
        let evidence =
            Evidence::new().with("until", frozen.until.as_millis()).with("stopped", stopped);
        Some((Outcome::Succeeded { evidence }, records))
    }

    /// The end of a command that has not begun.
    fn refuse_waiting(&self, work: &Work, reason: RefusalReason, detail: String) -> Option<Record> {
        let outcome = Outcome::Refused { reason, detail };
        let receipt = self.sign(about(work), Times::moment(self.wall()), outcome)?;
        Some(Record::Done { command_id: work.command_id, receipt })
    }

    /// The step that a command has come to which has begun.
    fn step_of(&self, command_id: CommandId) -> &'static str {
        let running = Lane::ALL.into_iter().filter_map(|lane| self.running.get(lane).as_ref());
        let its = running.into_iter().find(|running| running.command_id() == command_id);
        its.map_or("apply", Running::step)
    }

    /// The freeze that holds now. A server's word moves the lower bound of time by so much as two
    /// clocks may differ: a freeze ends later by that, so that no word of a server ends it early.
    pub(super) fn frozen(&self) -> Option<Frozen> {
        let trust = self.storage().trust.in_force();
        self.ledger.frozen().filter(|frozen| {
            self.now() < frozen.until.plus(limits::CLOCK_SKEW)
                && !trust.has_thawed(frozen.ordered_at)
        })
    }

    /// Why a command that destroys is not to begin, though it verifies.
    pub(super) fn stopped(&self, envelope: &Envelope) -> Option<Refusal> {
        if can_be_called_back(envelope) && self.ledger.is_barred(envelope.order_id()) {
            let detail = "called back before it came";
            return Some(Refusal::new(RefusalReason::Cancelled, detail).of(envelope));
        }
        let frozen = self.frozen().filter(|_| destroys(envelope))?;
        let detail = format!("a freeze holds until {}", frozen.until.rfc3339());
        Some(Refusal::new(RefusalReason::Frozen, detail).of(envelope))
    }
}

fn can_be_called_back(envelope: &Envelope) -> bool {
    envelope.action().verb().can_be_called_back()
}

fn destroys(envelope: &Envelope) -> bool {
    match envelope.action().verb().class() {
        VerbClass::Destructive => true,
        VerbClass::Routine | VerbClass::Disruptive | VerbClass::Stop => false,
    }
}

fn called_back(command_id: CommandId) -> Outcome {
    let evidence =
        Evidence::new().with("result", "called_back").with("command_id", command_id.to_string());
    Outcome::Succeeded { evidence }
}

fn too_late(command_id: CommandId, step: &str) -> Outcome {
    let failure = failure(FailureKind::Precondition, "apply", format!("too late: it is at {step}"));
    let evidence = Evidence::new()
        .with("result", "too_late")
        .with("step", step)
        .with("command_id", command_id.to_string());
    Outcome::Failed { failure, evidence }
}

/// Whether this receipt of our own says that its command was called back.
fn was_cancelled(receipt: &CompactJws) -> bool {
    let claims = jws::parse(receipt, receipt::TYP, limits::RECEIPT_BYTES)
        .and_then(|parsed| parsed.claims::<Receipt>());
    let is_it =
        |outcome| matches!(outcome, Outcome::Refused { reason: RefusalReason::Cancelled, .. });
    claims.is_ok_and(|receipt| is_it(receipt.outcome))
}

fn about(work: &Work) -> About {
    About::of(work.command_id, &work.envelope)
}
