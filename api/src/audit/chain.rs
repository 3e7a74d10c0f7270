//! Checking the chain offline: over a store's file, an export, or anything that yields events.
//!
//! Owns the judgement only; needs no running control plane and changes nothing.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use protocol::checkpoint::Checkpoint;
use protocol::jws::CompactJws;
use protocol::trust::{SignedTrustRoot, TrustRoot};
use serde::Serialize;

use super::Event;
use crate::db::{Conn, Db, DbError, Row, sql};

/// Events read at a time.
const PAGE: i64 = 2000;

/// The newest event's place and hash: what to write down elsewhere to notice a cut-off end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainHead {
    /// Its place; zero before the first.
    pub seq: i64,
    /// Its hash, 64 hex digits.
    pub hash: String,
}

impl ChainHead {
    /// Before the first event.
    pub fn genesis() -> Self {
        Self { seq: 0, hash: "0".repeat(64) }
    }
}

/// The first bad entry of a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {seq}: {reason}")]
pub struct BrokenChain {
    /// The place where the chain breaks.
    pub seq: i64,
    /// How.
    pub reason: &'static str,
}

/// Why a chain could not be called whole.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// It is broken.
    #[error("the chain is broken")]
    Broken(#[from] BrokenChain),
    /// The file cannot be read.
    #[error("the events cannot be read")]
    Io(#[from] std::io::Error),
    /// A line is no event.
    #[error("line {line} is no event")]
    Line {
        /// Which line, counting from 1.
        line: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[from] DbError),
    /// A checkpoint is by no command key of the trust roots.
    #[error("a checkpoint was signed by no command key of the trust roots")]
    Checkpoint,
    /// The trust roots in the store do not follow one another.
    #[error("the trust roots in the store do not follow one another")]
    Trust,
}

/// Checks events that follow `from`, in order, and answers the new head or the first bad entry.
pub fn verify_chain(
    from: ChainHead,
    events: impl IntoIterator<Item = Event>,
) -> Result<ChainHead, BrokenChain> {
    events.into_iter().try_fold(from, |head, event| check(&head, event))
}

fn check(head: &ChainHead, event: Event) -> Result<ChainHead, BrokenChain> {
    let broken = |reason| BrokenChain { seq: event.seq, reason };
    if event.seq != head.seq + 1 {
        return Err(BrokenChain { seq: head.seq + 1, reason: "is missing" });
    }
    if event.prev_hash != head.hash {
        return Err(broken("does not follow the event before it"));
    }
    if event.hash != event.compute_hash() {
        return Err(broken("was altered: its hash does not fit its content"));
    }
    Ok(ChainHead { seq: event.seq, hash: event.hash })
}

/// Places that signed checkpoints told of, with the hash that each event must have.
pub type Marks = BTreeMap<i64, String>;

/// Checks an event that follows `head`, and that it is the one that checkpoints told of.
fn check_marked(head: &ChainHead, event: Event, marks: &Marks) -> Result<ChainHead, BrokenChain> {
    let head = check(head, event)?;
    match marks.get(&head.seq) {
        Some(hash) if *hash != head.hash => Err(BrokenChain {
            seq: head.seq,
            reason: "is not the one that a signed checkpoint tells of",
        }),
        Some(_) | None => Ok(head),
    }
}

/// Checks that a chain goes as far as the checkpoints do.
fn check_end(head: ChainHead, marks: &Marks) -> Result<ChainHead, BrokenChain> {
    match marks.last_key_value() {
        Some((seq, _)) if *seq > head.seq => Err(BrokenChain {
            seq: head.seq + 1,
            reason: "is missing: a signed checkpoint tells of later ones",
        }),
        Some(_) | None => Ok(head),
    }
}

/// Checks an export, one event as JSON per line, from the first event on.
pub fn verify_json_lines(reader: impl BufRead, marks: &Marks) -> Result<ChainHead, ChainError> {
    let mut head = ChainHead::genesis();
    for (index, line) in reader.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let event = serde_json::from_str(&line)
            .map_err(|source| ChainError::Line { line: index + 1, source })?;
        head = check_marked(&head, event, marks)?;
    }
    Ok(check_end(head, marks)?)
}

