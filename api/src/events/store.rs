//! Reading events.

use super::EventQuery;
use crate::audit::{Event, event_of};
use crate::db::{Conn, DbError, sql};

/// Events after that one, in order.
pub(super) async fn after(
    conn: &mut Conn,
    after: i64,
    query: &EventQuery,
    limit: i64,
) -> Result<Vec<Event>, DbError> {
    let mut select = sql(
        "SELECT seq, at, actor, kind, subject, payload, prev_hash, hash FROM events WHERE seq > ",
    );
    select.push_bind(after);
    if let Some(subject) = &query.subject {
        select.push(" AND subject = ").push_bind(subject.clone());
    }
    if let Some(kind) = &query.kind {
        select.push(" AND kind = ").push_bind(kind.clone());
    }
    select.push(" ORDER BY seq LIMIT ").push_bind(limit);
    let rows = select.fetch_all(conn).await?;
    rows.iter().map(event_of).collect()
}
