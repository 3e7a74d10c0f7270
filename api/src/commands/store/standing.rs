//! Where commands stand, for their transitions: read at once, moved on in memory, written at once.
//!
//! Owns the columns that a transition writes. Whether a transition is allowed says `model`; this
//! only does it. What was moved on and not saved is lost.

use std::time::Duration;

use protocol::action::Verb;
use protocol::id::{CommandId, DeviceId, OrderId};
use protocol::jws::CompactJws;
use protocol::state::{CommandState, VerbClass};
use protocol::time::Timestamp;

use super::delivery::due_after;
use super::{IS_ENDING, state};
use crate::db::{Conn, DbError, Row, Sql, Tx, millis, sql};
use crate::vault::{OUTCOME, OUTPUT, RECEIPT, STAGE_PROOF};

/// What a transition needs to know of a command, and what came of it.
#[derive(Debug, Clone)]
pub(in crate::commands) struct Standing {
    pub(in crate::commands) id: CommandId,
    pub(in crate::commands) order: OrderId,
    pub(in crate::commands) device: DeviceId,
    pub(in crate::commands) verb: Verb,
    pub(in crate::commands) generation: u32,
    pub(in crate::commands) state: CommandState,
    pub(in crate::commands) receipt: Option<String>,
    pub(in crate::commands) stage: Option<String>,
    advance: Option<String>,
    /// Names the envelope that left; a receipt answers exactly that or nothing.
    pub(in crate::commands) envelope_sha256: Option<String>,
    /// Whether the enrollment that it was made for has ended.
    pub(in crate::commands) is_enrollment_over: bool,
    sent_at: Option<i64>,
    sends: i64,
    redeliver_at: Option<i64>,
    acked_at: Option<i64>,
    running_at: Option<i64>,
    finished_at: Option<i64>,
    ended_by: Option<String>,
    has_proof: bool,
    news: News,
}

/// What is to be written of a command beside its state and times.
#[derive(Debug, Clone, Default)]
struct News {
    is_any: bool,
    has_advanced: bool,
    receipt: Option<String>,
    outcome: Option<String>,
    proof: Option<String>,
    output: Option<String>,
}

impl Standing {
    /// A session took it then. Whether it was the first.
    pub(in crate::commands) fn send(&mut self, at: Timestamp) -> bool {
        let is_first = self.state == CommandState::Queued;
        if is_first {
            self.state = CommandState::Sent;
            self.sent_at = Some(millis(at));
            self.sends = 0;
        } else if self.state != CommandState::Sent {
            return false;
        }
        self.redeliver_at = Some(due_after(millis(at), self.sends));
        self.sends = self.sends.saturating_add(1);
        self.news.is_any = true;
        is_first
    }

    /// Its device has it on disk.
    pub(in crate::commands) fn ack(&mut self, now: Timestamp) {
        self.go_on(CommandState::Acked);
        self.acked_at = Some(millis(now));
    }

    /// Its device is at that stage.
    pub(in crate::commands) fn progress(&mut self, stage: String, now: Timestamp) {
        self.go_on(CommandState::Running);
        self.stage = Some(stage);
        self.news.has_advanced = true;
        self.running_at.get_or_insert(millis(now));
        self.acked_at.get_or_insert(millis(now));
    }

    /// Its stage has come that far, and has said that last. The former words stay where there are none.
    pub(in crate::commands) fn advance(&mut self, advance: Option<String>, output: Option<String>) {
        let is_news = self.advance != advance || output.is_some();
        self.news.is_any |= is_news;
        self.news.has_advanced |= is_news;
        self.news.output = output.or(self.news.output.take()).filter(|_| advance.is_some());
        self.advance = advance;
    }

    /// Whether there is something new to be seen of how far it is.
    pub(in crate::commands) const fn has_advanced(&self) -> bool {
        self.news.has_advanced
    }

    /// Whether it has ended just now.
    pub(in crate::commands) const fn has_ended(&self) -> bool {
        self.news.is_any && self.state.is_terminal()
    }

    /// Keeps a proof of a stage, unless there is one. Whether there was none.
    pub(in crate::commands) fn keep_proof(&mut self, proof: &CompactJws) -> bool {
        if self.has_proof {
            return false;
        }
        self.has_proof = true;
        self.news.is_any = true;
        self.news.proof = Some(proof.as_str().to_owned());
        true
    }

    /// Its receipt ends it.
    pub(in crate::commands) fn finish(
        &mut self,
        state: CommandState,
        (receipt, outcome): (&CompactJws, String),
        now: Timestamp,
    ) {
        self.go_on(state);
        self.finished_at = Some(millis(now));
        self.acked_at.get_or_insert(millis(now));
        self.keep_receipt(receipt, outcome);
    }

    /// Keeps a receipt that came after the end as what the device says; the state stays.
    pub(in crate::commands) fn keep_receipt(&mut self, receipt: &CompactJws, outcome: String) {
        self.news.is_any = true;
        self.receipt = Some(receipt.as_str().to_owned());
        self.news.receipt.clone_from(&self.receipt);
        self.news.outcome = Some(outcome);
    }