/// Checks the chain of a store's file, opened for reading only, against the checkpoints in the
/// store and those given.
pub async fn verify_store(path: &Path, given: &[CompactJws]) -> Result<ChainHead, ChainError> {
    let mut conn = Conn::read_only(path)?;
    let roots = trust_roots(&mut conn).await?;
    let mut marks = Marks::new();
    for jws in checkpoints(&mut conn).await?.iter().chain(given) {
        let believed = roots.iter().find_map(|root| Checkpoint::verify(jws, root).ok());
        let checkpoint = believed.ok_or(ChainError::Checkpoint)?;
        mark(&mut marks, &checkpoint)?;
    }
    verify_marked(&mut conn, &marks).await
}

/// Adds what a checkpoint tells of.
///
/// # Errors
/// When another one contradicts it.
pub fn mark(marks: &mut Marks, checkpoint: &Checkpoint) -> Result<(), BrokenChain> {
    for mark in checkpoint.marks() {
        let seq = i64::try_from(mark.seq).unwrap_or(i64::MAX);
        let known = marks.entry(seq).or_insert_with(|| mark.hash.clone());
        if *known != mark.hash {
            let reason = "is told of differently by two signed checkpoints";
            return Err(BrokenChain { seq, reason });
        }
    }
    Ok(())
}

/// Checks the chain of an open store.
pub async fn verify_db(db: &Db) -> Result<ChainHead, ChainError> {
    verify_events(&mut db.read().await?).await
}

/// Checks the chain as a connection sees it.
pub(crate) async fn verify_events(conn: &mut Conn) -> Result<ChainHead, ChainError> {
    verify_marked(conn, &Marks::new()).await
}

async fn verify_marked(conn: &mut Conn, marks: &Marks) -> Result<ChainHead, ChainError> {
    let mut head = ChainHead::genesis();
    loop {
        let events = events_after(conn, head.seq).await?;
        if events.is_empty() {
            return Ok(check_end(head, marks)?);
        }
        for event in events {
            head = check_marked(&head, event, marks)?;
        }
    }
}

/// Every version of the trust root that the store holds, as its root keys signed it.
async fn trust_roots(conn: &mut Conn) -> Result<Vec<TrustRoot>, ChainError> {
    let rows = sql("SELECT signed FROM trust_roots ORDER BY version").fetch_all(conn).await?;
    let mut roots: Vec<TrustRoot> = Vec::new();
    for row in rows {
        let signed: SignedTrustRoot = crate::db::json(row.try_get(0)?, "trust root")?;
        let root = match roots.last() {
            None => signed.pin(),
            Some(former) => signed.succeed(former),
        };
        roots.push(root.map_err(|_| ChainError::Trust)?);
    }
    Ok(roots)
}

async fn checkpoints(conn: &mut Conn) -> Result<Vec<CompactJws>, DbError> {
    // A store of an earlier shape has none.
    let rows = sql("SELECT jws FROM checkpoints ORDER BY number").fetch_all(conn).await;
    let Ok(rows) = rows else { return Ok(Vec::new()) };
    rows.iter().map(|row| Ok(CompactJws::from_text(row.try_get(0)?))).collect()
}

async fn events_after(conn: &mut Conn, after: i64) -> Result<Vec<Event>, DbError> {
    let rows = sql("SELECT seq, at, actor, kind, subject, payload, prev_hash, hash FROM events \
         WHERE seq > $1 ORDER BY seq LIMIT $2")
    .bind(after)
    .bind(PAGE)
    .fetch_all(conn)
    .await?;
    rows.iter().map(event_of).collect()
}

/// An event of a row with all columns, in the order of the table.
pub(crate) fn event_of(row: &Row) -> Result<Event, DbError> {
    Ok(Event {
        seq: row.try_get(0)?,
        at: row.try_get(1)?,
        actor: row.try_get(2)?,
        kind: row.try_get(3)?,
        subject: row.try_get(4)?,
        payload: row.try_get(5)?,
        prev_hash: row.try_get(6)?,
        hash: row.try_get(7)?,
    })
}
