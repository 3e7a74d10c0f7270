//! Offline codes: what ends a lock or a quarantine on a device that reaches nobody.
//!
//! Owns the judgement: which order stands, by what it knows its code, how often somebody tried, and
//! that a code is used once. The code ends the order on the way that a signed order would, and the
//! control plane is told when the device is back. Must not run beside an executor: the running
//! agent sees to that, and without one whoever holds the state directory.

use std::time::{Duration, Instant};

use protocol::action::Unlock;
use protocol::envelope::Envelope;
use protocol::envelope::TYP;
use protocol::id::{BootId, CommandId, DeviceId, OrderId};
use protocol::jws::{self, CompactJws};
use protocol::limits;
use protocol::manifest::Hash;
use protocol::offline::OfflineCode;
use protocol::receipt::{Failure, FailureKind};
use protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use self::record::{Phase, Record, Use};
use crate::execute::course::Course;
use crate::execute::lock::{self, UnlockExecutor};
use crate::execute::quarantine::{self, Release};
use crate::execute::state_file::StateFile as _;
use crate::execute::{Executor, Task, failure};
use crate::host::Host;

pub use self::desk::{AskError, ask, carry_out};
pub(crate) use self::desk::{Asked, Desk, serve};

mod desk;
mod record;

/// The stage that failures name.
const STAGE: &str = "offline";
/// The longest wait between two tries.
const LONGEST_WAIT: u64 = 60 * 60;

/// What a code ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The lock.
    Lock,
    /// The quarantine.
    Quarantine,
}

impl Effect {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Lock, Self::Quarantine];

    /// The word of the notice that a code ended it.
    pub(crate) const fn notice(self) -> &'static str {
        match self {
            Self::Lock => "unlocked_offline",
            Self::Quarantine => "released_offline",
        }
    }
}

/// What becomes of a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It was the right one: the order is at its end.
    Ended {
        /// The command that is ended.
        command_id: CommandId,
    },
    /// No such order stands.
    Absent,
    /// The order that stands has no code.
    NoCode,
    /// The code of this order was used before.
    Used,
    /// It is another one. So long nobody may try again.
    Wrong {
        /// Seconds.
        wait_secs: u64,
        /// The command that stands.
        command_id: CommandId,
    },
    /// It is too early after a wrong one. It was not looked at.
    Wait {
        /// Seconds.
        wait_secs: u64,
    },
    /// It is no code at all. That counts for nothing.
    Mistyped {
        /// Where.
        detail: String,
    },
    /// An order is being carried out. It was not looked at.
    Busy,
    /// The device could not do it.
    Failed {
        /// Why.
        detail: String,
    },
}

/// When a code is tried.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since when nobody has tried, as far as this process knows: its own start at first.
    pub since: Instant,
    /// Monotonic time.
    pub now: Instant,
    /// Wall time.
    pub at: Timestamp,
    /// The boot.
    pub boot_id: BootId,
}

/// How long nobody may try after so many wrong codes. It is counted from the last try or from the
/// start of the process that judges, whichever is later: neither a restart nor a clock shortens it.
const fn wait(wrong: u32) -> Duration {
    match 1_u64.checked_shl(wrong) {
        _ if wrong == 0 => Duration::ZERO,
        Some(secs) if secs < LONGEST_WAIT => Duration::from_secs(secs),
        Some(_) | None => Duration::from_secs(LONGEST_WAIT),
    }
}

/// Ends what stands if the code is the one of its order. Whether anything was compared, and hence a
/// new wait begins, is said by the answer.
pub fn end(host: &Host, effect: Effect, code: &str, moment: Moment) -> Answer {
    let code: OfflineCode = match code.parse() {
        Ok(code) => code,
        Err(error) => return Answer::Mistyped { detail: format!("{error}") },
    };
    judge(host, effect, &code, moment)
        .unwrap_or_else(|failure| Answer::Failed { detail: failure.detail })
}

fn judge(
    host: &Host,
    effect: Effect,
    code: &OfflineCode,
    moment: Moment,
) -> Result<Answer, Failure> {
    let Some(standing) = Standing::of(host, effect)? else { return Ok(Answer::Absent) };
    let Some(commitment) = standing.commitment else { return Ok(Answer::NoCode) };
    let Some(Ordered { order_id, device }) = Ordered::by(standing.envelope.as_str()) else {
        return Ok(Answer::NoCode);
    };
    let command_id = standing.command_id;
    let mut record = Record::load(host, STAGE)?.unwrap_or_default();
    if record.phase(order_id) == Some(Phase::Ended) {
        return Ok(Answer::Used);
    }
    let tried_for = moment.now.saturating_duration_since(moment.since);
    let left = wait(record.wrong(order_id)).saturating_sub(tried_for);
    if !left.is_zero() {
        return Ok(Answer::Wait { wait_secs: whole_secs(left) });
    }
    // It counts before it is looked at: whoever cuts the power gains no try.
    record.try_once(order_id);
    record.save(host, STAGE)?;
    if !code.opens(&device, &commitment) {
        let wait_secs = whole_secs(wait(record.wrong(order_id)));
        tracing::warn!(command.id = %command_id, wait_secs, "wrong offline code");
        return Ok(Answer::Wrong { wait_secs, command_id });
    }
    tracing::warn!(command.id = %command_id, "offline code is right");
    record.begin(Use {
        order_id,
        command_id,
        effect,
        at: moment.at,
        boot_id: moment.boot_id,
        phase: Phase::Begun,
        is_told: false,
    });
    record.save(host, STAGE)?;
    standing.end(host, effect, moment.at)?;
    record.ended(command_id);
    record.save(host, STAGE)?;
    Ok(Answer::Ended { command_id })
}

