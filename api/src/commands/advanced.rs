//! Telling those who watch a command that it has come further.
//!
//! Says only which command, in this process: what there is to see is in the store, where streams of
//! other nodes find it a moment later.

use std::time::Duration;

use futures_util::{Stream, stream};
use protocol::id::CommandId;
use protocol::state::CommandState;
use tokio::sync::broadcast::{self, error::RecvError};

use super::store;
use super::wire::HowFar;
use crate::app::App;

/// Words that a slow stream may be behind; then it looks by itself.
const WORDS: usize = 1024;
/// How often is looked without being told: the device may be another node's.
const LOOK: Duration = Duration::from_secs(2);

/// Commands that have come further.
#[derive(Debug)]
pub struct Advanced(broadcast::Sender<CommandId>);

impl Default for Advanced {
    fn default() -> Self {
        Self(broadcast::Sender::new(WORDS))
    }
}

impl Advanced {
    /// They have come further, and the store says how far.
    pub(super) fn tell(&self, commands: impl Iterator<Item = CommandId>) {
        for command in commands {
            // Nobody may be watching.
            let _ = self.0.send(command);
        }
    }
}

/// How far that command is, each time when that is something else, as long as it runs. Never ends by
/// itself while the store answers.
pub(super) fn follow(app: App, id: CommandId) -> impl Stream<Item = HowFar> {
    // Subscribed before the first look: what is committed in between wakes the next one.
    let words = app.advanced.0.subscribe();
    stream::unfold((app, words, None), move |(app, mut words, told)| async move {
        loop {
            let mut conn = app.db.read().await.ok()?;
            let found = store::how_far(&mut conn, id).await.ok()?;
            drop(conn);
            let found = found.filter(|found| found.state == CommandState::Running);
            if let Some(found) = found.filter(|found| told.as_ref() != Some(found)) {
                return Some((found.clone(), (app, words, Some(found))));
            }
            woken(&mut words, id).await;
        }
    })
}

/// Waits for a word about that command, or until it is time to look.
async fn woken(words: &mut broadcast::Receiver<CommandId>, id: CommandId) {
    let word = async {
        loop {
            match words.recv().await {
                Ok(word) if word != id => {}
                Ok(_) | Err(RecvError::Lagged(_)) => return,
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        () = word => {}
        () = tokio::time::sleep(LOOK) => {}
    }
}
