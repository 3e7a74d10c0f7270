//! Commands that come in: taken, known, refused, or out of order.
//!
//! The ledger decides; this writes what it decided and answers only then.

use protocol::envelope::{Envelope, Refusal, TYP, Verifying};
use protocol::frame::{AgentFrame, CommandFrame};
use protocol::jws::{self, CompactJws};
use protocol::ledger::{Answer, Ledger, Offer, Received, Record, Refused};
use protocol::limits;
use protocol::receipt::{Outcome, RefusalReason};

use super::Reconcile;
use super::outcome::{About, Times};

impl Reconcile {
    /// Offers commands to the ledger, in order; what is new shares one sync, and is answered
    /// after it.
    pub(super) async fn deliver(&mut self, commands: Vec<CommandFrame>) {
        if commands.is_empty() || self.retry_at.is_some() {
            // After a failed write nothing is acked before it works again; the server repeats.
            return;
        }
        if self.storage().trust.is_rolled_back() {
            // They come again, behind the trust roots that are missing.
            self.sync.is_due = true;
            return;
        }
        let is_many = commands.len() > 1;
        let mut ahead: Option<Ledger> = None;
        let (mut records, mut answers) = (Vec::new(), Vec::new());
        for frame in commands {
            let ledger = ahead.as_ref().unwrap_or(&self.ledger);
            let Some((record, answer)) = self.judge(ledger, &frame) else {
                self.sync.is_due = true;
                continue;
            };
            if let Some(record) = record {
                if is_many {
                    ahead.get_or_insert_with(|| self.ledger.clone()).apply(&record);
                }
                records.push(record);
            }
            answers.extend(answer);
        }
        if records.is_empty() || self.commit(records).await.is_ok() {
            for answer in answers {
                self.link.send(answer);
            }
        }
    }

    /// What to write and what to answer; `None` when something earlier is missing.
    fn judge(
        &self,
        ledger: &Ledger,
        frame: &CommandFrame,
    ) -> Option<(Option<Record>, Option<AgentFrame>)> {
        let command_id = frame.command_id;
        let offer = ledger.offer(frame, &self.verifying());
        let refusal = match offer {
            Offer::Take(received) => match self.declined(&received) {
                None => {
                    let ack = AgentFrame::Ack { command_id: received.command_id };
                    return Some((Some(Record::Received(*received)), Some(ack)));
                }
                Some(refusal) => refusal,
            },
            Offer::Refuse(refusal) => refusal,
            Offer::Known(Answer::Ack) => {
                return Some((None, Some(AgentFrame::Ack { command_id })));
            }
            Offer::Known(Answer::Receipt(jws)) => {
                return Some((None, Some(AgentFrame::Receipt { command_id, jws })));
            }
            Offer::Drop => return Some((None, None)),
            Offer::Gap => return None,
        };
        tracing::warn!(
            command.id = %command_id,
            reason = refusal.reason.as_str(),
            detail = refusal.detail,
            "command refused"
        );
        let refused = self.refused(frame, refusal)?;
        let receipt =
            AgentFrame::Receipt { command_id: refused.command_id, jws: refused.receipt.clone() };
        Some((Some(Record::Refused(refused)), Some(receipt)))
    }

    /// Verifies as of now.
    pub(super) fn verifying(&self) -> Verifying<'_> {
        let identity = self.core.identity.borrow();
        Verifying {
            device: identity.device_id,
            generation: identity.generation,
            now: self.now(),
            trust: self.storage().trust.in_force(),
            is_simulated: self.core.is_simulated,
        }
    }

    /// Why a new command that verifies is not taken.
    fn declined(&self, received: &Received) -> Option<Refusal> {
        let envelope = claims(&received.envelope)?;
        self.distrusted(&envelope).or_else(|| self.stopped(&envelope))
    }

    /// Why a new command is not believed to be new: it is older than the journal's damage.
    fn distrusted(&self, envelope: &Envelope) -> Option<Refusal> {
        let before = self.storage().floor.distrust_before()?;
        if envelope.iat >= before {
            return None;
        }
        let detail = "signed before this device's journal was damaged; order it again";
        Some(Refusal::new(RefusalReason::Replayed, detail).of(envelope))
    }

    fn refused(&self, frame: &CommandFrame, refusal: Refusal) -> Option<Refused> {
        let authentic = refusal.authentic.as_deref();
        let command_id = authentic.map_or(frame.command_id, |envelope| envelope.jti);
        let envelope_sha256 = frame.jws.sha256();
        let about = About {
            command_id,
            order_id: authentic.map(Envelope::order_id),
            verb: authentic.map(|envelope| envelope.action().verb()),
            envelope_sha256: envelope_sha256.clone(),
        };
        let place = authentic.map(|envelope| (envelope.lane, envelope.seq));
        let outcome = Outcome::Refused { reason: refusal.reason, detail: refusal.detail };
        let receipt = self.sign(about, Times::moment(self.wall()), outcome)?;
        Some(Refused { command_id, place, envelope_sha256, receipt })
    }
}

/// The claims of an envelope that was verified before.
pub(super) fn claims(jws: &CompactJws) -> Option<Envelope> {
    jws::parse(jws, TYP, limits::ENVELOPE_BYTES).ok()?.claims().ok()
}
