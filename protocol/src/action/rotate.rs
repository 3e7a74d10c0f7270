//! Credentials that are replaced, and whose key reads the new ones.

use serde::{Deserialize, Serialize};

use super::ActionError;
use crate::sealed::CaseKey;

/// Characters of an account's name at most (useradd(8)).
const ACCOUNT_CHARS: usize = 32;

/// Parameters of [`Action::RotateCredentials`](super::Action::RotateCredentials).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateCredentials {
    /// Which credential.
    pub credential: Credential,
    /// Who may read the new one: the public half of the organisation's recovery key.
    pub recovery_key: CaseKey,
}

/// A credential of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Credential {
    /// The recovery key of every volume that the agent manages.
    Volumes,
    /// The password of that local account.
    Account(String),
}

impl RotateCredentials {
    pub(super) fn check(&self) -> Result<(), ActionError> {
        match &self.credential {
            Credential::Volumes => Ok(()),
            Credential::Account(name) if is_account(name) => Ok(()),
            Credential::Account(_) => Err(ActionError::Account),
        }
    }
}

fn is_account(name: &str) -> bool {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    let rest = |c: char| first(c) || c.is_ascii_digit() || matches!(c, '-' | '.');
    name.len() <= ACCOUNT_CHARS && name.starts_with(first) && name.chars().all(rest)
}

/// Parameters of [`Action::CryptoLock`](super::Action::CryptoLock).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CryptoLock {
    /// Who may read the key that opens the volumes from then on.
    pub recovery_key: CaseKey,
}
