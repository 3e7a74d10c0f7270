//! What a swarm notes while it runs, until somebody takes it away.
//!
//! Owns nothing of latencies: it knows when things happened on devices, and not when they were
//! meant to. A worker hands its notes on a few times a second; [`crate::book`] puts them together
//! with the orders.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::id::CommandId;
use serde::{Deserialize, Serialize};

use crate::moment::{Moment, Timeline};

/// Notes that wait to be taken: whoever takes them a few times a second never meets this bound.
const MOST: usize = 1_000_000;

/// What is measured, each from the moment at which the order was meant to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The request was handed to an open connection: how late the load generator itself is.
    Sent,
    /// The api answered 201: the order is accepted, and on the store's disk.
    Stored,
    /// The agent read the command's frame: it was routed and written.
    Received,
    /// The agent had verified it and the ack was written to the socket.
    Acked,
    /// The agent was told that the store has its receipt.
    Confirmed,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 5] =
        [Self::Sent, Self::Stored, Self::Received, Self::Acked, Self::Confirmed];

    /// The stage as the report spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Stored => "stored",
            Self::Received => "received",
            Self::Acked => "acked",
            Self::Confirmed => "confirmed",
        }
    }

    /// Its place in the order.
    pub const fn index(self) -> usize {
        match self {
            Self::Sent => 0,
            Self::Stored => 1,
            Self::Received => 2,
            Self::Acked => 3,
            Self::Confirmed => 4,
        }
    }
}

/// A command reached a stage on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The command.
    pub command: CommandId,
    /// The stage.
    pub stage: Stage,
    /// When.
    pub at: Moment,
}

/// A session came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// When it was meant to begin.
    pub began: Moment,
    /// When `welcome` was read.
    pub at: Moment,
    /// Whether the device had a session before.
    pub again: bool,
}

/// A device read what a hub told every session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// How often it had read such a thing before.
    pub before: u32,
    /// When.
    pub at: Moment,
}

/// What was noted since the last time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Stages that commands reached.
    pub marks: Vec<Mark>,
    /// Sessions that came to stand.
    pub opened: Vec<Opened>,
    /// Commands that took effect once more.
    pub doubled: u64,
    /// Deliveries of commands that the agent knew already.
    pub redelivered: u64,
    /// Frames that said how to behave from then on: `mode`.
    pub modes: u64,
    /// When each of these was read, and what it said.
    #[serde(default)]
    pub told: Vec<Told>,
    /// Check-ins that were answered.
    pub check_ins: u64,
    /// What went wrong, by kind.
    pub errors: BTreeMap<String, u64>,
}

impl Notes {
    /// Whether nothing was noted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Default)]
struct Pages {
    notes: Notes,
    /// Of every command that came: whether it took effect.
    known: HashMap<CommandId, bool>,
}

/// The notes of one swarm. Shared by its devices.
#[derive(Debug)]
pub struct Tally {
    timeline: Timeline,
    pages: Mutex<Pages>,
}

impl Tally {
    /// Nothing noted yet.
    pub fn new(timeline: Timeline) -> Self {
        Self { timeline, pages: Mutex::default() }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command's frame was read. The first time counts.
    pub fn received(&self, command: CommandId, at: Instant) {
        let mut pages = self.pages();
        if pages.known.contains_key(&command) {
            return;
        }
        pages.known.insert(command, false);
        pages.mark(command, Stage::Received, self.timeline.of(at));
    }

    /// A command reached a later stage.
    pub fn reached(&self, command: CommandId, stage: Stage, at: Instant) {
        let at = self.timeline.of(at);
        self.pages().mark(command, stage, at);
    }

    /// A device carried a command out.
    pub fn took_effect(&self, command: CommandId) {
        let mut pages = self.pages();
        if pages.known.insert(command, true) == Some(true) {
            pages.notes.doubled += 1;
        }
    }

    /// A device was sent a command that it knew.
    pub fn redelivered(&self) {
        self.pages().notes.redelivered += 1;
    }

    /// A hub said that agents should poll, or need no longer.
    pub fn mode(&self, before: u32, at: Instant) {
        let told = Told { before, at: self.timeline.of(at) };
        let mut pages = self.pages();
        pages.notes.modes += 1;
        if pages.notes.told.len() < MOST {
            pages.notes.told.push(told);
        }
    }

    /// A check-in was answered.
    pub fn checked_in(&self) {
        self.pages().notes.check_ins += 1;
    }

    /// A session came to stand that was meant to begin at that moment.
    pub fn opened(&self, began: Instant, at: Instant, again: bool) {
        let opened = Opened { began: self.timeline.of(began), at: self.timeline.of(at), again };
        let mut pages = self.pages();
        if pages.notes.opened.len() < MOST {
            pages.notes.opened.push(opened);
        }
    }

    /// Something went wrong. Kinds are few: they name no ids.
    pub fn error(&self, kind: impl fmt::Display) {
        *self.pages().notes.errors.entry(kind.to_string()).or_default() += 1;
    }

    /// Takes what was noted since the last time.
    pub fn take(&self) -> Notes {
        std::mem::take(&mut self.pages().notes)
    }
}

impl Pages {
    fn mark(&mut self, command: CommandId, stage: Stage, at: Moment) {
        if self.notes.marks.len() < MOST {
            self.notes.marks.push(Mark { command, stage, at });
        } else {
            *self.notes.errors.entry("notes not taken in time".to_owned()).or_default() += 1;
        }
    }
}
