//! What a command orders: the verb and its typed parameters.
//!
//! On the wire an action is `{"verb": "...", "params": {...}}`. An agent that does not know the
//! verb, or does not understand its parameters, refuses with `unsupported`; it never guesses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::state::{EffectClass, Lane, VerbClass};
use crate::time::Timestamp;

pub use self::collect::{CollectEvidence, Sources};
pub use self::error::ActionError;
pub use self::rotate::{Credential, CryptoLock, RotateCredentials};
pub use self::script::RunScript;
pub use self::stops::{Cancel, Freeze, Thaw};
pub use self::text::{is_printable, is_script};

mod collect;
mod ended;
mod error;
mod rotate;
mod script;
mod stops;
mod text;

/// An order's verb with its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", content = "params", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Nobody can use the device but the break-glass identity.
    Lock(Lock),
    /// Undoes `lock` exactly.
    Unlock(Unlock),
    /// Cuts the device from every network but the hubs and the control plane.
    Quarantine(Quarantine),
    /// Undoes `quarantine` exactly.
    Release(Release),
    /// Destroys the keys of every configured volume, so that its data is gone.
    Wipe(Wipe),
    /// Destroys the keys of the company's volumes and what the agent wrote; the person's stays.
    SelectiveWipe(SelectiveWipe),
    /// Looks at what a destructive action would do, and has the device sign it.
    Plan(Plan),
    /// Starts the device's system again.
    Reboot(Reboot),
    /// Runs the script of that hash, which travels beside the manifest.
    RunScript(RunScript),
    /// Looks at what runs on the device and at what it was told to collect, and seals it to a case.
    CollectEvidence(CollectEvidence),
    /// Replaces a credential of the device by one that is escrowed first.
    RotateCredentials(RotateCredentials),
    /// Leaves the managed volumes to a new, escrowed recovery key alone, and powers off.
    CryptoLock(CryptoLock),
    /// Sends inventory and asks for policies now.
    Refresh(Refresh),
    /// Calls back an order that destroys, as long as its undo window is open.
    Cancel(Cancel),
    /// Has the device refuse everything that destroys, for a time.
    Freeze(Freeze),
    /// Ends a freeze before its time.
    Thaw(Thaw),
}

/// Parameters of [`Action::Lock`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// How far the lock goes.
    pub level: LockLevel,
    /// What the screen says: whom to call, the case number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a lock goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockLevel {
    /// Screens of graphical sessions only.
    Screen,
    /// Every account but break-glass, every session ended.
    Session,
}

/// Parameters of [`Action::Unlock`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unlock {}

/// Parameters of [`Action::Quarantine`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// Peers that stay reachable besides hubs and control plane, such as a jump host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<AllowedPeer>,
    /// Whether the device's own configured resolvers stay open, on port 53, for everybody on it.
    /// Whoever can ask a resolver can send words to whoever answers for a name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resolver: bool,
    /// Until when it holds; then the device releases itself. Without it only a release ends it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::maybe_date")]
    pub until: Option<Timestamp>,
}

/// One peer that a quarantined device may still talk to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its TCP port, to which the device connects.
    pub tcp_port: u16,
}

/// Parameters of [`Action::Release`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {}

/// Parameters of [`Action::Wipe`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wipe {
    /// How far the wipe goes.
    pub level: WipeLevel,
    /// Whether the device powers off when the proof has left. A mounted volume stays readable
    /// without its keyslots until then.
    pub power_off: bool,
}

/// How far a wipe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WipeLevel {
    /// Headers and keyslots: milliseconds, and no key opens the data again.
    Keys,
    /// Keys first, then the data area is discarded or overwritten.
    Data,
}

/// Parameters of [`Action::SelectiveWipe`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectiveWipe {}

/// Parameters of [`Action::Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What would be done: a verb that [has a plan](Verb::has_plan).
    pub of: Box<Action>,
}

/// Parameters of [`Action::Reboot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reboot {}

/// Parameters of [`Action::Refresh`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refresh {}

