//! What a supervisor is told.

use serde::{Deserialize, Serialize};

use super::account::Account;

/// How a script is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) script_sha256: String,
    /// The interpreter, and its one argument, if it has one.
    pub(super) interpreter: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) budget_secs: u32,
    /// `None`: whoever the supervisor is.
    pub(super) account: Option<Account>,
    pub(super) confinement: Confinement,
}

impl Order {
    pub(super) fn account_name(&self) -> &str {
        self.account.as_ref().map_or("the agent's own account", |account| account.name.as_str())
    }
}

/// What holds a script and all that it starts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Confinement {
    /// A service of the service manager: a control group with limits on memory, tasks, processor.
    Service,
    /// The second best: a session of its own, limits of single processes, and a supervisor that
    /// inherits whoever lost its parent.
    Session,
}

impl Confinement {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Session => "session",
        }
    }
}

/// The interpreter that the first line names, with its one argument, as execve(2) reads it.
pub(super) fn interpreter(script: &str) -> Vec<String> {
    let line = script.lines().next().unwrap_or_default();
    let line = line.strip_prefix("#!").unwrap_or_default().trim();
    let mut words = line.splitn(2, [' ', '\t']).map(|word| word.trim().to_owned());
    words.by_ref().filter(|word| !word.is_empty()).collect()
}
