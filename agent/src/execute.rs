//! The executors: one per verb, each acting on the endpoint through a [`Host`] and nothing else.
//!
//! Every executor goes the same way: `plan` looks without changing, `apply` acts, `prove` looks
//! again and returns what it observed, `recover` decides what a crash between intent and outcome
//! left behind. One whose effect takes long proves what counts first and does the rest in
//! `finish`, after which it is proved again. Executors know nothing of envelopes, the network or
//! the journal; they are blocking code, and the agent runs them off its event loop.

use std::fmt;
use std::time::Duration;

use protocol::action::Action;
use protocol::id::CommandId;
use protocol::manifest::Hash;
use protocol::receipt::{Evidence, Failure, FailureKind};
use protocol::time::Timestamp;

use self::course::Course;
use self::rotate::Escrowing;
use crate::host::{Arming, Host};

pub mod collect;
pub mod course;
pub mod lock;
pub mod nobody;
pub mod planned;
pub mod quarantine;
pub mod reboot;
pub mod refresh;
pub mod rotate;
pub mod script;
pub mod simulated;
pub mod state_file;
pub mod tool;
pub mod wipe;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

/// What an executor is told about the command it serves.
#[derive(Debug, Clone)]
pub struct Task {
    /// The command.
    pub command_id: CommandId,
    /// The envelope as received: state that outlives a reboot keeps it as its own justification.
    pub envelope: String,
    /// When the agent began, by the device's clock.
    pub started_at: Timestamp,
    /// The script that came with the command, if its verb runs one.
    pub script: Option<String>,
    /// What binds its steps to the agent.
    pub course: Course,
}

/// What a dry run found: what `apply` would do, and to what.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// One line per intended change, for a person.
    pub steps: Vec<String>,
    /// The same for programs, hashed into the approval of a destructive action.
    pub facts: Evidence,
}

impl Plan {
    /// What an approval binds: the hash of exactly these facts.
    pub fn hash(&self) -> Hash {
        Hash::sha256(&serde_json::to_vec(&self.facts).expect("observations are JSON already"))
    }
}

/// What a crash between intent and outcome left behind.
#[derive(Debug)]
pub enum Recovery {
    /// The effect is complete: go on to `prove`.
    Applied,
    /// Applying (again) leads to the intended state.
    Apply,
    /// It cannot be known; the command ends `in_doubt`.
    InDoubt,
}

/// What the agent does once the receipt is confirmed, or its time for that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// Goes on.
    Nothing,
    /// Powers the device off.
    PowerOff,
}

/// One verb with its parameters, ready to act on a host.
pub trait Executor: fmt::Debug + Send + Sync {
    /// Finds out, without changing anything, whether and how the action can be done.
    fn plan(&self, host: &Host, task: &Task) -> Result<Plan, Failure>;

    /// Acts. Called at most once per intent, except after [`Recovery::Apply`].
    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure>;

    /// Observes the effect. Never trusts that `apply` returned without error.
    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure>;

    /// Whether what was proved is only the first part, and `finish` is to follow once its proof
    /// has left the device.
    fn has_remainder(&self, _host: &Host, _task: &Task) -> bool {
        false
    }

    /// Does the rest. Like `apply` it is called again after a crash.
    fn finish(&self, _host: &Host, _task: &Task) -> Result<(), Failure> {
        Ok(())
    }

    /// What the control plane itself must hold before `finish`, if anything: then `finish` follows
    /// only when it says so, and `withdraw` when it does not in time.
    fn escrow(&self, _host: &Host, _task: &Task) -> Option<Escrowing> {
        None
    }

    /// Takes back what was not escrowed. Answers how the command ends; after a crash `apply` is
    /// called again, and comes to the same.
    fn withdraw(&self, _host: &Host, _task: &Task) -> Failure {
        failure(FailureKind::Internal, "withdraw", "there is nothing to take back")
    }

