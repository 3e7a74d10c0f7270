//! In which order handshakes begin when many ask at once.
//!
//! Owns the queues and who is next: devices that an urgent command waits for, then sessions that
//! are resumed, then full handshakes, which keep a share. Must not know connections, or refuse one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

#[cfg(test)]
mod tests;

/// After so many resumed sessions that went before it, a full handshake has its turn.
const SHARE: u32 = 4;

/// Who goes first; the order is that of the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// An urgent command waits for the device.
    Owed,
    /// It resumes a session.
    Resuming,
    /// It makes a full handshake.
    Full,
}

/// So many turns at a time. Who waits holds a slot of admission, so the queues are bounded by
/// those.
#[derive(Debug)]
pub(crate) struct Turns {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    owed: VecDeque<oneshot::Sender<Turn>>,
    resuming: VecDeque<oneshot::Sender<Turn>>,
    full: VecDeque<oneshot::Sender<Turn>>,
    /// Resumed sessions that went before a full handshake that waits.
    favoured: u32,
}

impl State {
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        // Who gave up takes nobody's place, and nobody's share. All wait equally long, so that they
        // are in front.
        for waiting in [&mut self.owed, &mut self.resuming, &mut self.full] {
            while waiting.front().is_some_and(oneshot::Sender::is_closed) {
                waiting.pop_front();
            }
        }
        if let Some(owed) = self.owed.pop_front() {
            return Some(owed);
        }
        if (self.full.is_empty() || self.favoured < SHARE)
            && let Some(resuming) = self.resuming.pop_front()
        {
            self.favoured = if self.full.is_empty() { 0 } else { self.favoured + 1 };
            return Some(resuming);
        }
        self.favoured = 0;
        self.full.pop_front()
    }
}

/// One's turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Option<Arc<Turns>>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

impl Turns {
    /// So many at a time.
    pub(crate) fn new(width: usize) -> Arc<Self> {
        let [owed, resuming, full] = [const { VecDeque::new() }; 3];
        let state = State { free: width.max(1), owed, resuming, full, favoured: 0 };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Waits for one's turn. Who gives up loses nobody's.
    pub(crate) async fn wait(self: &Arc<Self>, rank: Rank) -> Turn {
        let granted = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Turn(Some(self.clone()));
            }
            let (grant, granted) = oneshot::channel();
            match rank {
                Rank::Owed => state.owed.push_back(grant),
                Rank::Resuming => state.resuming.push_back(grant),
                Rank::Full => state.full.push_back(grant),
            }
            granted
        };
        granted.await.expect("a grant is dropped only with the turns, which its waiter holds")
    }

    /// Gives a turn that has ended to the next one.
    fn pass_on(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                let next = state.next();
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                // It has given up: the turn comes back, and is the next one's.
                Err(mut turn) => turn.0 = None,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing inside of the lock can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
