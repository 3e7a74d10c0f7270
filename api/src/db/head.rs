//! Following what other nodes commit.
//!
//! Owns the listening session. A notification only says that there is something to read; a look
//! at the table, once in a while, finds what a lost one would have said.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt as _;
use runtime::{Backoff, Drain, Entropy};
use sqlx::postgres::{PgListener, PgPoolOptions};

use super::postgres::{CHANNEL, Server};
use super::{Base, Db, DbError};
use crate::audit;

/// How long the listening session may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

impl Db {
    /// Keeps [`Db::events_head`] up with every node of a shared store, until the drain begins.
    pub(crate) async fn follow_head(
        self,
        drain: Drain,
        entropy: Entropy,
    ) -> Result<(), Infallible> {
        let Base::Postgres(server) = &self.base else {
            drain.soft().cancelled().await;
            return Ok(());
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let outcome = tokio::select! {
                biased;
                () = drain.soft().cancelled() => return Ok(()),
                outcome = self.listen(server, &mut backoff) => outcome,
            };
            if let Err(error) = outcome {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "following the events of other nodes was interrupted");
            }
            let pause = backoff.next(entropy.next_u64());
            tokio::select! {
                biased;
                () = drain.soft().cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn listen(&self, server: &Server, backoff: &mut Backoff) -> Result<(), DbError> {
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT);
        let pool = pool.connect_with(server.options().clone()).await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        backoff.reset();
        let mut heard = Box::pin(listener.into_stream());
        loop {
            // What was committed before the listening began, or while a session was lost.
            let head = audit::head(&mut self.read().await?).await?;
            self.see(head.seq);
            let until = tokio::time::sleep(server.look_every());
            tokio::pin!(until);
            loop {
                let notification = tokio::select! {
                    notification = heard.next() => notification,
                    () = &mut until => break,
                };
                let Some(notification) = notification else { return Ok(()) };
                if let Ok(seq) = notification?.payload().parse() {
                    self.see(seq);
                }
            }
        }
    }
}