/// Brings to its end what a code had begun to end when the power went, or when something was in the
/// way. Before anything is put up again. One that does not end keeps no other from it.
///
/// # Errors
/// The first thing that the unlocking or releasing came to, or the record.
pub(crate) fn resume(host: &Host) -> Result<(), Failure> {
    let Some(mut record) = Record::load(host, STAGE)? else { return Ok(()) };
    let begun: Vec<Use> = record.begun().cloned().collect();
    let mut outcome = Ok(());
    for used in begun {
        let ended = bring_to_its_end(host, &mut record, &used);
        outcome = outcome.and(ended);
    }
    outcome
}

fn bring_to_its_end(host: &Host, record: &mut Record, used: &Use) -> Result<(), Failure> {
    let standing = Standing::of(host, used.effect)?;
    if let Some(standing) = standing.filter(|one| one.command_id == used.command_id) {
        tracing::warn!(command.id = %used.command_id, "what a code had begun to end ends");
        standing.end(host, used.effect, used.at)?;
    }
    record.ended(used.command_id);
    record.save(host, STAGE)
}

/// That no code has ended this order: it is not carried out once more, whatever a journal says and
/// under whichever command it comes.
///
/// # Errors
/// `Precondition` when one has.
pub(crate) fn forbid(host: &Host, task: &Task) -> Result<(), Failure> {
    let Some(Ordered { order_id, .. }) = Ordered::by(&task.envelope) else { return Ok(()) };
    // A record that cannot be read takes no code, but must not keep a device from being locked.
    let record = Record::load(host, "apply").unwrap_or_else(|failure| {
        tracing::error!(detail = failure.detail, "the record of offline codes cannot be read");
        None
    });
    match record.and_then(|record| record.phase(order_id)) {
        None => Ok(()),
        Some(Phase::Begun | Phase::Ended) => {
            let detail = "its offline code has ended this order";
            Err(failure(FailureKind::Precondition, "apply", detail))
        }
    }
}

/// By what this device knows the code of an order that it is about to carry out. Kept beside what it
/// does: an envelope that an agent verified which knew no codes must not bring one later.
pub(crate) fn commitment(task: &Task) -> Option<Hash> {
    let envelope = claims(&task.envelope)?;
    envelope.manifest.offline_codes.get(&envelope.aud).copied()
}

/// Of which order an envelope is, and for which device.
struct Ordered {
    order_id: OrderId,
    device: DeviceId,
}

impl Ordered {
    fn by(envelope: &str) -> Option<Self> {
        let envelope = claims(envelope)?;
        Some(Self { order_id: envelope.order_id(), device: envelope.aud })
    }
}

/// The claims of an envelope that was verified before it took effect, and since then lay where only
/// root writes. It is not verified again, because the trust root may have moved on.
fn claims(envelope: &str) -> Option<Envelope> {
    let jws = CompactJws::from_text(envelope.to_owned());
    jws::parse(&jws, TYP, limits::ENVELOPE_BYTES).ok()?.claims().ok()
}

/// The uses that the control plane has not been told of.
pub(crate) fn untold(host: &Host) -> Vec<Use> {
    let record = Record::load(host, STAGE).ok().flatten().unwrap_or_default();
    record.untold().cloned().collect()
}

/// The control plane has been told of these.
pub(crate) fn told(host: &Host, commands: &[CommandId]) -> Result<(), Failure> {
    let Some(mut record) = Record::load(host, STAGE)? else { return Ok(()) };
    commands.iter().for_each(|command_id| record.told(*command_id));
    record.save(host, STAGE)
}

/// An order that stands on this device.
#[derive(Debug)]
struct Standing {
    command_id: CommandId,
    envelope: CompactJws,
    /// By what the device knows its code.
    commitment: Option<Hash>,
}

impl Standing {
    fn of(host: &Host, effect: Effect) -> Result<Option<Self>, Failure> {
        let found = match effect {
            Effect::Lock => lock::current(host)?
                .map(|state| (state.command_id, state.envelope, state.offline_code)),
            Effect::Quarantine => quarantine::justification(host)?,
        };
        Ok(found.map(|(command_id, envelope, commitment)| Self {
            command_id,
            envelope: CompactJws::from_text(envelope),
            commitment,
        }))
    }

    /// Ends it as an order to unlock or to release would.
    fn end(&self, host: &Host, effect: Effect, at: Timestamp) -> Result<(), Failure> {
        let executor: Box<dyn Executor> = match effect {
            Effect::Lock => Box::new(UnlockExecutor::new(Unlock {})),
            Effect::Quarantine => Box::new(Release),
        };
        let task = Task {
            command_id: self.command_id,
            envelope: self.envelope.as_str().to_owned(),
            started_at: at,
            script: None,
            course: Course::default(),
        };
        executor.plan(host, &task)?;
        executor.apply(host, &task)?;
        executor.prove(host, &task).map(|_| ())
    }
}

fn whole_secs(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1000).try_into().unwrap_or(LONGEST_WAIT)
}
