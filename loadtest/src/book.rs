//! The book of a run: when each order was meant to leave, and when each stage was reached.
//!
//! Owns the accounting. Stages are written down as they happen, in any order: a command may
//! reach its device before its order is answered. Latencies are computed in the end, always from
//! the intended moment.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::id::CommandId;
use serde::Serialize;
use tokio::sync::watch;

use crate::report::Latency;

#[cfg(test)]
mod tests;

/// What is measured, each from the moment at which the order was meant to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The request was handed to an open connection: how late the load generator itself is.
    Sent,
    /// The api answered 201: the order is on disk.
    Answered,
    /// The agent read the command's frame.
    Received,
    /// The agent had verified it and the ack was written to the socket.
    Acked,
    /// The agent was told that the store has its receipt.
    Confirmed,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 5] =
        [Self::Sent, Self::Answered, Self::Received, Self::Acked, Self::Confirmed];

    /// The stage as the report spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Answered => "answered",
            Self::Received => "received",
            Self::Acked => "acked",
            Self::Confirmed => "confirmed",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Sent => 0,
            Self::Answered => 1,
            Self::Received => 2,
            Self::Acked => 3,
            Self::Confirmed => 4,
        }
    }
}

/// What came of a run's orders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Orders answered 201.
    pub ordered: u64,
    /// Orders without a 201.
    pub failed: u64,
    /// Of the ordered: read by the agent.
    pub received: u64,
    /// Of the ordered: acked by the agent.
    pub acked: u64,
    /// Of the ordered: the agent's receipt is in the store.
    pub confirmed: u64,
    /// Of the ordered: not confirmed in the end.
    pub lost: u64,
    /// Commands that took effect more than once. Never allowed.
    pub doubled: u64,
    /// Deliveries of commands that the agent knew already. Allowed, and answered again.
    pub redelivered: u64,
    /// Commands that came although their order was not answered 201.
    pub unanswered: u64,
}

#[derive(Debug, Default)]
struct Entry {
    intended: Option<Instant>,
    stages: [Option<Instant>; 5],
    effects: u32,
}

#[derive(Debug, Default)]
struct Pages {
    entries: HashMap<CommandId, Entry>,
    failed: u64,
    redelivered: u64,
    /// Ordered and confirmed.
    done: u64,
    errors: BTreeMap<String, u64>,
}

/// The book. Shared by everybody who takes part; each entry is a moment that the writer took.
#[derive(Debug)]
pub struct Book {
    pages: Mutex<Pages>,
    done: watch::Sender<u64>,
}

impl Default for Book {
    fn default() -> Self {
        Self { pages: Mutex::default(), done: watch::Sender::new(0) }
    }
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order was answered 201: it was meant to leave at `intended`.
    pub fn ordered(&self, command: CommandId, intended: Instant, [sent, answered]: [Instant; 2]) {
        let mut pages = self.pages();
        let entry = pages.entries.entry(command).or_default();
        entry.intended = Some(intended);
        entry.stages[Stage::Sent.index()] = Some(sent);
        entry.stages[Stage::Answered.index()] = Some(answered);
        if entry.stages[Stage::Confirmed.index()].is_some() {
            pages.done += 1;
            self.done.send_replace(pages.done);
        }
    }

    /// An order was not answered 201.
    pub fn failed(&self, kind: impl fmt::Display) {
        self.pages().failed += 1;
        self.error(kind);
    }

    /// A command reached a stage. The first time counts.
    pub fn reached(&self, command: CommandId, stage: Stage, at: Instant) {
        let mut pages = self.pages();
        let entry = pages.entries.entry(command).or_default();
        let slot = &mut entry.stages[stage.index()];
        if slot.is_some() {
            return;
        }
        *slot = Some(at);
        if stage == Stage::Confirmed && entry.intended.is_some() {
            pages.done += 1;
            self.done.send_replace(pages.done);
        }
    }

    /// A device carried a command out.
    pub fn took_effect(&self, command: CommandId) {
        self.pages().entries.entry(command).or_default().effects += 1;
    }

    /// A device was sent a command that it knew.
    pub fn redelivered(&self) {
        self.pages().redelivered += 1;
    }

    /// Something went wrong. Kinds are few: they name no ids.
    pub fn error(&self, kind: impl fmt::Display) {
        *self.pages().errors.entry(kind.to_string()).or_default() += 1;
    }

    /// What went wrong, by kind.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.pages().errors.clone()
    }

    /// Waits until every command that was ordered so far is confirmed.
    pub async fn settled(&self) {
        let ordered = self.counts().ordered;
        // The sender lives in self: waiting cannot fail.
        let _ = self.done.subscribe().wait_for(|done| *done >= ordered).await;
    }

    /// What came of it so far.
    pub fn counts(&self) -> Counts {
        let pages = self.pages();
        let mut counts =
            Counts { failed: pages.failed, redelivered: pages.redelivered, ..Counts::default() };
        for entry in pages.entries.values() {
            counts.doubled += u64::from(entry.effects > 1);
            if entry.intended.is_none() {
                counts.unanswered += 1;
                continue;
            }
            let reached = |stage: Stage| u64::from(entry.stages[stage.index()].is_some());
            counts.ordered += 1;
            counts.received += reached(Stage::Received);
            counts.acked += reached(Stage::Acked);
            counts.confirmed += reached(Stage::Confirmed);
        }
        counts.lost = counts.ordered - counts.confirmed;
        counts
    }

    /// The latencies of a stage, each from the intended moment.
    pub fn latency(&self, stage: Stage) -> Latency {
        let pages = self.pages();
        let taken = pages.entries.values().filter_map(|entry| {
            let reached = entry.stages[stage.index()]?;
            Some(reached.saturating_duration_since(entry.intended?))
        });
        Latency::of(taken)
    }
}
