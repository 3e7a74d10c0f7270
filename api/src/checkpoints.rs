//! Checkpoints: the head of the event chain, signed from time to time and shown to devices.
//!
//! Owns making them, on one node, and the newest one in memory. What devices make of it is theirs.

use protocol::checkpoint::{Checkpoint, Mark, earlier};
use protocol::frame::HubFrame;
use protocol::jws::CompactJws;

use crate::app::App;
use crate::audit;
use crate::db::{Conn, DbError, Tx, sql};
use crate::http::Problem;
use crate::jobs::Found;
use crate::leases::Lease;

/// Signs the head if it has moved.
pub(crate) async fn sign(app: App, lease: Lease) -> Result<Found, Problem> {
    let mut conn = app.db.read().await?;
    let head = audit::head(&mut conn).await?;
    let newest = newest(&mut conn).await?;
    drop(conn);
    if newest.is_some_and(|(_, seq, _)| seq == head.seq) || head.seq == 0 {
        return Ok(Found::Nothing);
    }
    let Some(mut tx) = lease.write(&app, app.now()).await? else { return Ok(Found::Nothing) };
    // Read again: only now nobody else writes.
    let head = audit::head(tx.conn()).await?;
    let number = self::newest(tx.conn()).await?.map_or(1, |(number, _, _)| number + 1);
    let checkpoint = Checkpoint {
        number: unsigned(number),
        head: Mark { seq: unsigned(head.seq), hash: head.hash.clone() },
        at: tx.now(),
        earlier: marks(tx.conn(), &earlier(unsigned(number))).await?,
    };
    let jws = checkpoint.sign(&app.command_key).map_err(|error| Problem::internal(&error))?;
    insert(&mut tx, number, &head, &jws).await?;
    tx.commit().await?;
    app.checkpoint.store(Some(std::sync::Arc::new(jws)));
    Ok(Found::Nothing)
}

/// Learns of the newest one, which another node may have made.
pub(crate) async fn learn(app: App) -> Result<Found, Problem> {
    let newest = newest(&mut app.db.read().await?).await?;
    app.checkpoint.store(newest.map(|(_, _, jws)| std::sync::Arc::new(jws)));
    Ok(Found::Nothing)
}

/// The newest one as devices are told of it.
pub(crate) fn frame(app: &App) -> Option<HubFrame> {
    let jws = app.checkpoint.load_full()?;
    Some(HubFrame::Checkpoint { jws: (*jws).clone() })
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

async fn newest(conn: &mut Conn) -> Result<Option<(i64, i64, CompactJws)>, DbError> {
    let row = sql("SELECT number, seq, jws FROM checkpoints ORDER BY number DESC LIMIT 1")
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some((row.try_get(0)?, row.try_get(1)?, CompactJws::from_text(row.try_get(2)?))))
}

async fn marks(conn: &mut Conn, numbers: &[u64]) -> Result<Vec<Mark>, DbError> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let mut select = sql("SELECT seq, hash FROM checkpoints WHERE number IN ");
    select.push_list(numbers.iter().map(|number| i64::try_from(*number).unwrap_or(0)));
    select.push(" ORDER BY number DESC");
    let rows = select.fetch_all(conn).await?;
    rows.iter().map(|row| Ok(Mark { seq: row.number(0)?, hash: row.try_get(1)? })).collect()
}

async fn insert(
    tx: &mut Tx,
    number: i64,
    head: &audit::ChainHead,
    jws: &CompactJws,
) -> Result<(), DbError> {
    sql("INSERT INTO checkpoints (number, seq, hash, jws) VALUES ($1, $2, $3, $4)")
        .bind(number)
        .bind(head.seq)
        .bind(&head.hash)
        .bind(jws.as_str())
        .execute(tx.conn())
        .await?;
    Ok(())
}
