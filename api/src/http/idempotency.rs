//! Creating things at most once, however often the client asks.
//!
//! Owns the table of answers. The look at it, the effect and the remembered answer are one write
//! transaction, and only one of those runs at a time: of concurrent duplicates one has the effect and
//! the others get its answer.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use protocol::time::Timestamp;
use serde::Serialize;

use super::body::Ticket;
use super::{Problem, ProblemKind};
use crate::auth::Principal;
use crate::db::{CHUNK, Conn, Db, DbError, Sql, Tx, millis, sql};

/// Stands for the status of a request that is accepted and has no answer yet.
const NONE_YET: u16 = 0;

/// A request that has its effect once.
#[derive(Debug)]
pub struct Claim {
    place: Place,
    request_hash: Vec<u8>,
}

/// Whose repetitions of what are one request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    principal: String,
    route: String,
    key: String,
}

/// An answer that is remembered.
#[derive(Debug)]
pub struct Answered {
    request_hash: Vec<u8>,
    /// None yet: the request is accepted, and is not carried out to its end.
    status: Option<StatusCode>,
    body: String,
}

impl Place {
    /// Whose, what, and by which key: as they are stored.
    pub(crate) fn columns(&self) -> (&str, &str, &str) {
        (&self.principal, &self.route, &self.key)
    }
}

impl Claim {
    /// What that request claims, if it has a key.
    pub fn of(principal: &Principal, ticket: Ticket) -> Option<Self> {
        let Ticket { route, key, request_hash } = ticket;
        let place = Place { principal: principal.token_id(), route, key: key? };
        Some(Self { place, request_hash })
    }

    /// Whose repetitions are this request.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// This request's answer, to be remembered.
    pub fn answer(&self, status: StatusCode, body: String) -> Answered {
        Answered { request_hash: self.request_hash.clone(), status: Some(status), body }
    }

    /// That this request is accepted, and has its answer later.
    pub(crate) fn accepted(&self) -> Answered {
        let (request_hash, body) = (self.request_hash.clone(), String::new());
        Answered { request_hash, status: None, body }
    }

    /// The answer that this request got before.
    pub async fn former(&self, conn: &mut Conn) -> Result<Option<Response>, Problem> {
        let answered = answered(conn, &[self]).await?.remove(&self.place);
        answered.map(|former| former.replay(self)).transpose()
    }
}

impl Answered {
    /// Answers a repetition, which must be one.
    pub fn replay(&self, claim: &Claim) -> Result<Response, Problem> {
        if self.request_hash != claim.request_hash {
            let detail = "this Idempotency-Key came with another body before";
            return Err(Problem::new(ProblemKind::KeyReused, detail));
        }
        let Some(status) = self.status else {
            let detail = "this request is accepted and being carried out; repeat it for its answer";
            return Err(Problem::new(ProblemKind::Unavailable, detail));
        };
        let mut response = respond(status, self.body.clone());
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
        Ok(response)
    }
}

/// Those of the requests that were answered before.
pub(crate) async fn answered(
    conn: &mut Conn,
    claims: &[&Claim],
) -> Result<BTreeMap<Place, Answered>, DbError> {
    let mut found = BTreeMap::new();
    for select in lookups(claims) {
        for row in select.fetch_all(conn).await? {
            let (principal, route, key) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let status = match row.number(4)? {
                NONE_YET => None,
                status => Some(
                    StatusCode::from_u16(status)
                        .map_err(|_| DbError::Unreadable("status of an answer"))?,
                ),
            };
            let answer = Answered { request_hash: row.try_get(3)?, status, body: row.try_get(5)? };
            found.insert(Place { principal, route, key }, answer);
        }
    }
    Ok(found)
}

