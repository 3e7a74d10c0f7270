//! Sinks: the audit log goes on to a file, to syslog and to a webhook, event by event.
//!
//! Owns the cursor of each sink, which is in the store, and its pace: at least once, in order. A
//! sink that is dead waits in its own task with a growing pause, and nothing else waits for it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use runtime::Backoff;
use serde::Deserialize;

use crate::app::App;
use crate::audit::Event;
use crate::db::{Conn, DbError, sql};
use crate::dial::{self, DialError};
use crate::events;
use crate::metrics;

mod file;
mod syslog;
#[cfg(test)]
mod tests;
mod webhook;

/// Events that go at once.
const BATCH: i64 = 200;
/// How long one batch may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often a sink looks for events of other nodes.
const LOOK: Duration = Duration::from_secs(2);
/// Pauses of a sink that does not take anything.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Where the audit log goes on to. Empty: nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sinks {
    /// A file to which events are appended as JSON lines, as they are hashed.
    pub file: Option<PathBuf>,
    /// `host:port` of a syslog server: RFC 5424 over TLS (RFC 5425).
    pub syslog: String,
    /// Address of a webhook, `https://…`.
    pub webhook: String,
    /// File with the secret of the webhook's signatures.
    pub webhook_secret_file: Option<PathBuf>,
    /// Addresses to which a webhook may go although they are private or of this machine.
    pub webhook_allow: BTreeSet<IpAddr>,
    /// Authorities (PEM) of the servers' certificates. None: those of the system.
    pub ca_file: Option<PathBuf>,
}

impl Sinks {
    /// What cannot be meant.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        if !self.webhook.is_empty() && dial::Url::parse(&self.webhook).is_none() {
            return Some(("sinks.webhook", "must be https://host[:port]/path"));
        }
        if !self.webhook.is_empty() && self.webhook_secret_file.is_none() {
            return Some(("sinks.webhook_secret_file", "is needed with a webhook"));
        }
        if !self.syslog.is_empty() && dial::host_and_port(&self.syslog).is_none() {
            return Some(("sinks.syslog", "must be host:port"));
        }
        None
    }
}

/// Why a sink did not take a batch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SinkError {
    /// Reading or writing.
    #[error("it cannot be read or written")]
    Io(#[from] std::io::Error),
    /// There is no connection.
    #[error("it cannot be reached")]
    Dial(#[from] DialError),
    /// The secret cannot be read.
    #[error("its secret cannot be read")]
    Secret(#[from] runtime::files::FileError),
    /// It answered something else than that it has them.
    #[error("it answered {0}")]
    Refused(String),
    /// It took too long.
    #[error("it took too long")]
    Late,
}

/// The kinds of sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    File,
    Syslog,
    Webhook,
}

impl Sink {
    pub(crate) const ALL: [Self; 3] = [Self::File, Self::Syslog, Self::Webhook];

    /// Its name, which is also that of its job.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::File => "file sink",
            Self::Syslog => "syslog sink",
            Self::Webhook => "webhook sink",
        }
    }

    pub(crate) const fn is_configured(self, sinks: &Sinks) -> bool {
        match self {
            Self::File => sinks.file.is_some(),
            Self::Syslog => !sinks.syslog.is_empty(),
            Self::Webhook => !sinks.webhook.is_empty(),
        }
    }

    async fn send(self, app: &App, events: &[Event]) -> Result<(), SinkError> {
        let sinks = &app.config.sinks;
        let sending = async {
            match self {
                Self::File => file::append(sinks, events).await,
                Self::Syslog => syslog::send(sinks, &app.config.node, events).await,
                Self::Webhook => webhook::post(sinks, app.now(), events).await,
            }
        };
        tokio::time::timeout(DEADLINE, sending).await.unwrap_or(Err(SinkError::Late))
    }
}

/// Feeds a sink until the drain, while this node is the one that does.
pub(crate) async fn feed(app: App, sink: Sink) -> Result<(), Infallible> {
    let mut head = app.db.events_head();
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    while !app.drain.is_draining() {
        let pause = match pass_on(&app, sink).await {
            Ok(true) => {
                backoff.reset();
                continue;
            }
            Ok(false) => {
                backoff.reset();
                LOOK
            }
            Err(error) => {
                metrics::sink_failed(sink.name());
                tracing::warn!(sink = sink.name(), error = %chain(&*error), "sink takes nothing");
                backoff.next(app.entropy.next_u64())
            }
        };
        let is_idle = pause == LOOK;
        tokio::select! {
            biased;
            () = app.drain.soft().cancelled() => return Ok(()),
            _ = head.changed(), if is_idle => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(())
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Passes one batch on; whether there may be more.
async fn pass_on(app: &App, sink: Sink) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let Some(lease) = app.leases.of(sink.name()) else { return Ok(false) };
    let mut conn = app.db.read().await?;
    let after = cursor(&mut conn, sink).await?;
    let events = events::after(&mut conn, after, BATCH).await?;
    drop(conn);
    let Some(last) = events.last().map(|event| event.seq) else { return Ok(false) };
    sink.send(app, &events).await?;
    let Some(mut tx) = lease.write(app, app.now()).await? else { return Ok(false) };
    sql("INSERT INTO sinks (name, seq) VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET seq = excluded.seq")
    .bind(sink.name())
    .bind(last)
    .execute(tx.conn())
    .await?;
    tx.commit().await?;
    metrics::sink_took(sink.name(), events.len());
    Ok(true)
}

async fn cursor(conn: &mut Conn, sink: Sink) -> Result<i64, DbError> {
    let row =
        sql("SELECT seq FROM sinks WHERE name = $1").bind(sink.name()).fetch_optional(conn).await?;
    row.map_or(Ok(0), |row| row.try_get(0))
}