    /// Something else than a receipt ends it.
    pub(in crate::commands) fn end(&mut self, state: CommandState, why: &str, now: Timestamp) {
        self.go_on(state);
        self.finished_at = Some(millis(now));
        self.ended_by = Some(why.to_owned());
    }

    /// What a device said of it, as it is stored: receipt, outcome, proof, and what a script says.
    async fn seal_news(&self, tx: &mut Tx) -> Result<[Option<String>; 4], DbError> {
        let (id, news) = (self.id.as_uuid(), &self.news);
        Ok([
            tx.seal(&RECEIPT, &id, news.receipt.as_deref()).await?,
            tx.seal(&OUTCOME, &id, news.outcome.as_deref()).await?,
            tx.seal(&STAGE_PROOF, &id, news.proof.as_deref()).await?,
            tx.seal(&OUTPUT, &id, news.output.as_deref()).await?,
        ])
    }

    /// Goes to a state, and is not over until its end is told.
    fn go_on(&mut self, state: CommandState) {
        self.state = state;
        self.finished_at = None;
        self.ended_by = None;
        self.advance = None;
        self.news.output = None;
        self.news.is_any = true;
    }
}

const STANDING: &str = "SELECT c.id, c.order_id, c.device_id, c.generation, c.state, c.receipt, \
     c.envelope_sha256, c.stage, d.generation, d.revoked_through, c.acked_at, c.running_at, \
     c.finished_at, c.ended_by, c.stage_proof IS NOT NULL, c.advance, c.verb, \
     c.sent_at, c.sends, c.redeliver_at FROM commands c JOIN devices d ON d.id = c.device_id WHERE ";

fn standing(row: &Row) -> Result<Standing, DbError> {
    let generation: u32 = row.number(3)?;
    let (present, revoked_through): (u32, u32) = (row.number(8)?, row.number(9)?);
    Ok(Standing {
        id: CommandId::from_uuid(row.try_get(0)?),
        order: OrderId::from_uuid(row.try_get(1)?),
        device: DeviceId::from_uuid(row.try_get(2)?),
        generation,
        state: state(row.try_get(4)?)?,
        receipt: row.try_get(5)?,
        envelope_sha256: row.try_get(6)?,
        stage: row.try_get(7)?,
        is_enrollment_over: generation < present || generation <= revoked_through,
        sent_at: row.try_get(17)?,
        sends: row.try_get(18)?,
        redeliver_at: row.try_get(19)?,
        acked_at: row.try_get(10)?,
        running_at: row.try_get(11)?,
        finished_at: row.try_get(12)?,
        ended_by: row.try_get(13)?,
        has_proof: row.try_get(14)?,
        advance: row.try_get(15)?,
        verb: row.try_get::<&str>(16)?.parse().map_err(|_| DbError::Unreadable("verb"))?,
        news: News::default(),
    })
}

async fn fetch(select: Sql, conn: &mut Conn) -> Result<Vec<Standing>, DbError> {
    let rows = select.fetch_all(&mut *conn).await?;
    let mut standings = rows.iter().map(standing).collect::<Result<Vec<_>, _>>()?;
    for known in &mut standings {
        let stored = known.receipt.take();
        known.receipt = conn.unseal_text(&RECEIPT, &known.id.as_uuid(), stored).await?;
    }
    Ok(standings)
}

/// Those of the commands that exist.
pub(in crate::commands) async fn standings(
    conn: &mut Conn,
    ids: &[CommandId],
) -> Result<Vec<Standing>, DbError> {
    let mut select = sql(STANDING);
    select.push("c.id IN ");
    select.push_list(ids.iter().map(|id| id.as_uuid()));
    fetch(select, conn).await
}

/// The commands of an order.
pub(in crate::commands) async fn of_order(
    conn: &mut Conn,
    order: OrderId,
) -> Result<Vec<Standing>, DbError> {
    let mut select = sql(STANDING);
    select.push("c.order_id = ").push_bind(order.as_uuid()).push(" ORDER BY c.id");
    fetch(select, conn).await
}

/// The verbs that destroy, as they are stored.
pub(super) fn destructive() -> impl Iterator<Item = String> {
    let destroys = |verb: &Verb| verb.class() == VerbClass::Destructive;
    Verb::ALL.into_iter().filter(destroys).map(|verb| verb.as_str().to_owned())
}

/// The commands that destroy and that no device is known to have.
pub(in crate::commands) async fn undelivered_destructive(
    conn: &mut Conn,
) -> Result<Vec<Standing>, DbError> {
    let verbs = destructive();
    let mut select = sql(STANDING);
    select.push(IS_ENDING).push(" AND c.verb IN ");
    select.push_list(verbs);
    select.push(" ORDER BY c.id");
    fetch(select, conn).await
}

