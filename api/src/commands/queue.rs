//! Numbering and signing: the step from an order to envelopes that may leave.
//!
//! Owns sequence numbers and envelopes. Runs inside the transaction that queues, so that a
//! number is given exactly once and never without its command.

use protocol::envelope::{self, Envelope};
use protocol::frame::CommandFrame;
use protocol::id::{CommandId, DeviceId};
use protocol::jws::CompactJws;
use protocol::limits;
use protocol::manifest::InclusionProof;
use protocol::state::Lane;
use protocol::time::Timestamp;
use protocol::trust::{Authority, Tally, TrustRoot};
use serde_json::json;

use super::hold;
use super::store::orders::Order;
use super::store::{lanes, orders};
use super::waves;
use crate::app::App;
use crate::audit::Kind;
use crate::db::{DbError, Tx};
use crate::http::Problem;
use crate::metrics;
use crate::outbox::Delivery;

/// Envelopes that are signed where they are made: handing them to another thread would take longer.
const SIGNED_HERE: usize = 16;

/// A command without a number yet.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) id: CommandId,
    pub(super) device: DeviceId,
    pub(super) generation: u32,
    pub(super) approvals_needed: u8,
    pub(super) proof: InclusionProof,
}

/// A command with its number and signature.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) fresh: Fresh,
    pub(super) seq: u64,
    pub(super) frame: CommandFrame,
    /// Names the envelope.
    pub(super) sha256: String,
}

impl From<Signed> for Delivery {
    fn from(signed: Signed) -> Self {
        Self { device: signed.fresh.device, frame: signed.frame }
    }
}

/// Commands of one order that are ready for their numbers.
#[derive(Debug)]
pub(super) struct Ready<'a> {
    pub(super) order: &'a Order,
    pub(super) approvals: &'a [CompactJws],
    pub(super) fresh: Vec<Fresh>,
}

/// Numbers and signs commands of orders of one lane, order by order.
pub(super) async fn number_and_sign(
    app: &App,
    tx: &mut Tx,
    lane: Lane,
    ready: Vec<Ready<'_>>,
) -> Result<Vec<Vec<Signed>>, Problem> {
    let fresh: Vec<_> = ready.iter().flat_map(|ready| &ready.fresh).collect();
    let mut lines = lanes::draw(tx, lane, &fresh).await?;
    let now = tx.now().whole_secs();
    let mut counts = Vec::with_capacity(ready.len());
    let mut drafts = Vec::new();
    for Ready { order, approvals, fresh } in ready {
        counts.push(fresh.len());
        for fresh in fresh {
            let line = lines.get_mut(&fresh.device);
            let (seq, after_seq) = line.ok_or(DbError::Unreadable("sequence number"))?.take();
            let envelope = envelope(order, approvals, &fresh, Numbers { now, lane, seq });
            drafts.push(Draft { fresh, after_seq, envelope });
        }
    }
    let mut signed = sign_all(app, drafts).await?.into_iter();
    Ok(counts.into_iter().map(|count| signed.by_ref().take(count).collect()).collect())
}

/// A command with its number, before its signature.
#[derive(Debug)]
struct Draft {
    fresh: Fresh,
    after_seq: u64,
    envelope: Envelope,
}

impl Draft {
    fn sign(self, app: &App) -> Result<Signed, Problem> {
        let Self { fresh, after_seq, envelope } = self;
        let jws = sign(app, &envelope)?;
        let sha256 = jws.sha256();
        let frame = CommandFrame { command_id: fresh.id, lane: envelope.lane, after_seq, jws };
        Ok(Signed { fresh, seq: envelope.seq, frame, sha256 })
    }
}

/// Signs them in order. Many of them are signed on a thread of their own, so that whatever else
/// shares this one goes on meanwhile.
async fn sign_all(app: &App, drafts: Vec<Draft>) -> Result<Vec<Signed>, Problem> {
    if drafts.len() <= SIGNED_HERE {
        return drafts.into_iter().map(|draft| draft.sign(app)).collect();
    }
    let app = app.clone();
    let work = move || drafts.into_iter().map(|draft| draft.sign(&app)).collect();
    let work = tokio::task::spawn_blocking(work);
    work.await.map_err(|error| Problem::internal(&error))?
}

