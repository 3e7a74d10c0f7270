//! How what an action leaves on a device comes to its end: by which verb, or by itself.

use super::{Action, Lock, LockLevel, Verb};
use crate::time::Timestamp;

impl Action {
    /// The verb that undoes it, where the device keeps its effect until then. A lock of screens only
    /// is undone by whoever has the password.
    pub const fn ended_by(&self) -> Option<Verb> {
        match self {
            Self::Lock(Lock { level: LockLevel::Session, .. }) => Some(Verb::Unlock),
            Self::Quarantine(_) => Some(Verb::Release),
            Self::Lock(Lock { level: LockLevel::Screen, .. })
            | Self::Unlock(_)
            | Self::Release(_)
            | Self::Wipe(_)
            | Self::SelectiveWipe(_)
            | Self::Plan(_)
            | Self::Reboot(_)
            | Self::RunScript(_)
            | Self::CollectEvidence(_)
            | Self::RotateCredentials(_)
            | Self::CryptoLock(_)
            | Self::Refresh(_)
            | Self::Cancel(_)
            | Self::Freeze(_)
            | Self::Thaw(_) => None,
        }
    }

    /// When its effect ends by itself, if it does.
    pub const fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Quarantine(quarantine) => quarantine.until,
            Self::Freeze(freeze) => Some(freeze.until),
            Self::Lock(_)
            | Self::Unlock(_)
            | Self::Release(_)
            | Self::Wipe(_)
            | Self::SelectiveWipe(_)
            | Self::Plan(_)
            | Self::Reboot(_)
            | Self::RunScript(_)
            | Self::CollectEvidence(_)
            | Self::RotateCredentials(_)
            | Self::CryptoLock(_)
            | Self::Refresh(_)
            | Self::Cancel(_)
            | Self::Thaw(_) => None,
        }
    }
}
