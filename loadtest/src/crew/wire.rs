//! What is said between the crew and its workers: one JSON object per line.

use std::net::IpAddr;
use std::time::Duration;

use protocol::id::DeviceId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;

use crate::fleet::{Groups, Kinds};
use crate::operator::Access;
use crate::rate::Rate;
use crate::swarm::Kind;
use crate::tally::Notes;

/// What a worker is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Make devices: the first ask, once.
    Enroll(Box<Muster>),
    /// Connect all of them.
    Connect(Connect),
    /// Cut every socket at once.
    Cut,
    /// Cut one socket after the other at that rate from now on; without one, no more.
    Churn {
        /// The rate.
        rate: Option<Rate>,
    },
    /// Say goodbye and end.
    Stop,
}

/// Which devices a worker makes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Muster {
    /// Where and how.
    pub access: Access,
    /// The number of its first device.
    pub first: u64,
    /// How many it has.
    pub count: u64,
    /// What kinds the whole swarm has.
    pub kinds: Kinds,
    /// The groups of the run.
    pub groups: Groups,
}

/// How a worker's devices connect.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connect {
    /// At which rate connections begin.
    pub rate: Option<Rate>,
    /// How many are being opened at a time; nothing: all of them.
    pub at_once: usize,
    /// Where they are bound.
    pub sources: Vec<IpAddr>,
    /// The interval of check-ins.
    pub check_in: Duration,
    /// Whether TLS sessions may be resumed.
    pub resume: bool,
}

/// What a worker tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "snake_case")]
pub enum Tell {
    /// Those are its devices now.
    Enrolled {
        /// Which.
        devices: Vec<(Kind, DeviceId)>,
        /// What stopped it, if anything did.
        error: Option<String>,
    },
    /// What it noted since the last time.
    Noted {
        /// The notes.
        notes: Notes,
        /// Devices with a session.
        connected: u64,
        /// Sessions that ended without being asked to, so far.
        dropped: u64,
    },
    /// Every socket is cut.
    Cut,
    /// Something that was asked for cannot be done.
    Failed {
        /// What, in few words.
        what: String,
    },
    /// It ends as it was asked to.
    Ended,
}

/// One line; `None` for what has no JSON, which none of these lacks.
pub(super) fn line(of: &impl Serialize) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(of).ok()?;
    line.push(b'\n');
    Some(line)
}

/// Writes what is sent, line by line, until the other end or the sender is gone.
pub(super) async fn send(
    mut values: mpsc::Receiver<impl Serialize>,
    mut to: impl AsyncWrite + Unpin,
) {
    while let Some(value) = values.recv().await {
        let Some(line) = line(&value) else { continue };
        if to.write_all(&line).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

/// Reads lines until their end, or until one is not understood.
pub(super) async fn receive<T: DeserializeOwned>(
    from: impl AsyncRead + Unpin,
    values: mpsc::Sender<T>,
) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(value) = serde_json::from_str(&line) else { return };
        if values.send(value).await.is_err() {
            return;
        }
    }
}
