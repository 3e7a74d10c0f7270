//! Parameters of what is about other orders: cancel, freeze and thaw.

use serde::{Deserialize, Serialize};

use super::Verb;
use crate::id::OrderId;
use crate::state::VerbClass;
use crate::time::Timestamp;

/// Parameters of [`super::Action::Cancel`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// The order that is called back. It has one command on a device at most, so that order and
    /// device name the command.
    pub order_id: OrderId,
}

/// Parameters of [`super::Action::Freeze`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// Until when: at most [`crate::limits::FREEZE`] after the validity of its order begins.
    #[serde(with = "crate::time::numeric_date")]
    pub until: Timestamp,
}

/// Parameters of [`super::Action::Thaw`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thaw {}

impl Verb {
    /// Whether a `cancel` calls it back where it has not begun: what nobody can undo afterwards.
    pub const fn can_be_called_back(self) -> bool {
        matches!(self.class(), VerbClass::Destructive) || matches!(self, Self::RunScript)
    }
}
