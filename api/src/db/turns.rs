//! Whose turn it is to write: one at a time, and what is urgent first.
//!
//! Owns the order of those who wait in this process. A database hands its lock on in the order in
//! which it was asked for, whatever waits; here an urgent order waits for the one transaction that
//! runs and for no other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::metrics;

/// Turns in a row that go to those who come first, while others wait: the others get one then. Each urgent order brings
/// an ack and a receipt, which are among the others: should they fall behind, orders that were answered are sent again.
const IN_A_ROW: u32 = 2;

/// Before whom a transaction is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// Before everything that is not: what people wait for who stop, lock or wipe.
    First,
    /// In the order of asking.
    InOrder,
}

impl Rank {
    const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::InOrder => "in_order",
        }
    }
}

/// The turns.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Line>>);

#[derive(Debug, Default)]
struct Line {
    is_taken: bool,
    in_a_row: u32,
    first: VecDeque<oneshot::Sender<Turn>>,
    in_order: VecDeque<oneshot::Sender<Turn>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<Turns>);

impl Turns {
    /// Waits for a turn. Whoever goes away meanwhile is passed over.
    pub(super) async fn take(&self, rank: Rank) -> Turn {
        loop {
            let (sender, receiver) = oneshot::channel();
            {
                let mut line = self.line();
                if !line.is_taken {
                    line.is_taken = true;
                    return Turn(Some(self.clone()));
                }
                let queue = line.queue(rank);
                // Whoever gave up does not make it longer.
                queue.retain(|waiting| !waiting.is_closed());
                queue.push_back(sender);
                metrics::writers_waiting(rank.as_str(), line.queue(rank).len());
            }
            if let Ok(turn) = receiver.await {
                return turn;
            }
        }
    }

    /// How many of that rank wait.
    pub(super) fn waiting(&self, rank: Rank) -> usize {
        self.line().queue(rank).iter().filter(|waiting| !waiting.is_closed()).count()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the turn to whoever is next.
    fn pass_on(self) {
        let mut turn = Turn(None);
        loop {
            let next = {
                let mut line = self.line();
                let next = line.next();
                line.is_taken = next.is_some();
                next
            };
            let Some(next) = next else { return };
            turn.0 = Some(self.clone());
            match next.send(turn) {
                Ok(()) => return,
                // It went away.
                Err(back) => turn = back,
            }
            turn.0 = None;
        }
    }
}

impl Line {
    const fn queue(&mut self, rank: Rank) -> &mut VecDeque<oneshot::Sender<Turn>> {
        match rank {
            Rank::First => &mut self.first,
            Rank::InOrder => &mut self.in_order,
        }
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let is_theirs = self.in_a_row < IN_A_ROW || self.in_order.is_empty();
        let is_first = is_theirs && !self.first.is_empty();
        self.in_a_row = if is_first { self.in_a_row.saturating_add(1) } else { 0 };
        let rank = if is_first { Rank::First } else { Rank::InOrder };
        let next = self.queue(rank).pop_front();
        metrics::writers_waiting(rank.as_str(), self.queue(rank).len());
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests;
