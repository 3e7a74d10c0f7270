//! Which method a drive is erased by: a function of what it said, and of nothing else.
//!
//! A method that is passed over is named with its obstacle, so that whoever reads a receipt knows why the drive
//! was not erased in a better way.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ata::Identify;
use crate::nvme::{Controller, Namespace};
use crate::said::{Said, Tongue};

#[cfg(test)]
mod tests;

/// How a drive erases itself. The order is that of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// NVMe sanitize: the key under everything changes.
    NvmeSanitizeCrypto,
    /// NVMe sanitize: every block is erased, also those that nobody can address.
    NvmeSanitizeBlock,
    /// NVMe format: the key under the namespace changes.
    NvmeFormatCrypto,
    /// NVMe format: the namespace's data is erased.
    NvmeFormatErase,
    /// ATA security erase in the enhanced way: also sectors that were replaced.
    AtaEnhancedErase,
    /// ATA security erase.
    AtaErase,
    /// Opal: back to the state of manufacture, by the code on the drive's label.
    OpalRevert,
}

/// Why a method is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// The drive does not have it.
    Unsupported,
    /// Others use the same drive over a network.
    Remote,
    /// Other controllers have the same data.
    Shared,
    /// Namespaces would go that are not to.
    OtherNamespaces,
    /// The namespace is one that nobody may write to.
    Protected,
    /// The drive takes no password until its power was off.
    Frozen,
    /// The drive is locked by somebody's password.
    Locked,
    /// Too many passwords were wrong, and the drive takes none until its power was off.
    Exhausted,
    /// The code on the drive's label is not known here.
    NoPsid,
    /// The drive declined.
    Declined,
    /// The drive could not be spoken to.
    Unreachable,
    /// The drive says that it did not succeed.
    Failed,
    /// The drive took longer than it may.
    TimedOut,
    /// The drive said that it was done, and still shows what it held.
    NotErased,
}

/// A method with its obstacle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// The method.
    pub method: Method,
    /// What is in its way.
    pub obstacle: Obstacle,
}

/// What can be done about a drive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Methods that may be tried, the best first.
    pub methods: Vec<Method>,
    /// What the drive has, or would have, and cannot be used.
    pub passed_over: Vec<PassedOver>,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NvmeSanitizeCrypto => "nvme sanitize (new key)",
            Self::NvmeSanitizeBlock => "nvme sanitize (blocks erased)",
            Self::NvmeFormatCrypto => "nvme format (new key)",
            Self::NvmeFormatErase => "nvme format (data erased)",
            Self::AtaEnhancedErase => "ata secure erase (enhanced)",
            Self::AtaErase => "ata secure erase",
            Self::OpalRevert => "opal revert",
        })
    }
}

/// What can be done about a drive that said this. `has_psid`: whether the code on its label is known.
pub fn choose(said: &Said, has_psid: bool) -> Choice {
    let mut choice = Choice::default();
    let mut judge = |method, obstacle: Option<Obstacle>| match obstacle {
        None => choice.methods.push(method),
        Some(obstacle) => choice.passed_over.push(PassedOver { method, obstacle }),
    };
    let is_remote = match &said.tongue {
        Tongue::Nvme { controller, namespace, active } => {
            for (method, obstacle) in nvme(controller, namespace, active) {
                judge(method, obstacle);
            }
            controller.is_remote
        }
        Tongue::Ata(identify) => {
            let of = |has: bool| security(identify).or((!has).then_some(Obstacle::Unsupported));
            judge(Method::AtaEnhancedErase, of(identify.erases_enhanced));
            judge(Method::AtaErase, of(true));
            false
        }
        Tongue::Unknown => false,
    };
    let opal = match (said.has_opal, is_remote, has_psid) {
        (false, _, _) => Some(Obstacle::Unsupported),
        (true, true, _) => Some(Obstacle::Remote),
        (true, false, false) => Some(Obstacle::NoPsid),
        (true, false, true) => None,
    };
    judge(Method::OpalRevert, opal);
    choice
}

fn nvme(
    controller: &Controller,
    namespace: &Namespace,
    active: &[u32],
) -> [(Method, Option<Obstacle>); 4] {
    let has_others = active.iter().any(|id| *id != namespace.id);
    // A sanitize takes everything behind every controller of the subsystem, a format what it says.
    let obstacle = |is_there: bool, is_shared: bool, takes_all: bool| {
        if !is_there {
            Some(Obstacle::Unsupported)
        } else if controller.is_remote {
            Some(Obstacle::Remote)
        } else if is_shared {
            Some(Obstacle::Shared)
        } else if takes_all && has_others {
            Some(Obstacle::OtherNamespaces)
        } else if namespace.is_protected {
            Some(Obstacle::Protected)
        } else {
            None
        }
    };
    let sanitize = |is_there| obstacle(is_there, controller.has_siblings, true);
    let takes_all = controller.formats_all || controller.erases_all;
    let format =
        |is_there| obstacle(controller.formats && is_there, namespace.is_shared, takes_all);
    [
        (Method::NvmeSanitizeCrypto, sanitize(controller.sanitizes_crypto)),
        (Method::NvmeSanitizeBlock, sanitize(controller.sanitizes_blocks)),
        (Method::NvmeFormatCrypto, format(controller.formats_crypto)),
        (Method::NvmeFormatErase, format(true)),
    ]
}

/// What keeps a drive from taking a password.
fn security(identify: &Identify) -> Option<Obstacle> {
    if !identify.has_security {
        Some(Obstacle::Unsupported)
    } else if identify.is_locked {
        Some(Obstacle::Locked)
    } else if identify.is_frozen {
        Some(Obstacle::Frozen)
    } else if identify.is_exhausted {
        Some(Obstacle::Exhausted)
    } else {
        None
    }
}
