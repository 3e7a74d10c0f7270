//! Scopes: what a token may do, and in which group.
//!
//! Owns their text: `<ability>@<group>`, with `*` for everything on either side, such as
//! `order:lock@berlin`, `read@*` or `order:*@lab`.

use std::fmt;
use std::str::FromStr;

use protocol::action::Verb;
use protocol::id::GroupName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One thing that a token may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    what: What,
    /// `None`: every device, grouped or not.
    group: Option<GroupName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Everything,
    EveryOrder,
    Order(Verb),
    Ability(&'static str),
}

/// The abilities that are not orders.
const ABILITIES: [&str; 9] =
    ["read", "stop", "approve", "enroll", "devices", "trust", "escrows", "events", "tokens"];

impl Scope {
    /// Everything, everywhere.
    pub const fn all() -> Self {
        Self { what: What::Everything, group: None }
    }

    /// The group it is bound to; `None` for every device.
    pub const fn group(&self) -> Option<&GroupName> {
        self.group.as_ref()
    }

    /// Whether it allows an ability of that name.
    pub fn allows(&self, ability: &str) -> bool {
        match self.what {
            What::Everything => true,
            What::EveryOrder => ability.starts_with("order:"),
            What::Order(verb) => ability.strip_prefix("order:") == Some(verb.as_str()),
            What::Ability(name) => name == ability,
        }
    }

    /// The same for a door: `order` is the ability to order anything.
    pub fn knocks(&self, ability: &str) -> bool {
        match self.what {
            What::EveryOrder | What::Order(_) => ability == "order",
            What::Everything | What::Ability(_) => self.allows(ability),
        }
    }

    /// Whether it only looks at what is no secret.
    pub(super) fn only_looks(&self) -> bool {
        matches!(self.what, What::Ability("read"))
    }

    /// Whether a token with this scope may hand `other` on.
    pub fn includes(&self, other: &Self) -> bool {
        let is_wide_enough = self.group.is_none() || self.group == other.group;
        let does_as_much = match (self.what, other.what) {
            (What::Everything, _) => true,
            (What::EveryOrder, What::EveryOrder | What::Order(_)) => true,
            (What::Order(mine), What::Order(theirs)) => mine == theirs,
            (What::Ability(mine), What::Ability(theirs)) => mine == theirs,
            (What::EveryOrder, What::Everything | What::Ability(_))
            | (What::Order(_), What::Everything | What::EveryOrder | What::Ability(_))
            | (What::Ability(_), What::Everything | What::EveryOrder | What::Order(_)) => false,
        };
        is_wide_enough && does_as_much
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Everything => f.write_str("*@")?,
            What::EveryOrder => f.write_str("order:*@")?,
            What::Order(verb) => write!(f, "order:{verb}@")?,
            What::Ability(name) => write!(f, "{name}@")?,
        }
        f.write_str(self.group.as_ref().map_or("*", GroupName::as_str))
    }
}

/// A text that is no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a scope is <ability>@<group>; abilities are *, order:*, order:<verb>, read, stop, approve, enroll, devices, trust, escrows, events, tokens"
)]
pub struct ParseScopeError;

impl FromStr for Scope {
    type Err = ParseScopeError;

    fn from_str(text: &str) -> Result<Self, ParseScopeError> {
        let (what, group) = text.split_once('@').ok_or(ParseScopeError)?;
        let what = match what {
            "*" => What::Everything,
            "order:*" => What::EveryOrder,
            other => match other.strip_prefix("order:") {
                Some(verb) => What::Order(verb.parse().map_err(|_| ParseScopeError)?),
                None => ABILITIES
                    .into_iter()
                    .find(|name| *name == other)
                    .map(What::Ability)
                    .ok_or(ParseScopeError)?,
            },
        };
        let group = match group {
            "*" => None,
            name => Some(name.parse().map_err(|_| ParseScopeError)?),
        };
        Ok(Self { what, group })
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
