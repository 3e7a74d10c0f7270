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
use protocol::trust::{Authority, Tally, TrustRoot};
use serde_json::json;

use super::store::orders::Order;
use super::store::{lanes, orders};
use crate::app::App;
use crate::audit::Kind;
use crate::db::Tx;
use crate::http::Problem;
use crate::metrics;
use crate::outbox::Delivery;

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
}

impl From<Signed> for Delivery {
    fn from(signed: Signed) -> Self {
        Self { device: signed.fresh.device, frame: signed.frame }
    }
}

/// Numbers and signs commands of one order.
pub(super) async fn number_and_sign(
    app: &App,
    tx: &mut Tx,
    order: &Order,
    approvals: &[CompactJws],
    fresh: Vec<Fresh>,
) -> Result<Vec<Signed>, Problem> {
    let lane = order.manifest.action.verb().lane();
    let now = tx.now().whole_secs();
    let before = lanes::newest_open(tx, lane, &fresh).await?;
    let numbers = lanes::draw(tx, lane, &fresh).await?;
    let mut signed = Vec::with_capacity(fresh.len());
    for fresh in fresh {
        let seq = numbers.get(&fresh.device).copied();
        let seq = seq.ok_or(crate::db::DbError::Unreadable("sequence number"))?;
        let envelope = Envelope {
            jti: fresh.id,
            aud: fresh.device,
            generation: fresh.generation,
            iat: now,
            nbf: now,
            exp: order.manifest.expires_at,
            lane,
            seq,
            manifest: order.manifest.clone(),
            proof: fresh.proof.clone(),
            approvals: approvals.to_vec(),
            script: order.script.clone(),
        };
        let jws = envelope::sign(&envelope, &app.command_key)
            .map_err(|error| Problem::internal(&error))?;
        if jws.as_str().len() > limits::ENVELOPE_BYTES {
            return Err(Problem::field("/action", "makes an envelope that is too long"));
        }
        let after_seq = before.get(&fresh.device).copied().unwrap_or(0);
        let frame = CommandFrame { command_id: fresh.id, lane, after_seq, jws };
        signed.push(Signed { fresh, seq, frame });
    }
    Ok(signed)
}

/// Approvals that the caller checked against the present trust root, and who gave them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<'a> {
    pub(crate) trust: &'a TrustRoot,
    pub(crate) approvals: &'a [CompactJws],
    pub(crate) tally: &'a Tally<'a>,
}

/// Queues those commands of an order that these approvals suffice for, by the rules of devices.
pub(crate) async fn release(
    app: &App,
    tx: &mut Tx,
    order: &Order,
    words: &Words<'_>,
) -> Result<Vec<Delivery>, Problem> {
    let authority = |fresh: &Fresh| {
        let needs = words.trust.needs(&order.manifest, &fresh.device).ok()?;
        words.tally.authority(needs)
    };
    let mut ready = orders::waiting(tx, order.id).await?;
    ready.retain(|fresh| authority(fresh).is_some());
    let broken = ready.iter().filter(|f| authority(f) == Some(Authority::BreakGlass)).count();
    if broken > 0 {
        let persons: Vec<_> = words.tally.break_glass().collect();
        tracing::warn!(order.id = %order.id, devices = broken, ?persons, "break-glass was used");
        metrics::break_glass_used();
        let verb = order.manifest.action.verb();
        let payload = json!({ "persons": persons, "verb": verb, "devices": broken });
        tx.append(Kind::BreakGlassUsed, order.id, payload);
    }
    let signed = number_and_sign(app, tx, order, words.approvals, ready).await?;
    orders::queue_waiting(tx, order, &signed).await?;
    Ok(signed.into_iter().map(Into::into).collect())
}
