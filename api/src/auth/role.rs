//! Roles: named bundles of scopes, in one group or everywhere, with a rate.
//!
//! Owns what each is made of and their text, `<role>@<group>`. A token keeps the scopes that its role
//! had when it was made: another version of this program changes nothing for it.

use std::fmt;
use std::str::FromStr;

use protocol::id::GroupName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Scope;

/// What people do here, each a bundle of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sees devices, orders and commands.
    Viewer,
    /// Gives orders and stops them. What destroys takes approvals all the same.
    Responder,
    /// Hands in approvals and rejects; what counts of an approval is its signature.
    Approver,
    /// Enrolls and revokes devices, hands in trust roots, makes tokens. Orders and approves nothing.
    Administrator,
    /// Sees everything and reads the audit log. Changes nothing.
    Auditor,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] =
        [Self::Viewer, Self::Responder, Self::Approver, Self::Administrator, Self::Auditor];

    /// The role as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Responder => "responder",
            Self::Approver => "approver",
            Self::Administrator => "administrator",
            Self::Auditor => "auditor",
        }
    }

    /// What it may do.
    pub const fn abilities(self) -> &'static [&'static str] {
        match self {
            Self::Viewer => &["read"],
            Self::Responder => &["read", "stop", "order:*"],
            Self::Approver => &["read", "stop", "approve"],
            Self::Administrator => {
                &["read", "stop", "enroll", "devices", "tokens", "trust", "events"]
            }
            Self::Auditor => &["read", "events"],
        }
    }

    /// Requests per minute of one of its tokens.
    pub const fn rate_per_min(self) -> u32 {
        match self {
            Self::Viewer | Self::Approver => 600,
            Self::Responder | Self::Administrator | Self::Auditor => 1200,
        }
    }
}

/// A role in a group, or everywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleGrant {
    role: Role,
    /// `None`: every device, and what belongs to none.
    group: Option<GroupName>,
}

impl RoleGrant {
    /// The role.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The scopes that it is made of.
    pub fn scopes(&self) -> Vec<Scope> {
        let group = self.group.as_ref().map_or("*", GroupName::as_str);
        let scope = |ability: &&str| format!("{ability}@{group}").parse::<Scope>();
        let scopes: Result<Vec<_>, _> = self.role.abilities().iter().map(scope).collect();
        scopes.expect("every ability of a role is one of a scope")
    }
}

impl fmt::Display for RoleGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.group.as_ref().map_or("*", GroupName::as_str);
        write!(f, "{}@{group}", self.role.as_str())
    }
}

/// A text that is no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a role is <role>@<group>, or <role> for every device; roles are viewer, responder, approver, administrator, auditor"
)]
pub struct ParseRoleError;

impl FromStr for RoleGrant {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        let (role, group) = text.split_once('@').unwrap_or((text, "*"));
        let role = Role::ALL.into_iter().find(|known| known.as_str() == role);
        let group = match group {
            "*" => None,
            name => Some(name.parse().map_err(|_| ParseRoleError)?),
        };
        Ok(Self { role: role.ok_or(ParseRoleError)?, group })
    }
}

impl Serialize for RoleGrant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RoleGrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
