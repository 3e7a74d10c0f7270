//! Writing down what devices say of their commands.
//!
//! Owns the transactions of a batch. The state machine decides; the first receipt wins; what
//! contradicts it is recorded beside it, and confirmed, so that the device need not insist.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;

use protocol::action::Verb;
use protocol::advance::Advance;
use protocol::grade::Grade;
use protocol::id::{CommandId, DeviceId};
use protocol::jws::CompactJws;
use protocol::time::Timestamp;
use serde_json::{Value, json};

use super::end::end_if_over;
use super::judge::{self, Escrowed, Finished, Noticed, Proved, Report, Said, Stage, Words};
use super::model::{Happening, Step, step};
use super::sent;
use super::store::{self, Standing};
use super::waves;
use crate::app::App;
use crate::audit::{self, Actor, Kind};
use crate::db::{CHUNK, DbError, Tx};
use crate::devices::{self, Key};
use crate::{collections, escrows, metrics};

/// Events about the stages of one command: a device must not fill the audit log with them.
const STAGES: i64 = 16;
/// Events about one command's receipts that contradict, and that do not verify: each says
/// nothing that the first did not. The metric counts all of them.
const ALARMS: i64 = 1;
/// Events about what happened to one command's effect. A device that is tampered with without end
/// has said so by then; the metric counts on.
const NOTICES: i64 = 64;

/// Reports in one transaction.
const PIECE: usize = 500;

/// What became of what devices said.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Receipts and proofs that the store holds, by device, as `confirmed` names them.
    pub(super) confirmed: BTreeMap<DeviceId, Vec<String>>,
    /// What was spoken of.
    pub(super) commands: BTreeSet<CommandId>,
}

/// Writes what devices say. Many reports are written in several transactions: urgent orders are written between
/// two of them, and while one is written the signatures of the next are checked. When one fails
/// all of them come again, and those that were written already change nothing.
pub(super) async fn take_reports(app: &App, said: Words) -> Result<Taken, DbError> {
    let keys = Arc::new(keys(app, &said).await?);
    let mut said = said.into_iter();
    let mut next_piece = || {
        let piece: Vec<_> = said.by_ref().take(PIECE).collect();
        (!piece.is_empty()).then(|| judge::judge_all(piece, keys.clone()))
    };
    let mut taken = Taken::default();
    let mut next = next_piece();
    while let Some(judged) = next {
        // Signatures are checked before the transaction: it must not be held for arithmetic.
        let reports = judged.await.map_err(|error| {
            tracing::error!(error = &error as &dyn Error, "what devices said could not be judged");
            DbError::Unreadable("word of a device")
        })?;
        next = next_piece();
        taken.commands.extend(reports.iter().map(|report| report.command));
        take_piece(app, reports, &mut taken.confirmed).await?;
    }
    Ok(taken)
}

/// The keys of those who signed something.
async fn keys(app: &App, said: &Words) -> Result<BTreeMap<DeviceId, Key>, DbError> {
    let signed = said.iter().filter(|(_, frame)| judge::is_signed(frame));
    let devices: BTreeSet<_> = signed.map(|(identity, _)| identity.device).collect();
    let devices: Vec<_> = devices.into_iter().collect();
    match devices.as_slice() {
        [] => Ok(BTreeMap::new()),
        ids => devices::keys(&mut app.db.read().await?, ids).await,
    }
}

