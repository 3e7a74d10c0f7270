//! Writing down what devices say of their commands.
//!
//! Owns the one transaction per batch. The state machine decides; the first receipt wins; what
//! contradicts it is recorded beside it, and confirmed, so that the device need not insist.

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::{CommandId, DeviceId};
use serde_json::{Value, json};

use super::judge::{Finished, Report, Said};
use super::model::{Happening, Step, step};
use super::store::{self, Standing};
use crate::app::App;
use crate::audit::{Actor, Kind};
use crate::db::{CHUNK, DbError, Tx};
use crate::metrics;

/// Events about answers to unknown envelopes, per device and batch: more say nothing new.
const STRANGERS: usize = 4;

/// Receipts that the store holds, by device, as `confirmed` names them.
pub(super) type Confirmed = BTreeMap<DeviceId, Vec<String>>;

/// Writes reports in one transaction, and answers which receipts the store holds now.
pub(super) async fn take_reports(app: &App, reports: Vec<Report>) -> Result<Confirmed, DbError> {
    let mut confirmed = Confirmed::new();
    if reports.is_empty() {
        return Ok(confirmed);
    }
    let mut tx = app.db.write(Actor::System, app.now()).await?;
    let mut known = standings(&mut tx, &reports).await?;
    let mut strangers: BTreeMap<DeviceId, usize> = BTreeMap::new();
    for Report { identity, command, what } in reports {
        let known = known.get_mut(&command).filter(|known| {
            known.device == identity.device && known.generation == identity.generation
        });
        match (what, known) {
            // Nothing was ever signed that the device could have.
            (Said::Acked | Said::Progress(_), Some(known)) if known.envelope_sha256.is_none() => {
                conflict(&mut tx, known, "answered what was never sent");
            }
            (Said::Acked, Some(known)) => ack(&mut tx, known).await?,
            (Said::Progress(stage), Some(known)) => progress(&mut tx, known, &stage).await?,
            (Said::Finished(receipt), Some(known)) if answers(&receipt, known) => {
                finish(&mut tx, known, &receipt).await?;
                confirmed.entry(identity.device).or_default().push(receipt.jws.sha256());
            }
            (Said::Finished(receipt), _) => {
                // Signed by the device, about an envelope that we never sent.
                let count = strangers.entry(identity.device).or_default();
                *count += 1;
                if *count <= STRANGERS {
                    stranger(&mut tx, identity.device, command, &receipt);
                }
                confirmed.entry(identity.device).or_default().push(receipt.jws.sha256());
            }
            (Said::Forged { why, jws }, Some(known)) => {
                metrics::receipt("forged");
                let payload = json!({ "why": why, "receipt_sha256": jws.sha256() });
                by_device(&mut tx, known, Kind::ReceiptForged, payload);
            }
            (Said::Acked | Said::Progress(_) | Said::Forged { .. }, None) => {
                metrics::receipt("not_theirs");
            }
        }
    }
    tx.commit().await?;
    Ok(confirmed)
}

async fn standings(
    tx: &mut Tx,
    reports: &[Report],
) -> Result<BTreeMap<CommandId, Standing>, DbError> {
    let ids: BTreeSet<_> = reports.iter().map(|report| report.command).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    let mut known = BTreeMap::new();
    for ids in ids.chunks(CHUNK) {
        let standings = store::standings(tx.conn(), ids).await?;
        known.extend(standings.into_iter().map(|standing| (standing.id, standing)));
    }
    Ok(known)
}

/// Whether a receipt is about the very envelope that left: a hub that forges one must not get
/// the refusal of its forgery taken for the outcome of the command.
fn answers(receipt: &Finished, known: &Standing) -> bool {
    known.envelope_sha256.as_deref() == Some(receipt.envelope_sha256.as_str())
}

fn stranger(tx: &mut Tx, device: DeviceId, command: CommandId, receipt: &Finished) {
    metrics::receipt("stranger");
    tracing::warn!(device.id = %device, command.id = %command, "device answered a forged envelope");
    let payload = json!({
        "command_id": command,
        "receipt_says": receipt.outcome.state(),
        "receipt_sha256": receipt.jws.sha256(),
    });
    tx.append_by(Actor::Device(device), Kind::EnvelopeForged, device, payload);
}

async fn ack(tx: &mut Tx, known: &mut Standing) -> Result<(), DbError> {
    match step(known.state, Happening::Acked) {
        Step::To(state) => {
            store::ack(tx, known.id).await?;
            known.state = state;
            by_device(tx, known, Kind::CommandAcked, json!({}));
        }
        Step::Stay => {}
        Step::Conflict => conflict(tx, known, "acked"),
    }
    Ok(())
}

async fn progress(tx: &mut Tx, known: &mut Standing, stage: &str) -> Result<(), DbError> {
    match step(known.state, Happening::Progressed) {
        Step::To(state) => {
            known.state = state;
            store::progress(tx, known.id, stage).await?;
            by_device(tx, known, Kind::CommandRunning, json!({ "stage": stage }));
        }
        Step::Stay if !known.state.is_terminal() => {
            store::progress(tx, known.id, stage).await?;
            by_device(tx, known, Kind::CommandRunning, json!({ "stage": stage }));
        }
        Step::Stay => {}
        Step::Conflict => conflict(tx, known, "progressed"),
    }
    Ok(())
}

async fn finish(tx: &mut Tx, known: &mut Standing, receipt: &Finished) -> Result<(), DbError> {
    let says = receipt.outcome.state();
    let text = serde_json::to_string(&receipt.outcome);
    let text = text.map_err(|_| DbError::Unreadable("outcome"))?;
    let is_stored = known.receipt.as_deref() == Some(receipt.jws.as_str());
    match step(known.state, Happening::Receipt { outcome: says, is_stored }) {
        Step::To(state) => {
            metrics::receipt("accepted");
            store::finish(tx, known.id, state, &receipt.jws, &text).await?;
            known.state = state;
            known.receipt = Some(receipt.jws.as_str().to_owned());
            let payload = json!({ "state": state, "receipt_sha256": receipt.jws.sha256() });
            by_device(tx, known, Kind::CommandFinished, payload);
        }
        Step::Stay => metrics::receipt("repeated"),
        Step::Conflict => {
            metrics::receipt("conflict");
            let payload = json!({
                "stands": known.state,
                "receipt_says": says,
                "receipt": receipt.jws.as_str(),
            });
            by_device(tx, known, Kind::ReceiptConflict, payload);
            if known.receipt.is_none() {
                store::keep_late_receipt(tx, known.id, &receipt.jws, &text).await?;
                known.receipt = Some(receipt.jws.as_str().to_owned());
            }
        }
    }
    Ok(())
}

fn conflict(tx: &mut Tx, known: &Standing, says: &'static str) {
    let payload = json!({ "stands": known.state, "device_says": says });
    by_device(tx, known, Kind::ReceiptConflict, payload);
}

fn by_device(tx: &mut Tx, known: &Standing, kind: Kind, payload: Value) {
    tx.append_by(Actor::Device(known.device), kind, known.id, payload);
}