/// Whether a command of an order makes an envelope that devices take: refused before it is accepted.
pub(super) fn check_length(
    app: &App,
    order: &Order,
    (fresh, now): (Fresh, Timestamp),
) -> Result<(), Problem> {
    let numbers =
        Numbers { now: now.whole_secs(), seq: u64::MAX, lane: order.manifest.action.lane() };
    sign(app, &envelope(order, &[], &fresh, numbers)).map(drop)
}

/// When, and at which place of which lane.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    now: Timestamp,
    lane: Lane,
    seq: u64,
}

fn envelope(order: &Order, approvals: &[CompactJws], fresh: &Fresh, numbers: Numbers) -> Envelope {
    Envelope {
        jti: fresh.id,
        aud: fresh.device,
        generation: fresh.generation,
        iat: numbers.now,
        nbf: numbers.now,
        exp: order.manifest.expires_at,
        lane: numbers.lane,
        seq: numbers.seq,
        manifest: order.manifest.clone(),
        proof: fresh.proof.clone(),
        approvals: approvals.to_vec(),
        script: order.script.clone(),
    }
}

fn sign(app: &App, envelope: &Envelope) -> Result<CompactJws, Problem> {
    let jws =
        envelope::sign(envelope, &app.command_key).map_err(|error| Problem::internal(&error))?;
    if jws.as_str().len() > limits::ENVELOPE_BYTES {
        return Err(Problem::field("/action", "makes an envelope that is too long"));
    }
    Ok(jws)
}

/// Approvals that the caller checked against the present trust root, and who gave them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<'a> {
    pub(crate) trust: &'a TrustRoot,
    pub(crate) approvals: &'a [CompactJws],
    pub(crate) tally: &'a Tally<'a>,
}

impl Words<'_> {
    /// By whose word that device would obey, if by anybody's.
    fn authority(&self, order: &Order, fresh: &Fresh) -> Option<Authority> {
        let needs = self.trust.needs(&order.manifest, &fresh.device).ok()?;
        self.tally.authority(needs)
    }
}

/// Queues those commands of an order that these approvals suffice for, by the rules of devices, as
/// far as they do not wait for its first wave.
pub(crate) async fn release(
    app: &App,
    tx: &mut Tx,
    order: &Order,
    words: &Words<'_>,
) -> Result<Vec<Delivery>, Problem> {
    let mut fresh = orders::waiting(tx, order.id).await?;
    fresh.retain(|fresh| words.authority(order, fresh).is_some());
    let fresh = hold::let_go(tx, order, fresh).await?;
    let fresh = waves::let_go(app, tx, order, fresh).await?;
    queue(app, tx, (order, words), fresh).await
}

/// Queues so many of those that waited for the first wave of their order.
pub(super) async fn release_behind(
    app: &App,
    tx: &mut Tx,
    order: &Order,
    (words, most): (&Words<'_>, usize),
) -> Result<Vec<Delivery>, Problem> {
    let mut fresh = orders::behind(tx, order.id).await?;
    fresh.retain(|fresh| words.authority(order, fresh).is_some());
    let mut fresh = hold::let_go(tx, order, fresh).await?;
    fresh.truncate(most);
    queue(app, tx, (order, words), fresh).await
}

async fn queue(
    app: &App,
    tx: &mut Tx,
    (order, words): (&Order, &Words<'_>),
    fresh: Vec<Fresh>,
) -> Result<Vec<Delivery>, Problem> {
    let is_broken = |fresh: &&Fresh| words.authority(order, fresh) == Some(Authority::BreakGlass);
    let broken = fresh.iter().filter(is_broken).count();
    if broken > 0 {
        let persons: Vec<_> = words.tally.break_glass().collect();
        tracing::warn!(order.id = %order.id, devices = broken, ?persons, "break-glass was used");
        metrics::break_glass_used();
        let verb = order.manifest.action.verb();
        let payload = json!({ "persons": persons, "verb": verb, "devices": broken });
        tx.append(Kind::BreakGlassUsed, order.id, payload);
    }
    let lane = order.manifest.action.lane();
    let ready = vec![Ready { order, approvals: words.approvals, fresh }];
    let signed: Vec<_> =
        number_and_sign(app, tx, lane, ready).await?.into_iter().flatten().collect();
    orders::queue_waiting(tx, order, &signed).await?;
    Ok(signed.into_iter().map(Into::into).collect())
}