async fn take_piece(
    app: &App,
    reports: Vec<Report>,
    confirmed: &mut BTreeMap<DeviceId, Vec<String>>,
) -> Result<(), DbError> {
    let mut tx = app.db.write(Actor::System, app.now()).await?;
    let ids = reports.iter().map(|report| report.command).collect();
    let sent = sent::take_with(app, &mut tx, &ids).await?;
    let mut known = standings(&mut tx, ids).await?;
    // Before what came of it.
    if let Some((at, ids)) = sent {
        send(&mut tx, &mut known, at, &ids);
    }
    let mut told = Told::of_stages(&mut tx, &reports).await?;
    for Report { identity, command, what } in reports {
        let known = known.get_mut(&command).filter(|known| {
            known.device == identity.device && known.generation == identity.generation
        });
        match (what, known) {
            // Nothing was ever signed that the device could have.
            (Said::Acked | Said::Progress(_), Some(known)) if known.envelope_sha256.is_none() => {
                conflict(&mut tx, &mut told, known, "answered what was never sent").await?;
            }
            (Said::Acked, Some(known)) => {
                ack(&mut tx, &mut told, known).await?;
                end_if_over(&mut tx, known);
            }
            (Said::Progress(stage), Some(known)) => {
                progress(&mut tx, &mut told, known, stage).await?;
                end_if_over(&mut tx, known);
            }
            (Said::Proved(proved), Some(known))
                if answers(&proved.proof.envelope_sha256, known) =>
            {
                prove(&mut tx, &mut told, known, &proved).await?;
                end_if_over(&mut tx, known);
                confirmed.entry(identity.device).or_default().push(proved.jws.sha256());
            }
            (Said::Escrowed(said), Some(known))
                if answers(&said.escrow.envelope_sha256, known) && !known.state.is_terminal() =>
            {
                let held = escrow(app, (&mut tx, &mut told), known, &said).await?;
                confirmed.entry(identity.device).or_default().extend(held);
            }
            (Said::Finished(receipt), Some(known)) if answers(&receipt.envelope_sha256, known) => {
                finish(app, (&mut tx, &mut told), known, &receipt).await?;
                confirmed.entry(identity.device).or_default().push(receipt.jws.sha256());
            }
            (Said::Finished(receipt), _) => {
                stranger(app, &mut tx, (identity.device, command), &receipt);
                confirmed.entry(identity.device).or_default().push(receipt.jws.sha256());
            }
            (Said::Noticed(notice), known) => {
                metrics::receipt("notice");
                confirmed.entry(identity.device).or_default().push(notice.jws.sha256());
                if let Some(known) = known {
                    notice_of(&mut tx, &mut told, known, &notice).await?;
                }
            }
            (Said::Forged { why, jws }, Some(known)) => {
                forged(&mut tx, &mut told, known, (why, &jws)).await?;
            }
            (Said::Forged { why, jws }, None) => {
                foreign(app, &mut tx, (identity.device, command), (why, &jws));
            }
            // A proof of an envelope that we never sent ends nothing, and its receipt will come.
            // Nor does an escrow, which comes too late besides where its command has ended.
            (Said::Proved(_) | Said::Escrowed(_), Some(_))
            | (Said::Acked | Said::Progress(_), None)
            | (Said::Proved(_) | Said::Escrowed(_), None) => {
                metrics::receipt("not_theirs");
            }
        }
    }
    commit(app, tx, &known).await
}

/// Writes what came of the commands, and tells those who watch them.
async fn commit(
    app: &App,
    mut tx: Tx,
    known: &BTreeMap<CommandId, Standing>,
) -> Result<(), DbError> {
    store::save(&mut tx, known.values()).await?;
    let ended = known.values().filter(|known| known.has_ended()).map(|known| known.order);
    // What devices said is written whatever comes of the others: the job tries again. A statement that
    // failed fails the commit.
    let deliveries = waves::conclude(app, &mut tx, &ended.collect()).await;
    let deliveries = deliveries.unwrap_or_else(|problem| {
        tracing::error!(error = %problem, "nobody followed a first wave");
        Vec::new()
    });
    tx.commit().await?;
    app.outbox.push(deliveries);
    let advanced = known.values().filter(|known| known.has_advanced()).map(|known| known.id);
    app.advanced.tell(advanced);
    Ok(())
}

async fn standings(
    tx: &mut Tx,
    ids: BTreeSet<CommandId>,
) -> Result<BTreeMap<CommandId, Standing>, DbError> {
    let ids: Vec<_> = ids.into_iter().collect();
    let mut known = BTreeMap::new();
    for ids in ids.chunks(CHUNK) {
        let standings = store::standings(tx.conn(), ids).await?;
        known.extend(standings.into_iter().map(|standing| (standing.id, standing)));
    }
    Ok(known)
}

/// Knows that sessions took those commands then.
fn send(
    tx: &mut Tx,
    known: &mut BTreeMap<CommandId, Standing>,
    at: Timestamp,
    ids: &BTreeSet<CommandId>,
) {
    for known in known.values_mut().filter(|known| ids.contains(&known.id)) {
        if known.send(at) {
            tx.append(Kind::CommandSent, known.id, json!({}));
        }
    }
}

/// Whether a signed word is about the very envelope that left: a hub that forges one must not get
/// the refusal of its forgery taken for the outcome of the command.
fn answers(envelope_sha256: &str, known: &Standing) -> bool {
    known.envelope_sha256.as_deref() == Some(envelope_sha256)
}

/// Signed by the device, about an envelope that we never sent.
fn stranger(app: &App, tx: &mut Tx, (device, command): (DeviceId, CommandId), receipt: &Finished) {
    metrics::receipt("stranger");
    if !app.limits.takes_stranger(device) {
        return;
    }
    tracing::warn!(device.id = %device, command.id = %command, "device answered a forged envelope");
    let payload = json!({
        "command_id": command,
        "receipt_says": receipt.outcome.state(),
        "receipt_sha256": receipt.jws.sha256(),
    });
    tx.append_by(Actor::Device(device), Kind::EnvelopeForged, device, payload);
}