/// The verbs alone: what a trust root sets thresholds for and a token's scope names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// See [`Action::Lock`].
    Lock,
    /// See [`Action::Unlock`].
    Unlock,
    /// See [`Action::Quarantine`].
    Quarantine,
    /// See [`Action::Release`].
    Release,
    /// See [`Action::Wipe`].
    Wipe,
    /// See [`Action::SelectiveWipe`].
    SelectiveWipe,
    /// See [`Action::Plan`].
    Plan,
    /// See [`Action::Reboot`].
    Reboot,
    /// See [`Action::RunScript`].
    RunScript,
    /// See [`Action::CollectEvidence`].
    CollectEvidence,
    /// See [`Action::RotateCredentials`].
    RotateCredentials,
    /// See [`Action::CryptoLock`].
    CryptoLock,
    /// See [`Action::Refresh`].
    Refresh,
    /// See [`Action::Cancel`].
    Cancel,
    /// See [`Action::Freeze`].
    Freeze,
    /// See [`Action::Thaw`].
    Thaw,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 16] = [
        Self::Lock,
        Self::Unlock,
        Self::Quarantine,
        Self::Release,
        Self::Wipe,
        Self::SelectiveWipe,
        Self::Plan,
        Self::Reboot,
        Self::RunScript,
        Self::CollectEvidence,
        Self::RotateCredentials,
        Self::CryptoLock,
        Self::Refresh,
        Self::Cancel,
        Self::Freeze,
        Self::Thaw,
    ];

    /// The verb as the wire, the store and the command line spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
            Self::Wipe => "wipe",
            Self::SelectiveWipe => "selective_wipe",
            Self::Plan => "plan",
            Self::Reboot => "reboot",
            Self::RunScript => "run_script",
            Self::CollectEvidence => "collect_evidence",
            Self::RotateCredentials => "rotate_credentials",
            Self::CryptoLock => "crypto_lock",
            Self::Refresh => "refresh",
            Self::Cancel => "cancel",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
        }
    }

    /// How much harm the verb can do.
    pub const fn class(self) -> VerbClass {
        match self {
            Self::Lock
            | Self::Unlock
            | Self::Quarantine
            | Self::Release
            | Self::Reboot
            | Self::Thaw
            | Self::RunScript
            | Self::CollectEvidence
            | Self::RotateCredentials => VerbClass::Disruptive,
            // Whoever orders it says whose key opens the volumes from then on.
            Self::Wipe | Self::SelectiveWipe | Self::CryptoLock => VerbClass::Destructive,
            Self::Plan | Self::Refresh => VerbClass::Routine,
            Self::Cancel | Self::Freeze => VerbClass::Stop,
        }
    }

    /// The lane its commands travel in, unless the action says otherwise: see [`Action::lane`].
    const fn lane(self) -> Lane {
        match self {
            Self::Lock
            | Self::Unlock
            | Self::Quarantine
            | Self::Release
            | Self::Wipe
            | Self::SelectiveWipe
            | Self::CollectEvidence
            | Self::CryptoLock
            | Self::Cancel
            | Self::Freeze
            | Self::Thaw => Lane::Urgent,
            Self::Plan
            | Self::Reboot
            | Self::RunScript
            | Self::RotateCredentials
            | Self::Refresh => Lane::Bulk,
        }
    }

    /// What may be done when a crash leaves its effect open.
    pub const fn effect_class(self) -> EffectClass {
        match self {
            Self::Lock
            | Self::Unlock
            | Self::Quarantine
            | Self::Release
            | Self::CollectEvidence
            | Self::RotateCredentials
            | Self::Plan
            | Self::Refresh
            | Self::Cancel
            | Self::Freeze
            | Self::Thaw => EffectClass::Convergent,
            Self::Reboot => EffectClass::Probeable,
            Self::RunScript => EffectClass::NotProbeable,
            Self::Wipe | Self::SelectiveWipe | Self::CryptoLock => EffectClass::Terminal,
        }
    }

    /// Whether a device can sign what it would do, by [`Action::Plan`]. A script is read by people instead, and
    /// what only looks has nothing to plan.
    pub const fn has_plan(self) -> bool {
        match self {
            Self::Lock
            | Self::Unlock
            | Self::Quarantine
            | Self::Release
            | Self::Wipe
            | Self::SelectiveWipe
            | Self::CryptoLock
            | Self::Reboot
            | Self::RotateCredentials => true,
            Self::Plan
            | Self::RunScript
            | Self::CollectEvidence
            | Self::Refresh
            | Self::Cancel
            | Self::Freeze
            | Self::Thaw => false,
        }
    }

    /// Whether it concerns other orders on the device and not the device: no executor carries it
    /// out, and it waits for none.
    pub const fn is_about_orders(self) -> bool {
        match self {
            Self::Cancel | Self::Freeze | Self::Thaw => true,
            Self::Lock
            | Self::Unlock
            | Self::Quarantine
            | Self::Release
            | Self::Wipe
            | Self::SelectiveWipe
            | Self::Plan
            | Self::Reboot
            | Self::RunScript
            | Self::CollectEvidence
            | Self::RotateCredentials
            | Self::CryptoLock
            | Self::Refresh => false,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no verb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no verb; known are lock, unlock, quarantine, release, wipe, selective_wipe, plan, reboot, run_script, collect_evidence, rotate_credentials, crypto_lock, refresh, cancel, freeze, thaw"
)]
pub struct ParseVerbError(String);

