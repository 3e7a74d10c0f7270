//! A script as it is ordered: by its hash, with words that are data.

use serde::{Deserialize, Serialize};

use super::{ActionError, is_printable, is_script};
use crate::limits;
use crate::manifest::Hash;

/// Parameters of [`Action::RunScript`](super::Action::RunScript).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunScript {
    /// SHA-256 of the script: what approvers sign, and what the device holds the script against.
    pub sha256: Hash,
    /// What the script is given, word by word. Data: nothing ever reads them as shell text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// How long it may take until it is killed, in seconds.
    pub budget_secs: u32,
    /// Whether it runs as root, and not as the account that the device keeps for scripts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_root: bool,
}

impl RunScript {
    /// The order to run that script.
    pub fn of(script: &str, args: Vec<String>, budget_secs: u32) -> Self {
        Self { sha256: Hash::sha256(script.as_bytes()), args, budget_secs, as_root: false }
    }

    /// Whether this is the script that is ordered, and one that can be run.
    pub fn admits(&self, script: &str) -> bool {
        is_script(script) && Hash::sha256(script.as_bytes()) == self.sha256
    }

    pub(super) fn check(&self) -> Result<(), ActionError> {
        if self.args.len() > limits::LIST_ENTRIES {
            return Err(ActionError::List { field: "args" });
        }
        if !self.args.iter().all(|word| is_printable(word)) {
            return Err(ActionError::Text { field: "args" });
        }
        if (1..=limits::SCRIPT_SECS).contains(&self.budget_secs) {
            Ok(())
        } else {
            Err(ActionError::Budget)
        }
    }
}