/// Said in a device's name about a command that is none of its, and not signed by it: whoever
/// carried it made it up, or put one device's word into another's mouth.
fn foreign(
    app: &App,
    tx: &mut Tx,
    (device, command): (DeviceId, CommandId),
    (why, jws): (String, &CompactJws),
) {
    metrics::receipt("not_theirs");
    if !app.limits.takes_stranger(device) {
        return;
    }
    tracing::warn!(device.id = %device, command.id = %command, "forged word about another's command");
    let payload = json!({ "command_id": command, "why": why, "receipt_sha256": jws.sha256() });
    tx.append_by(Actor::Device(device), Kind::ReceiptForged, device, payload);
}

async fn forged(
    tx: &mut Tx,
    told: &mut Told,
    known: &Standing,
    (why, jws): (String, &CompactJws),
) -> Result<(), DbError> {
    metrics::receipt("forged");
    let payload = json!({ "why": why, "receipt_sha256": jws.sha256() });
    if told.is_within(tx, known, Kind::ReceiptForged, ALARMS).await? {
        by_device(tx, known, Kind::ReceiptForged, payload);
    }
    Ok(())
}

/// Keeps a credential that is about to come into force. What names it, once it is held.
async fn escrow(
    app: &App,
    (tx, told): (&mut Tx, &mut Told),
    known: &mut Standing,
    said: &Escrowed,
) -> Result<Option<String>, DbError> {
    progress(tx, told, known, "escrow".into()).await?;
    end_if_over(tx, known);
    let is_held = escrows::keep(app, tx, &said.escrow, &said.jws).await?;
    if is_held {
        metrics::receipt("escrow");
    }
    Ok(is_held.then(|| said.jws.sha256()))
}

async fn ack(tx: &mut Tx, told: &mut Told, known: &mut Standing) -> Result<(), DbError> {
    match step(known.state, Happening::Acked) {
        Step::To(_) => {
            known.ack(tx.now());
            by_device(tx, known, Kind::CommandAcked, json!({}));
        }
        Step::Stay => {}
        Step::Conflict => conflict(tx, told, known, "acked").await?,
    }
    Ok(())
}

async fn progress(
    tx: &mut Tx,
    told: &mut Told,
    known: &mut Standing,
    stage: Stage,
) -> Result<(), DbError> {
    let Stage { name, advance } = stage;
    let is_news = match step(known.state, Happening::Progressed) {
        Step::To(_) => true,
        Step::Stay if known.state.is_terminal() => return Ok(()),
        Step::Stay => known.stage.as_ref() != Some(&name),
        Step::Conflict => return conflict(tx, told, known, "progressed").await,
    };
    if is_news {
        if told.is_within(tx, known, Kind::CommandRunning, STAGES).await? {
            by_device(tx, known, Kind::CommandRunning, json!({ "stage": name }));
        }
        known.progress(name, tx.now());
    }
    // How far a stage is changes all the time: only the newest word is kept, and none is an event.
    if is_news || advance.is_some() {
        let (advance, output) = texts(advance)?;
        known.advance(advance, output);
    }
    Ok(())
}

/// An advance as it is stored. What a script says goes apart, to be sealed.
fn texts(mut advance: Option<Advance>) -> Result<(Option<String>, Option<String>), DbError> {
    let output = advance.as_mut().and_then(|advance| advance.output.take());
    let output = output.map(|output| serde_json::to_string(&output)).transpose();
    let advance = advance.map(|advance| serde_json::to_string(&advance)).transpose();
    let unreadable = |_| DbError::Unreadable("advance");
    Ok((advance.map_err(unreadable)?, output.map_err(unreadable)?))
}

/// Keeps the first proof; a later one says nothing that it did not. It moves the command on like
/// any stage, and also stands where the command has ended otherwise meanwhile.
async fn prove(
    tx: &mut Tx,
    told: &mut Told,
    known: &mut Standing,
    proved: &Proved,
) -> Result<(), DbError> {
    progress(tx, told, known, "proved".into()).await?;
    if known.keep_proof(&proved.jws) {
        metrics::receipt("proof");
        let grade = Grade::claimed(&proved.proof.evidence);
        let payload = json!({ "grade": grade, "proof_sha256": proved.jws.sha256() });
        by_device(tx, known, Kind::CommandProved, payload);
    }
    Ok(())
}