/// One for each caller and route, which is nearly always one. A list of all three at once would be simpler,
/// and SQLite goes through the whole table for it.
fn lookups(claims: &[&Claim]) -> Vec<Sql> {
    let mut keys: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for Claim { place: Place { principal, route, key }, .. } in claims {
        keys.entry((principal, route)).or_default().push(key);
    }
    let mut lookups = Vec::with_capacity(keys.len());
    for ((principal, route), keys) in &keys {
        for keys in keys.chunks(CHUNK) {
            let mut select = sql("SELECT principal, route, key, request_hash, status, body \
                 FROM idempotency WHERE principal = ");
            select.push_bind(*principal).push(" AND route = ").push_bind(*route);
            select.push(" AND key IN ").push_list(keys.iter().copied());
            lookups.push(select);
        }
    }
    lookups
}

/// Remembers answers of requests that had none: the caller looked, in this transaction.
pub(crate) async fn remember(
    tx: &mut Tx,
    answers: &BTreeMap<Place, Answered>,
) -> Result<(), DbError> {
    if answers.is_empty() {
        return Ok(());
    }
    let now = millis(tx.now());
    let answers: Vec<_> = answers.iter().collect();
    for answers in answers.chunks(tx.conn().rows_at_once(answers.len(), 7)) {
        let mut insert = sql("INSERT INTO idempotency \
             (principal, route, key, request_hash, status, body, created_at) ");
        insert.push_rows(answers, |row, (place, answer)| {
            row.push_bind(&place.principal)
                .push_bind(&place.route)
                .push_bind(&place.key)
                .push_bind(answer.request_hash.as_slice())
                .push_bind(i64::from(answer.status.map_or(NONE_YET, |status| status.as_u16())))
                .push_bind(&answer.body)
                .push_bind(now);
        });
        insert.execute(tx.conn()).await?;
    }
    Ok(())
}

/// A write that is remembered.
#[derive(Debug)]
pub struct Once {
    tx: Tx,
    claim: Option<Claim>,
}

/// What comes of a request that may be a repetition.
#[derive(Debug)]
pub enum Begun {
    /// It is new: carry it out.
    Fresh(Once),
    /// It was answered before: this was the answer.
    Replay(Response),
}

impl Once {
    /// Begins the transaction of a request, or finds its former answer.
    pub async fn begin(
        db: &Db,
        principal: &Principal,
        ticket: Ticket,
        now: Timestamp,
    ) -> Result<Begun, Problem> {
        let mut tx = db.write(principal.actor(), now).await?;
        let claim = Claim::of(principal, ticket);
        if let Some(claim) = &claim
            && let Some(response) = claim.former(tx.conn()).await?
        {
            return Ok(Begun::Replay(response));
        }
        Ok(Begun::Fresh(Self { tx, claim }))
    }

    /// The transaction.
    pub const fn tx(&mut self) -> &mut Tx {
        &mut self.tx
    }

    /// Remembers the answer and commits.
    pub async fn finish<T: Serialize + Sync>(
        self,
        status: StatusCode,
        answer: &T,
    ) -> Result<Response, Problem> {
        self.finish_secret(status, answer, answer).await
    }

    /// As [`Once::finish`], remembering another answer than the one given now: secrets are shown
    /// once and not stored.
    pub async fn finish_secret<T: Serialize + Sync>(
        mut self,
        status: StatusCode,
        answer: &T,
        remembered: &T,
    ) -> Result<Response, Problem> {
        let body = encode(answer)?;
        if let Some(claim) = &self.claim {
            let remembered = claim.answer(status, encode(remembered)?);
            remember(&mut self.tx, &BTreeMap::from([(claim.place.clone(), remembered)])).await?;
        }
        self.tx.commit().await?;
        Ok(respond(status, body))
    }
}

/// An answer as it is sent and remembered.
pub(crate) fn encode<T: Serialize>(answer: &T) -> Result<String, Problem> {
    serde_json::to_string(answer).map_err(|error| Problem::internal(&error))
}

/// An answer with a body of [`encode`].
pub(crate) fn respond(status: StatusCode, body: String) -> Response {
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], body).into_response()
}

/// Forgets answers that are older than `before`.
pub(crate) async fn forget(tx: &mut Tx, before: Timestamp) -> Result<u64, DbError> {
    sql("DELETE FROM idempotency WHERE created_at < $1")
        .bind(millis(before))
        .execute(tx.conn())
        .await
}
