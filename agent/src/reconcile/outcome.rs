//! Outcomes and their receipts, and the power-off that may follow.

use std::time::{Duration, Instant};

use protocol::action::{Action, Verb};
use protocol::envelope::{Envelope, check_approval};
use protocol::grade::Grade;
use protocol::id::{BootId, CommandId, OrderId};
use protocol::jws::{self, CompactJws};
use protocol::ledger::Record;
use protocol::limits;
use protocol::proof::Proof;
use protocol::receipt::{self, Evidence, Outcome, Receipt};
use protocol::state::Lane;
use protocol::time::Timestamp;
use protocol::trust::Role;

use serde_json::Value;

use super::Reconcile;
use super::deliveries::claims;
use crate::execute::wipe;
use crate::host::Shutdown;
use crate::worker::Job;

#[cfg(test)]
mod tests;

/// How long after a power-off that did not work the next one is tried.
const POWER_OFF_RETRY: Duration = Duration::from_secs(60);

/// Bytes of a name or text that stays in a receipt which is too long.
const SHORT_BYTES: usize = 128;
/// Bytes of the lists that stay in it.
const SHORT_LISTS_BYTES: usize = 2048;

/// A power-off that waits for its receipt to be confirmed, and then for the device to go down.
#[derive(Debug)]
pub(super) struct PowerOff {
    command_id: CommandId,
    /// The longest that it waits.
    deadline: Instant,
    /// The store holds its receipt, though there may be no disk left to write that down.
    is_confirmed: bool,
    /// It was tried and did not work: when to try again.
    retry_at: Option<Instant>,
    /// The device is going down, which takes as long as its services take to stop.
    is_under_way: bool,
}

/// What a receipt is about.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) command_id: CommandId,
    pub(super) order_id: Option<OrderId>,
    pub(super) verb: Option<Verb>,
    pub(super) envelope_sha256: String,
}

