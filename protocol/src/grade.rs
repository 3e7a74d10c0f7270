//! How far a destruction is proven: the one word that an incident report needs.
//!
//! Owns the grades and how one follows from what is known of a command. Says nothing about how a
//! device comes to its proof.

use serde::{Deserialize, Serialize};

use crate::receipt::{Evidence, Outcome};
use crate::state::{CommandState, VerbClass};

#[cfg(test)]
mod tests;

/// The observation that carries a device's own grade.
pub const GRADE: &str = "grade";

/// How far a destruction is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// The device signed that the keys are destroyed, and read back what is left of them. A
    /// header backup that somebody made earlier still opens the data.
    Proven,
    /// The keys and the data: a header backup opens nothing any more.
    ProvenMedia,
    /// The device has the command and fell silent without a word of its end. Nobody signed
    /// anything: the control plane's own judgement.
    Presumed,
    /// It ended, and what was to be destroyed is not known to be.
    Unproven,
    /// The device declined: nothing was destroyed.
    Refused,
}

impl Grade {
    /// Every grade.
    pub const ALL: [Self; 5] =
        [Self::Proven, Self::ProvenMedia, Self::Presumed, Self::Unproven, Self::Refused];

    /// The grade as the wire spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::ProvenMedia => "proven_media",
            Self::Presumed => "presumed",
            Self::Unproven => "unproven",
            Self::Refused => "refused",
        }
    }

    /// Whether the device's signature stands behind a destruction.
    pub const fn is_proven(self) -> bool {
        match self {
            Self::Proven | Self::ProvenMedia => true,
            Self::Presumed | Self::Unproven | Self::Refused => false,
        }
    }

    /// The grade that a device claims. Only the proven ones are a device's to claim.
    pub fn claimed(evidence: &Evidence) -> Option<Self> {
        let word = evidence.get(GRADE)?.as_str()?;
        Self::ALL.into_iter().find(|grade| grade.as_str() == word && grade.is_proven())
    }
}

/// What is known of a command that destroys.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// How much harm its verb does.
    pub class: VerbClass,
    /// Where it stands.
    pub state: CommandState,
    /// What its receipt says.
    pub outcome: Option<&'a Outcome>,
    /// What the device proved on the way, before its receipt.
    pub proved: Option<&'a Evidence>,
    /// Whether nothing was heard of the device for longer than such a command takes.
    pub is_silent: bool,
}

impl Known<'_> {
    /// The grade, once there is one: none for verbs that destroy nothing, and none before the
    /// device has the command.
    pub fn grade(self) -> Option<Grade> {
        match self.class {
            VerbClass::Routine | VerbClass::Disruptive | VerbClass::Stop => return None,
            VerbClass::Destructive => {}
        }
        let on_the_way = self.proved.and_then(Grade::claimed);
        match self.state {
            CommandState::AwaitingApproval
            | CommandState::AwaitingWave
            | CommandState::Queued
            | CommandState::Sent
            | CommandState::Expired
            | CommandState::Cancelled => on_the_way,
            CommandState::Acked | CommandState::Running => {
                on_the_way.or(self.is_silent.then_some(Grade::Presumed))
            }
            CommandState::Succeeded
            | CommandState::Failed
            | CommandState::Refused
            | CommandState::InDoubt => Some(self.ended(on_the_way)),
        }
    }

    fn ended(self, on_the_way: Option<Grade>) -> Grade {
        let by_receipt = match self.outcome {
            Some(Outcome::Succeeded { evidence }) => Grade::claimed(evidence),
            Some(Outcome::Refused { .. }) => Some(Grade::Refused),
            // What failed or is in doubt came after what was proven on the way.
            Some(Outcome::Failed { .. } | Outcome::InDoubt { .. }) | None => None,
        };
        by_receipt.or(on_the_way).unwrap_or(Grade::Unproven)
    }
}
