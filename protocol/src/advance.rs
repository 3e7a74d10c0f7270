//! How far a stage of a command has come.
//!
//! A device's unsigned word for whoever watches: of interest while the stage lasts, and proof of
//! nothing. Every field may be missing, and fields that a later version adds are passed over.

use serde::{Deserialize, Serialize};

pub use self::output::{Output, Tail};
use crate::action::is_printable;
use crate::limits;

mod output;
#[cfg(test)]
mod tests;

/// How far a stage has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advance {
    /// What it is at, such as the path of a volume or the name of a section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Which of its steps it is at, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Part>,
    /// How many bytes are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Part>,
    /// How many seconds have gone by, of those that it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secs: Option<Part>,
    /// What it has said last, where it is a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
}

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// So many.
    pub done: u64,
    /// Of so many.
    pub of: u64,
}

impl Part {
    /// In hundredths, rounded down. Nothing of nothing is all of it.
    pub fn percent(self) -> u64 {
        match self.of {
            0 => 100,
            of => u64::try_from(u128::from(self.done) * 100 / u128::from(of)).unwrap_or(100),
        }
    }

    fn is_within(self, most: u64) -> bool {
        self.done <= self.of && self.of <= most
    }
}

impl Advance {
    /// At that thing. What would not print as it reads, or is too long, is left out.
    #[must_use]
    pub fn at(thing: &str) -> Self {
        let mut at = String::new();
        let hidden = |c: &char| is_printable(c.encode_utf8(&mut [0; 4]));
        for c in thing.chars().filter(hidden) {
            if at.len() + c.len_utf8() > limits::ADVANCE_WORD_BYTES {
                break;
            }
            at.push(c);
        }
        Self { at: Some(at), ..Self::default() }
    }

    /// At that step of so many.
    #[must_use]
    pub fn step(mut self, done: usize, of: usize) -> Self {
        self.step = part(done as u64, of as u64, limits::ADVANCE_STEPS);
        self
    }

    /// That many bytes of so many are done.
    #[must_use]
    pub fn bytes(mut self, done: u64, of: u64) -> Self {
        self.bytes = part(done, of, limits::ADVANCE_NUMBER);
        self
    }

    /// That many seconds of so many have gone by.
    #[must_use]
    pub fn secs(mut self, done: u64, of: u64) -> Self {
        self.secs = part(done, of, limits::ADVANCE_NUMBER);
        self
    }

    /// It has said that last.
    #[must_use]
    pub fn output(mut self, output: Option<Output>) -> Self {
        self.output = output;
        self
    }

    /// Whether every field is within its bound, and every word prints as it reads. What a script has said may
    /// be anything.
    pub fn is_sound(&self) -> bool {
        let is_word = |at: &String| at.len() <= limits::ADVANCE_WORD_BYTES && is_printable(at);
        let is_number = |part: Part| part.is_within(limits::ADVANCE_NUMBER);
        self.at.as_ref().is_none_or(is_word)
            && self.step.is_none_or(|step| step.is_within(limits::ADVANCE_STEPS))
            && self.bytes.is_none_or(is_number)
            && self.secs.is_none_or(is_number)
            && self.output.as_ref().is_none_or(Output::is_sound)
    }
}

/// A part that is within its bound; none where it would not be.
fn part(done: u64, of: u64, most: u64) -> Option<Part> {
    Some(Part { done: done.min(of), of }).filter(|part| part.is_within(most))
}
