//! Creating things at most once, however often the client asks.
//!
//! Owns the table of answers. Claim, effect and remembered answer are one transaction: of
//! concurrent duplicates one has the effect and the others get its answer.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use protocol::time::Timestamp;
use serde::Serialize;

use super::body::Ticket;
use super::{Problem, ProblemKind};
use crate::auth::Principal;
use crate::db::{Db, DbError, Tx, millis, sql};

/// A write that is remembered.
#[derive(Debug)]
pub struct Once {
    tx: Tx,
    claim: Option<Claim>,
}

#[derive(Debug)]
struct Claim {
    principal: String,
    route: String,
    key: String,
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
        let Some(key) = ticket.key else { return Ok(Begun::Fresh(Self { tx, claim: None })) };
        let claim = Claim { principal: principal.token_id(), route: ticket.route, key };
        if claim.insert(&mut tx, &ticket.request_hash).await? {
            return Ok(Begun::Fresh(Self { tx, claim: Some(claim) }));
        }
        claim.replay(&mut tx, &ticket.request_hash).await.map(Begun::Replay)
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
        let encode = |value: &T| serde_json::to_string(value).map_err(|e| Problem::internal(&e));
        let body = encode(answer)?;
        if let Some(claim) = &self.claim {
            claim.remember(&mut self.tx, status, &encode(remembered)?).await?;
        }
        self.tx.commit().await?;
        Ok(respond(status, body))
    }
}

impl Claim {
    /// Whether the claim is new.
    async fn insert(&self, tx: &mut Tx, request_hash: &[u8]) -> Result<bool, DbError> {
        let now = millis(tx.now());
        let done = sql("INSERT INTO idempotency \
             (principal, route, key, request_hash, status, body, created_at) \
             VALUES ($1, $2, $3, $4, 0, '', $5) ON CONFLICT DO NOTHING")
        .bind(&self.principal)
        .bind(&self.route)
        .bind(&self.key)
        .bind(request_hash)
        .bind(now)
        .execute(tx.conn())
        .await?;
        Ok(done == 1)
    }

    async fn replay(&self, tx: &mut Tx, request_hash: &[u8]) -> Result<Response, Problem> {
        let row = sql("SELECT request_hash, status, body FROM idempotency \
             WHERE principal = $1 AND route = $2 AND key = $3")
        .bind(&self.principal)
        .bind(&self.route)
        .bind(&self.key)
        .fetch_one(tx.conn())
        .await?;
        let former: Vec<u8> = row.try_get(0)?;
        if former != request_hash {
            let detail = "this Idempotency-Key came with another body before";
            return Err(Problem::new(ProblemKind::KeyReused, detail));
        }
        let status = u16::try_from(row.try_get::<i64>(1)?).unwrap_or(500);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = respond(status, row.try_get(2)?);
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
        Ok(response)
    }

    async fn remember(&self, tx: &mut Tx, status: StatusCode, body: &str) -> Result<(), DbError> {
        sql("UPDATE idempotency SET status = $1, body = $2 \
             WHERE principal = $3 AND route = $4 AND key = $5")
        .bind(i64::from(status.as_u16()))
        .bind(body)
        .bind(&self.principal)
        .bind(&self.route)
        .bind(&self.key)
        .execute(tx.conn())
        .await?;
        Ok(())
    }
}

fn respond(status: StatusCode, body: String) -> Response {
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