/// The commands of a device that have not ended.
pub(in crate::commands) async fn open_of_device(
    conn: &mut Conn,
    device: DeviceId,
) -> Result<Vec<Standing>, DbError> {
    let mut select = sql(STANDING);
    select.push("c.device_id = ").push_bind(device.as_uuid());
    select.push(
        " AND c.state IN \
         ('awaiting_approval', 'awaiting_wave', 'queued', 'sent', 'acked', 'running')",
    );
    fetch(select, conn).await
}

/// Commands that no device took, whose validity ended before those times.
pub(in crate::commands) async fn past_their_end(
    conn: &mut Conn,
    now: Timestamp,
    grace: Duration,
    limit: i64,
) -> Result<Vec<Standing>, DbError> {
    let mut select = sql(STANDING);
    // First what the index of those that have an end knows: without it all commands are gone through.
    select.push(IS_ENDING).push(" AND c.expires_at <= ");
    select.push_bind(millis(now));
    select.push(" AND (c.state IN ('awaiting_approval', 'awaiting_wave') OR c.expires_at <= ");
    select.push_bind(millis(now.minus(grace))).push(") LIMIT ").push_bind(limit);
    fetch(select, conn).await
}

/// Writes what came of commands.
pub(in crate::commands) async fn save<'a>(
    tx: &mut Tx,
    standings: impl IntoIterator<Item = &'a Standing>,
) -> Result<(), DbError> {
    let changed: Vec<_> = standings.into_iter().filter(|known| known.news.is_any).collect();
    for changed in changed.chunks(tx.conn().updates_at_once()) {
        if let [known] = changed {
            save_one(tx, known).await?;
            continue;
        }
        let mut sealed = Vec::with_capacity(changed.len());
        for known in changed {
            sealed.push(known.seal_news(tx).await?);
        }
        let mut update = sql("WITH news (id, state, stage, acked_at, running_at, finished_at, \
             ended_by, receipt, outcome, stage_proof, output, advance, sent_at, sends, redeliver_at) AS (");
        update.push_rows(changed.iter().zip(sealed), |row, (known, sealed)| {
            let [receipt, outcome, proof, output] = sealed;
            row.push_bind(known.id.as_uuid())
                .push_bind(known.state.as_str())
                .push_bind(&known.stage)
                .push_bind(known.acked_at)
                .push_bind(known.running_at)
                .push_bind(known.finished_at)
                .push_bind(&known.ended_by)
                .push_bind(receipt)
                .push_bind(outcome)
                .push_bind(proof)
                .push_bind(output)
                .push_bind(&known.advance)
                .push_bind(known.sent_at)
                .push_bind(known.sends)
                .push_bind(known.redeliver_at);
        });
        update.push(
            ") UPDATE commands SET state = news.state, stage = news.stage, \
             acked_at = news.acked_at, running_at = news.running_at, \
             finished_at = news.finished_at, ended_by = news.ended_by, \
             receipt = COALESCE(news.receipt, commands.receipt), \
             outcome = COALESCE(news.outcome, commands.outcome), \
             stage_proof = COALESCE(news.stage_proof, commands.stage_proof), \
             advance = news.advance, sent_at = news.sent_at, sends = news.sends, \
             redeliver_at = news.redeliver_at, \
             output = CASE WHEN news.advance IS NULL THEN NULL \
                 ELSE COALESCE(news.output, commands.output) END \
             FROM news WHERE commands.id = news.id",
        );
        update.execute(tx.conn()).await?;
    }
    Ok(())
}

/// As [`save`], of one: SQLite makes a table for what comes from a list.
async fn save_one(tx: &mut Tx, known: &Standing) -> Result<(), DbError> {
    let [receipt, outcome, proof, output] = known.seal_news(tx).await?;
    let mut update = sql("UPDATE commands SET state = ");
    update.push_bind(known.state.as_str());
    update.push(", stage = ").push_bind(&known.stage);
    update.push(", acked_at = ").push_bind(known.acked_at);
    update.push(", running_at = ").push_bind(known.running_at);
    update.push(", finished_at = ").push_bind(known.finished_at);
    update.push(", ended_by = ").push_bind(&known.ended_by);
    update.push(", sent_at = ").push_bind(known.sent_at);
    update.push(", sends = ").push_bind(known.sends);
    update.push(", redeliver_at = ").push_bind(known.redeliver_at);
    update.push(", receipt = COALESCE(").push_bind(receipt).push(", receipt)");
    update.push(", outcome = COALESCE(").push_bind(outcome).push(", outcome)");
    update.push(", stage_proof = COALESCE(").push_bind(proof).push(", stage_proof)");
    update.push(", advance = ").push_bind(&known.advance);
    if known.advance.is_some() {
        update.push(", output = COALESCE(").push_bind(output).push(", output)");
    } else {
        update.push(", output = NULL");
    }
    update.push(" WHERE id = ").push_bind(known.id.as_uuid());
    update.execute(tx.conn()).await?;
    Ok(())
}