impl About {
    /// About a command that was received in that envelope.
    pub(super) fn of(command_id: CommandId, envelope: &CompactJws) -> Self {
        let claims = claims(envelope);
        Self {
            command_id,
            order_id: claims.as_ref().map(Envelope::order_id),
            verb: claims.as_ref().map(|claims| claims.action().verb()),
            envelope_sha256: envelope.sha256(),
        }
    }
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
            // The outcome must arrive, even if not all that was observed fits beside it.
            receipt.outcome = without_lists(receipt.outcome);
            signed = self.core.key.sign(&receipt);
        }
        signed.inspect_err(|error| tracing::error!(%error, "receipt was not signed")).ok()
    }

    /// What was observed, and who of break-glass stood in for the approvers: the device says it as
    /// well, whatever its control plane says.
    pub(super) fn on_whose_word(&self, envelope: &Envelope, evidence: Evidence) -> Evidence {
        let trust = self.storage().trust.in_force();
        let approved = envelope.approvals.iter().filter_map(|approval| {
            let approved = check_approval(approval, &envelope.manifest, trust).ok()?;
            (approved.role == Role::BreakGlass).then(|| approved.approver.person.to_string())
        });
        let persons: Vec<_> = approved.collect();
        if persons.is_empty() { evidence } else { evidence.with("break_glass", persons) }
    }

    /// The signed proof of what a command has come to so far; `None` when the key does not sign. Of what does not fit
    /// only the short observations are told, as in a receipt.
    pub(super) fn sign_proof(&self, job: &Job, evidence: Evidence) -> Option<CompactJws> {
        let identity = self.core.identity.borrow().clone();
        let mut proof = Proof {
            iss: identity.device_id,
            generation: identity.generation,
            command_id: job.task.command_id,
            order_id: job.envelope.order_id(),
            verb: job.envelope.action().verb(),
            evidence,
            proved_at: self.wall(),
            boot_id: self.core.boot_id,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            envelope_sha256: job.envelope_sha256.clone(),
        };
        let mut signed = self.core.key.sign_proof(&proof);
        if signed.as_ref().is_ok_and(|jws| jws.as_str().len() > limits::RECEIPT_BYTES) {
            proof.evidence = shortened(&proof.evidence);
            signed = self.core.key.sign_proof(&proof);
        }
        signed.inspect_err(|error| tracing::error!(%error, "proof was not signed")).ok()
    }

    /// From now on the power-off of that command waits for the confirmation of its receipt.
    pub(super) fn await_power_off(&mut self, command_id: CommandId) {
        if self.power_off.as_ref().is_some_and(|waiting| waiting.command_id == command_id) {
            return;
        }
        let deadline = self.core.clock.now() + self.core.config.power_off_wait;
        let (retry_at, is_confirmed, is_under_way) = (None, false, false);
        self.power_off =
            Some(PowerOff { command_id, deadline, is_confirmed, retry_at, is_under_way });
    }

    /// The store holds these. Where the journal went with the disk, that is all that is known of it.
    pub(super) fn power_off_confirmed(&mut self, sha256s: &[String]) {
        let Some(power_off) = &mut self.power_off else { return };
        let command_id = power_off.command_id;
        let ended = Lane::ALL.into_iter().filter_map(|lane| self.running.get(lane).as_ref());
        let ended = ended.filter(|running| running.command_id() == command_id);
        let written = self.ledger.unconfirmed().filter(|(id, _)| *id == command_id);
        let mut receipts =
            written.map(|(_, jws)| jws).chain(ended.filter_map(|running| running.receipt()));
        if receipts.any(|jws| sha256s.contains(&jws.sha256())) {
            (power_off.is_confirmed, power_off.deadline) = (true, self.core.clock.now());
        }
    }

    /// Powers off once the receipt is confirmed, or has had its time.
    ///
    /// There is no record of it: a device that runs in the boot in which its wipe succeeded was
    /// not powered off, whatever a record would say, and is as soon as the agent starts again. In
    /// the next boot it is not: somebody switched it on.
    pub(super) async fn power_off_when_due(&mut self, now: Instant) {
        let Some(power_off) = self.power_off.as_ref().filter(|its| !its.is_under_way) else {
            return;
        };
        let is_unconfirmed = !power_off.is_confirmed && self.is_unconfirmed(power_off.command_id);
        let is_due = match power_off.retry_at {
            Some(retry_at) => retry_at <= now,
            None => !is_unconfirmed || power_off.deadline <= now,
        };
        if !is_due {
            return;
        }
        tracing::warn!(
            command.id = %power_off.command_id,
            confirmed = !is_unconfirmed,
            "powering off"
        );
        let host = self.core.host.clone();
        let power_off = move || host.shut_down(Shutdown::PowerOff);
        let outcome = self.core.blocking.run(power_off).await;
        let error = match outcome {
            Ok(Ok(())) => {
                // Kept: until this process ends its command is not over.
                if let Some(power_off) = &mut self.power_off {
                    power_off.is_under_way = true;
                }
                return;
            }
            Ok(Err(failure)) => failure.detail,
            Err(error) => error.to_string(),
        };
        tracing::error!(error, "device was not powered off");
        self.last_error = Some(format!("power off: {error}"));
        if let Some(power_off) = &mut self.power_off {
            power_off.retry_at = Some(now + POWER_OFF_RETRY);
        }
    }

    /// The commands that are not over: one that has ended and powers the device off is not until it is off.
    pub(super) fn not_over(&self) -> Vec<CommandId> {
        let ending = self.power_off.as_ref().map(|power_off| power_off.command_id);
        self.ledger.open_commands().chain(ending).collect()
    }

    /// The receipt for which the power-off waits, where no disk took it.
    pub(super) fn unwritten(&self) -> Option<(CommandId, &CompactJws)> {
        let power_off = self.power_off.as_ref().filter(|its| !its.is_confirmed)?;
        let running = Lane::ALL.into_iter().filter_map(|lane| self.running.get(lane).as_ref());
        let mut its = running.filter(|running| running.command_id() == power_off.command_id);
        its.find_map(|running| Some((power_off.command_id, running.receipt()?)))
    }

    /// Whether the store may not hold the outcome of that command: it waits to be written here,
    /// or to be confirmed from there.
    fn is_unconfirmed(&self, command_id: CommandId) -> bool {
        let ends = |lane: Lane| {
            let running = self.running.get(lane).as_ref();
            running.is_some_and(|running| running.command_id() == command_id)
        };
        self.ledger.unconfirmed().any(|(id, _)| id == command_id) || Lane::ALL.into_iter().any(ends)
    }
}

impl PowerOff {
    /// When it comes at the latest, unless it is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_under_way).then(|| self.retry_at.unwrap_or(self.deadline))
    }
}