impl FromStr for Verb {
    type Err = ParseVerbError;

    fn from_str(text: &str) -> Result<Self, ParseVerbError> {
        Self::ALL
            .into_iter()
            .find(|verb| verb.as_str() == text)
            .ok_or_else(|| ParseVerbError(text.chars().take(32).collect()))
    }
}

impl Action {
    /// The verb alone.
    pub const fn verb(&self) -> Verb {
        match self {
            Self::Lock(_) => Verb::Lock,
            Self::Unlock(_) => Verb::Unlock,
            Self::Quarantine(_) => Verb::Quarantine,
            Self::Release(_) => Verb::Release,
            Self::Wipe(_) => Verb::Wipe,
            Self::SelectiveWipe(_) => Verb::SelectiveWipe,
            Self::Plan(_) => Verb::Plan,
            Self::Reboot(_) => Verb::Reboot,
            Self::RunScript(_) => Verb::RunScript,
            Self::CollectEvidence(_) => Verb::CollectEvidence,
            Self::RotateCredentials(_) => Verb::RotateCredentials,
            Self::CryptoLock(_) => Verb::CryptoLock,
            Self::Refresh(_) => Verb::Refresh,
            Self::Cancel(_) => Verb::Cancel,
            Self::Freeze(_) => Verb::Freeze,
            Self::Thaw(_) => Verb::Thaw,
        }
    }

    /// The lane its commands travel in.
    pub const fn lane(&self) -> Lane {
        match self {
            Self::CollectEvidence(collect) => collect.lane(),
            Self::Lock(_)
            | Self::Unlock(_)
            | Self::Quarantine(_)
            | Self::Release(_)
            | Self::Wipe(_)
            | Self::SelectiveWipe(_)
            | Self::Plan(_)
            | Self::Reboot(_)
            | Self::RunScript(_)
            | Self::RotateCredentials(_)
            | Self::CryptoLock(_)
            | Self::Refresh(_)
            | Self::Cancel(_)
            | Self::Freeze(_)
            | Self::Thaw(_) => self.verb().lane(),
        }
    }

    /// What is ordered of a script that travels beside the manifest, if one does.
    pub const fn script(&self) -> Option<&RunScript> {
        match self {
            Self::RunScript(run) => Some(run),
            Self::Lock(_)
            | Self::Unlock(_)
            | Self::Quarantine(_)
            | Self::Release(_)
            | Self::Wipe(_)
            | Self::SelectiveWipe(_)
            | Self::Plan(_)
            | Self::Reboot(_)
            | Self::CollectEvidence(_)
            | Self::RotateCredentials(_)
            | Self::CryptoLock(_)
            | Self::Refresh(_)
            | Self::Cancel(_)
            | Self::Freeze(_)
            | Self::Thaw(_) => None,
        }
    }

    /// Whether that script, or none, is what travels beside this action.
    pub fn goes_with(&self, script: Option<&str>) -> bool {
        match (self.script(), script) {
            (Some(run), Some(script)) => run.admits(script),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Checks what the types alone cannot say.
    pub fn check(&self) -> Result<(), ActionError> {
        match self {
            Self::Lock(lock) => match &lock.message {
                Some(message) if !is_printable(message) => {
                    Err(ActionError::Text { field: "message" })
                }
                Some(_) | None => Ok(()),
            },
            Self::Quarantine(quarantine) if quarantine.allow.len() > limits::LIST_ENTRIES => {
                Err(ActionError::List { field: "allow" })
            }
            Self::Plan(plan) if plan.of.verb().has_plan() => plan.of.check(),
            Self::Plan(_) => Err(ActionError::Plan),
            Self::RunScript(run) => run.check(),
            Self::RotateCredentials(rotate) => rotate.check(),
            Self::CollectEvidence(collect) => collect.check(),
            Self::Quarantine(_)
            | Self::Unlock(_)
            | Self::Release(_)
            | Self::Wipe(_)
            | Self::SelectiveWipe(_)
            | Self::Reboot(_)
            | Self::CryptoLock(_)
            | Self::Refresh(_)
            | Self::Cancel(_)
            | Self::Freeze(_)
            | Self::Thaw(_) => Ok(()),
        }
    }
}
