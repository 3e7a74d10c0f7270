//! Outcomes and their receipts, and the power-off that may follow.

use protocol::action::{Action, Verb};
use protocol::id::{BootId, CommandId, OrderId};
use protocol::jws::{self, CompactJws};
use protocol::ledger::Record;
use protocol::limits;
use protocol::receipt::{self, Evidence, Outcome, Receipt};
use protocol::time::Timestamp;

use super::deliveries::claims;
use super::{PowerOff, Reconcile};

/// What a receipt is about.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) command_id: CommandId,
    pub(super) order_id: Option<OrderId>,
    pub(super) verb: Option<Verb>,
    pub(super) envelope_sha256: String,
}

/// From when to when, by the device's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) started_at: Timestamp,
    pub(super) finished_at: Timestamp,
}

impl Times {
    pub(super) const fn moment(at: Timestamp) -> Self {
        Self { started_at: at, finished_at: at }
    }
}

impl Reconcile {
    /// The signed receipt; `None` when the key does not sign, which is logged.
    pub(super) fn sign(&self, about: About, times: Times, outcome: Outcome) -> Option<CompactJws> {
        let identity = self.core.identity.borrow().clone();
        let mut receipt = Receipt {
            iss: identity.device_id,
            generation: identity.generation,
            command_id: about.command_id,
            order_id: about.order_id,
            verb: about.verb,
            outcome,
            started_at: times.started_at,
            finished_at: times.finished_at,
            boot_id: self.core.boot_id,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            envelope_sha256: about.envelope_sha256,
        };
        let mut signed = self.core.key.sign(&receipt);
        if signed.as_ref().is_ok_and(|jws| jws.as_str().len() > limits::RECEIPT_BYTES) {
            // The outcome must arrive, even if what was observed does not fit beside it.
            receipt.outcome = without_evidence(receipt.outcome);
            signed = self.core.key.sign(&receipt);
        }
        signed.inspect_err(|error| tracing::error!(%error, "receipt was not signed")).ok()
    }

    pub(super) fn await_power_off(&mut self, command_id: CommandId) {
        let deadline = self.core.clock.now() + self.core.config.power_off_wait;
        self.power_off = Some(PowerOff { command_id, deadline });
    }

    /// Powers off once the receipt is confirmed, or has had its time.
    pub(super) async fn power_off_when_due(&mut self, now: std::time::Instant) {
        let Some(power_off) = &self.power_off else { return };
        let waits = self.ledger.unconfirmed().any(|(id, _)| id == power_off.command_id);
        if waits && now < power_off.deadline {
            return;
        }
        tracing::warn!(command.id = %power_off.command_id, confirmed = !waits, "powering off");
        self.power_off = None;
        let host = self.core.host.clone();
        match tokio::task::spawn_blocking(move || host.power_off()).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => self.last_error = Some(format!("power off: {}", failure.detail)),
            Err(error) => self.fault("power off did not end", &error),
        }
    }
}

fn without_evidence(outcome: Outcome) -> Outcome {
    let evidence = Evidence::new().with("too_long", true);
    match outcome {
        Outcome::Succeeded { .. } => Outcome::Succeeded { evidence },
        Outcome::Failed { mut failure, .. } => {
            failure.detail = failure.detail.chars().take(limits::TEXT_CHARS).collect();
            Outcome::Failed { failure, evidence }
        }
        Outcome::Refused { reason, detail } => {
            let detail = detail.chars().take(limits::TEXT_CHARS).collect();
            Outcome::Refused { reason, detail }
        }
        Outcome::InDoubt { stage } => Outcome::InDoubt { stage },
    }
}

/// The command that succeeded in this boot and orders a power-off: the machine is still on, so
/// the agent ended before it came to that.
pub(super) fn pending_power_off(records: &[Record], boot_id: BootId) -> Option<CommandId> {
    let wants = |record: &&Record| match record {
        Record::Received(received) => claims(&received.envelope).is_some_and(
            |envelope| matches!(envelope.action(), Action::Wipe(wipe) if wipe.power_off),
        ),
        Record::Intent { .. }
        | Record::Done { .. }
        | Record::Refused(_)
        | Record::Confirmed { .. }
        | Record::Sequence { .. } => false,
    };
    let ended = |id: CommandId| {
        records.iter().any(|record| match record {
            Record::Done { command_id, receipt } => {
                *command_id == id && has_succeeded(receipt, boot_id)
            }
            Record::Received(_)
            | Record::Intent { .. }
            | Record::Refused(_)
            | Record::Confirmed { .. }
            | Record::Sequence { .. } => false,
        })
    };
    records.iter().filter(wants).find_map(|record| match record {
        Record::Received(received) => Some(received.command_id).filter(|id| ended(*id)),
        Record::Intent { .. }
        | Record::Done { .. }
        | Record::Refused(_)
        | Record::Confirmed { .. }
        | Record::Sequence { .. } => None,
    })
}

/// Whether this receipt of our own tells of a success in that boot.
fn has_succeeded(receipt: &CompactJws, boot_id: BootId) -> bool {
    jws::parse(receipt, receipt::TYP, limits::RECEIPT_BYTES)
        .and_then(|parsed| parsed.claims::<Receipt>())
        .is_ok_and(|receipt| {
            receipt.boot_id == boot_id && matches!(receipt.outcome, Outcome::Succeeded { .. })
        })
}