/// What is short of what was observed: counts, grades and words. Whether a device goes down, and what a wipe is worth,
/// is told by those, also to the agent that starts again. Of lists as many as fit, the shortest first: whose accounts were
/// left open, and how the doors were.
fn shortened(evidence: &Evidence) -> Evidence {
    let named = || evidence.iter().filter(|(name, _)| name.len() <= SHORT_BYTES);
    let is_list = |value: &Value| matches!(value, Value::Array(_) | Value::Object(_));
    let is_short = |value: &Value| match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => text.len() <= SHORT_BYTES,
        Value::Array(_) | Value::Object(_) => false,
    };
    let short = named().filter(|(_, value)| is_short(value)).take(limits::LIST_ENTRIES);
    let short = short.fold(Evidence::new(), |short, (name, value)| short.with(name, value.clone()));
    let lists = named().filter(|(_, value)| is_list(value));
    let mut lists: Vec<_> =
        lists.map(|list| (list.0.len() + list.1.to_string().len(), list)).collect();
    lists.sort_by_key(|(bytes, _)| *bytes);
    let mut left = SHORT_LISTS_BYTES;
    let fit = lists.into_iter().map_while(|(bytes, list)| {
        left = left.checked_sub(bytes)?;
        Some(list)
    });
    let short = fit.fold(short, |short, (name, value)| short.with(name, value.clone()));
    short.with("too_long", true)
}

fn without_lists(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Succeeded { evidence } => Outcome::Succeeded { evidence: shortened(&evidence) },
        Outcome::Failed { mut failure, evidence } => {
            let evidence = shortened(&evidence);
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

/// Whether that was done after which a device goes down: all of it, or the first part, whose proof stands by
/// itself, or, of a wipe that failed, the first part on some volumes.
pub(super) fn has_effect(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Succeeded { .. } => true,
        Outcome::Failed { evidence, .. } => {
            Grade::claimed(evidence).is_some() || wipe::has_destroyed_some(evidence)
        }
        Outcome::Refused { .. } | Outcome::InDoubt { .. } => false,
    }
}

/// The command that was proved in this boot and orders a power-off: the machine is still on, so
/// the agent ended before it came to that.
pub(super) fn pending_power_off(records: &[Record], boot_id: BootId) -> Option<CommandId> {
    let wants = |record: &&Record| match record {
        Record::Received(received) => {
            claims(&received.envelope).is_some_and(|envelope| powers_off(envelope.action()))
        }
        Record::Intent { .. }
        | Record::Done { .. }
        | Record::Refused(_)
        | Record::Confirmed { .. }
        | Record::Order { .. }
        | Record::Sequence { .. }
        | Record::Held(_)
        | Record::Barred { .. }
        | Record::Frozen(_)
        | Record::Thawed => false,
    };
    let ended = |id: CommandId| {
        records.iter().any(|record| match record {
            Record::Done { command_id, receipt } => *command_id == id && was_done(receipt, boot_id),
            Record::Received(_)
            | Record::Intent { .. }
            | Record::Refused(_)
            | Record::Confirmed { .. }
            | Record::Order { .. }
            | Record::Sequence { .. }
            | Record::Held(_)
            | Record::Barred { .. }
            | Record::Frozen(_)
            | Record::Thawed => false,
        })
    };
    records.iter().filter(wants).find_map(|record| match record {
        Record::Received(received) => Some(received.command_id).filter(|id| ended(*id)),
        Record::Intent { .. }
        | Record::Done { .. }
        | Record::Refused(_)
        | Record::Confirmed { .. }
        | Record::Order { .. }
        | Record::Sequence { .. }
        | Record::Held(_)
        | Record::Barred { .. }
        | Record::Frozen(_)
        | Record::Thawed => None,
    })
}

/// Whether the device goes down when that is done.
const fn powers_off(action: &Action) -> bool {
    match action {
        Action::Wipe(wipe) => wipe.power_off,
        Action::CryptoLock(_) => true,
        Action::Lock(_)
        | Action::Unlock(_)
        | Action::Quarantine(_)
        | Action::Release(_)
        | Action::SelectiveWipe(_)
        | Action::Plan(_)
        | Action::Reboot(_)
        | Action::RunScript(_)
        | Action::CollectEvidence(_)
        | Action::RotateCredentials(_)
        | Action::Refresh(_)
        | Action::Cancel(_)
        | Action::Freeze(_)
        | Action::Thaw(_) => false,
    }
}

/// Whether this receipt of our own tells of something proved in that boot.
fn was_done(receipt: &CompactJws, boot_id: BootId) -> bool {
    jws::parse(receipt, receipt::TYP, limits::RECEIPT_BYTES)
        .and_then(|parsed| parsed.claims::<Receipt>())
        .is_ok_and(|receipt| receipt.boot_id == boot_id && has_effect(&receipt.outcome))
}