async fn finish(
    app: &App,
    (tx, told): (&mut Tx, &mut Told),
    known: &mut Standing,
    receipt: &Finished,
) -> Result<(), DbError> {
    let says = receipt.outcome.state();
    let text = serde_json::to_string(&receipt.outcome);
    let text = text.map_err(|_| DbError::Unreadable("outcome"))?;
    let is_stored = known.receipt.as_deref() == Some(receipt.jws.as_str());
    match step(known.state, Happening::Receipt { outcome: says, is_stored }) {
        Step::To(state) => {
            metrics::receipt("accepted");
            known.finish(state, (&receipt.jws, text), tx.now());
            escrows::settle(tx, known.id, &receipt.outcome).await?;
            let whose = (known.id, known.device, known.generation);
            if known.verb == Verb::CollectEvidence {
                collections::expect(app, tx, whose, &receipt.outcome).await?;
            }
            let payload = json!({ "state": state, "receipt_sha256": receipt.jws.sha256() });
            by_device(tx, known, Kind::CommandFinished, payload);
        }
        Step::Stay => metrics::receipt("repeated"),
        Step::Conflict => {
            metrics::receipt("conflict");
            let payload = json!({
                "stands": known.state,
                "receipt_says": says,
                "receipt_sha256": receipt.jws.sha256(),
            });
            if told.is_within(tx, known, Kind::ReceiptConflict, ALARMS).await? {
                by_device(tx, known, Kind::ReceiptConflict, payload);
            }
            if known.receipt.is_none() {
                known.keep_receipt(&receipt.jws, text);
            }
        }
    }
    Ok(())
}

/// What ended as it was ordered is no alarm; everything else that happens to an effect is one.
async fn notice_of(
    tx: &mut Tx,
    told: &mut Told,
    known: &Standing,
    notice: &Noticed,
) -> Result<(), DbError> {
    let kind = match notice.what.as_str() {
        "quarantine_ended" | "unlocked_offline" | "released_offline" => Kind::EffectEnded,
        "collection_lost" => {
            if !collections::lose(tx, (known.id, known.device, known.generation)).await? {
                return Ok(());
            }
            Kind::CollectionLost
        }
        _ => Kind::DeviceTampered,
    };
    if told.is_within(tx, known, kind, NOTICES).await? {
        let sha256 = notice.jws.sha256();
        let payload = json!({ "what": notice.what, "at": notice.at, "notice_sha256": sha256 });
        by_device(tx, known, kind, payload);
    }
    Ok(())
}

async fn conflict(
    tx: &mut Tx,
    told: &mut Told,
    known: &Standing,
    says: &'static str,
) -> Result<(), DbError> {
    metrics::receipt("conflict");
    if told.is_within(tx, known, Kind::ReceiptConflict, ALARMS).await? {
        let payload = json!({ "stands": known.state, "device_says": says });
        by_device(tx, known, Kind::ReceiptConflict, payload);
    }
    Ok(())
}

/// How many events of a kind there are about a command, this batch's included.
#[derive(Debug, Default)]
struct Told(BTreeMap<(CommandId, &'static str), i64>);

impl Told {
    /// Knows of the stages that these reports are about, with one statement.
    async fn of_stages(tx: &mut Tx, reports: &[Report]) -> Result<Self, DbError> {
        let has_stage =
            |said: &Said| matches!(said, Said::Progress(_) | Said::Proved(_) | Said::Escrowed(_));
        let commands: BTreeSet<_> =
            reports.iter().filter(|report| has_stage(&report.what)).map(|r| r.command).collect();
        let commands: Vec<_> = commands.into_iter().collect();
        let kind = Kind::CommandRunning;
        let mut told = Self::default();
        for commands in commands.chunks(CHUNK) {
            let mut counts = audit::count_about_each(tx.conn(), commands, kind).await?;
            told.0.extend(
                commands
                    .iter()
                    .map(|id| ((*id, kind.as_str()), counts.remove(&id.to_string()).unwrap_or(0))),
            );
        }
        Ok(told)
    }

    /// Counts one more, and answers whether it is within the bound.
    async fn is_within(
        &mut self,
        tx: &mut Tx,
        known: &Standing,
        kind: Kind,
        most: i64,
    ) -> Result<bool, DbError> {
        let count = match self.0.entry((known.id, kind.as_str())) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(audit::count_about(tx.conn(), known.id, kind).await?)
            }
        };
        *count = count.saturating_add(1);
        Ok(*count <= most)
    }
}

fn by_device(tx: &mut Tx, known: &Standing, kind: Kind, payload: Value) {
    tx.append_by(Actor::Device(known.device), kind, known.id, payload);
}