    /// What there is to say of an effect that failed: it goes into the receipt beside the failure.
    fn remains(&self, _host: &Host, _task: &Task) -> Evidence {
        Evidence::new()
    }

    /// Decides what to do about an intent without an outcome.
    fn recover(&self, host: &Host, task: &Task) -> Recovery;

    /// Whether what is left on the device shows that this command began. Without that a command
    /// that may as well have been called back in its undo window is not carried out.
    fn has_begun(&self, _host: &Host, _task: &Task) -> bool {
        false
    }

    /// How long the device may take to go down, when only the next boot shows the effect: then
    /// nothing is proven in this one.
    fn awaits_boot(&self) -> Option<Duration> {
        None
    }

    /// How long one step may take, where most get `usual`. `None`: as long as it needs, because
    /// giving it up would be worse.
    fn budget(&self, usual: Duration) -> Option<Duration> {
        Some(usual)
    }

    /// Whether what `apply` began goes on when the agent stops: then it is left to the next agent,
    /// which recovers it.
    fn outlives_the_agent(&self) -> bool {
        false
    }

    /// What follows when the receipt is safe.
    fn afterwards(&self) -> Afterwards {
        Afterwards::Nothing
    }
}

/// The executor of an action on a host that is armed like that.
pub fn executor(action: &Action, arming: Arming) -> Box<dyn Executor> {
    match (arming, action) {
        (_, Action::Cancel(_) | Action::Freeze(_) | Action::Thaw(_)) => Box::new(nobody::Nobody),
        (_, Action::Plan(plan)) => Box::new(planned::Planned::new(executor(&plan.of, arming))),
        (Arming::Simulated, _) => Box::new(simulated::Simulated::new(action.verb())),
        (Arming::Armed | Arming::Sandboxed, Action::Lock(params)) => {
            Box::new(lock::LockExecutor::new(params.clone()))
        }
        (Arming::Armed | Arming::Sandboxed, Action::Unlock(params)) => {
            Box::new(lock::UnlockExecutor::new(params.clone()))
        }
        (Arming::Armed | Arming::Sandboxed, Action::Quarantine(params)) => {
            Box::new(quarantine::Quarantine::new(params.clone()))
        }
        (Arming::Armed | Arming::Sandboxed, Action::Release(_)) => Box::new(quarantine::Release),
        (Arming::Armed | Arming::Sandboxed, Action::Wipe(params)) => {
            Box::new(wipe::Wipe::new(params.clone()))
        }
        (Arming::Armed | Arming::Sandboxed, Action::SelectiveWipe(_)) => {
            Box::<wipe::selective::SelectiveWipe>::default()
        }
        (Arming::Armed | Arming::Sandboxed, Action::Reboot(_)) => Box::new(reboot::Reboot),
        (Arming::Armed | Arming::Sandboxed, Action::RunScript(params)) => {
            Box::new(script::RunScript::new(params.clone()))
        }
        (Arming::Armed | Arming::Sandboxed, Action::CollectEvidence(params)) => {
            Box::new(collect::CollectEvidence::new(params.clone()))
        }
        (Arming::Armed | Arming::Sandboxed, Action::RotateCredentials(params)) => {
            Box::new(rotate::RotateCredentials::new(params.clone()))
        }
        (Arming::Armed | Arming::Sandboxed, Action::CryptoLock(params)) => {
            Box::new(rotate::CryptoLock::new(params))
        }
        (Arming::Armed | Arming::Sandboxed, Action::Refresh(_)) => Box::new(refresh::Refresh),
    }
}

/// A failure at a stage, with the particulars for a person.
pub fn failure(kind: FailureKind, stage: &str, detail: impl fmt::Display) -> Failure {
    Failure { kind, stage: stage.to_owned(), detail: detail.to_string() }
}

/// SHA-256 in lowercase hexadecimal, the form that evidence and facts use.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

/// Lowercase hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
