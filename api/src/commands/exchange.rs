//! Answering agents: the same frames, whichever rung of the ladder brought them.
//!
//! Owns the order of things: what devices report is committed first, then everything that waits
//! for those who ask is read with one statement, so that nothing just acked is sent again. What a
//! device is said to have, and by its own numbers has not, is sent again unless it has ended, and
//! is an event: the device's state went backwards. So is a device that has seen higher numbers
//! than the store has given: the store is an older copy.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::enrollment::DeviceIdentity;
use protocol::frame::{AgentFrame, CommandFrame, Hello, HubFrame};
use protocol::id::{CommandId, DeviceId};
use protocol::limits;
use protocol::state::{Lane, PerLane};
use serde_json::{Value, json};

use super::hold;
use super::judge::{Words, printable};
use super::reports::{Taken, take_reports};
use super::said::Said;
use super::store::delivery::{self, Asking, Out};
use super::store::lanes;
use crate::app::App;
use crate::audit::{self, Actor, Kind};
use crate::db::{Conn, DbError, Tx};
use crate::{checkpoints, devices, metrics, trust};

/// Bytes of envelopes in one answer to one device: half of what its hub lets wait.
const ANSWER_BYTES: usize = limits::OUTBOX_BYTES / 2;
/// Commands in one answer to one device.
const ANSWER_COMMANDS: usize = 64;
/// When what an answer had no room for follows: by then its device has taken the answer.
const NEXT_ANSWER: Duration = Duration::from_secs(2);
/// How far one report of a device may raise a number of its lanes: no device gets more commands
/// in its life, and a liar cannot reach the end of the numbers.
const MOST_RAISE: u64 = 1 << 32;
/// How long a device must have had a command before a lower number counts against it: a `hello`
/// that is taken later than what followed it, by another node or from another connection, is no sign of
/// anything.
const SETTLED: Duration = Duration::from_secs(10);
/// The word of a device that was shown two audit logs.
const FORKED: &str = "audit_forked";
/// Hellos in one transaction: urgent orders are written between two of them.
const PIECE: usize = 100;
/// How old `last_seen_at` may become before it is written again.
const SEEN_STEP: Duration = Duration::from_secs(10 * 60);

/// One frame of one device, whoever carried it.
#[derive(Debug)]
pub(super) struct Inbound {
    /// The device, as its certificate says.
    pub(super) identity: DeviceIdentity,
    /// What the agent said.
    pub(super) frame: AgentFrame,
}

/// What one device is to be told.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The frames, in order.
    pub(super) frames: Vec<HubFrame>,
    /// The commands among them.
    pub(super) commands: Vec<CommandId>,
    /// Its enrollment does not stand: generations up to this one are refused.
    pub(super) refused_through: Option<u32>,
}

/// Takes in what devices say, and answers what each is to be told.
pub(super) async fn exchange(
    app: &App,
    inbound: Vec<Inbound>,
) -> Result<BTreeMap<DeviceId, Answer>, DbError> {
    metrics::upstream_frames(inbound.len());
    let (asks, said) = sort(inbound);
    let mut answers: BTreeMap<DeviceId, Answer> = BTreeMap::new();
    let Taken { confirmed, commands: just_said } = take_reports(app, said).await?;
    if !asks.is_empty() {
        // A hello may be older than what came with it.
        answer_asks(app, asks, &just_said, &mut answers).await?;
    }
    for (device, receipts) in confirmed {
        let answer = answers.entry(device).or_default();
        for receipts in receipts.chunks(limits::CONFIRMED_RECEIPTS) {
            answer.frames.push(HubFrame::Confirmed { receipts: receipts.to_vec() });
        }
    }
    Ok(answers)
}

/// Who asks for what waits.
type Asks = BTreeMap<DeviceId, Ask>;

/// The identity, the newest numbers on its disk, and the hello if it was one.
#[derive(Debug)]
struct Ask {
    identity: DeviceIdentity,
    last_seq: PerLane<u64>,
    hello: Option<Hello>,
}

fn sort(inbound: Vec<Inbound>) -> (Asks, Words) {
    let mut asks = Asks::new();
    let mut said = Vec::new();
    for Inbound { identity, frame } in inbound {
        match frame {
            AgentFrame::Hello(hello) => {
                let last_seq = hello.last_seq;
                asks.insert(identity.device, Ask { identity, last_seq, hello: Some(hello) });
            }
            AgentFrame::Sync { last_seq } => {
                let ask = asks.entry(identity.device);
                ask.and_modify(|ask| ask.last_seq = last_seq).or_insert(Ask {
                    identity,
                    last_seq,
                    hello: None,
                });
            }
            frame @ (AgentFrame::Receipt { .. }
            | AgentFrame::Proof { .. }
            | AgentFrame::Escrow { .. }
            | AgentFrame::Notice { .. }
            | AgentFrame::Ack { .. }
            | AgentFrame::Progress { .. }) => said.push((identity, frame)),
            AgentFrame::Unknown => {}
        }
    }
    (asks, said)
}

/// Reads what waits for those who ask, with one statement, and writes what they say of
/// themselves if it is new.
async fn answer_asks(
    app: &App,
    asks: Asks,
    just_said: &BTreeSet<CommandId>,
    answers: &mut BTreeMap<DeviceId, Answer>,
) -> Result<(), DbError> {
    let now = app.now();
    let ids: Vec<_> = asks.keys().copied().collect();
    let mut conn = app.db.read().await?;
    let mut found = BTreeMap::new();
    for ids in ids.chunks(crate::db::CHUNK) {
        found.append(&mut delivery::asking(&mut conn, ids, (now, now.minus(SETTLED))).await?);
    }
    let mut trust_frames: BTreeMap<u32, Vec<HubFrame>> = BTreeMap::new();
    let mut news = News::default();
    for (device, Ask { identity, last_seq, hello }) in asks {
        let Some(asking) = found.remove(&device) else {
            answers.entry(device).or_default().refused_through = Some(identity.generation);
            continue;
        };
        if let Some(through) = refusal(identity, &asking) {
            answers.entry(device).or_default().refused_through = Some(through);
            continue;
        }
        let answer = answers.entry(device).or_default();
        // Of a device whose first hello is not written yet nothing is known, and it has what it enrolled with.
        let known = (asking.trust_version > 0).then_some(asking.trust_version);
        let reported = hello.as_ref().map(|hello| hello.trust_version).or(known);
        if let Some(reported) = reported.filter(|reported| *reported < asking.newest_trust) {
            let frames = match trust_frames.entry(reported) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    entry.insert(trust::frames_after(&mut conn, reported).await?)
                }
            };
            answer.frames.extend(frames.iter().cloned());
        }
        let mut is_cloned = asking.boots.is_cloned;
        if let Some(hello) = hello.map(tidied)
            && is_news(&asking, &hello, now)
        {
            is_cloned |= news.note_hello(device, hello, &asking);
            // Seldom enough to cost nothing, and often enough to be remembered.
            answer.frames.extend(checkpoints::frame(app));
        }
        news.note_ahead(app, identity, last_seq, asking.last_seq);
        let mut rollback = Rollback { last_seq, had_seq: asking.had_seq, lost: Vec::new() };
        let frames = to_tell((asking.out, is_cloned), &mut rollback, just_said);
        news.note_rollback(app, &mut conn, device, rollback).await?;
        news.left.extend(fill(answer, frames));
    }
    drop(conn);
    record(app, news).await
}

/// Through which generation a device is refused, if its enrollment does not stand.
fn refusal(identity: DeviceIdentity, asking: &Asking) -> Option<u32> {
    if identity.generation <= asking.revoked_through {
        Some(asking.revoked_through)
    } else if identity.generation < asking.generation {
        Some(asking.generation - 1)
    } else {
        None
    }
}

/// What a device's own numbers say, against what it is said to have had.
#[derive(Debug)]
struct Rollback {
    /// The newest that are on its disk.
    last_seq: PerLane<u64>,
    /// The newest that were.
    had_seq: PerLane<u64>,
    /// What it was said to have, and what has not ended.
    lost: Vec<CommandId>,
}

impl Rollback {
    fn is_none(&self) -> bool {
        Lane::ALL.iter().all(|lane| self.last_seq.get(*lane) >= self.had_seq.get(*lane))
    }

    fn payload(&self) -> Value {
        let Self { last_seq, had_seq, lost } = self;
        json!({ "last_seq": last_seq, "had_seq": had_seq, "commands": lost.len() })
    }

    /// Whether the newest event about the device said the same: a device whose state went back
    /// says so at each contact until it gets another command.
    async fn is_told(&self, conn: &mut Conn, device: DeviceId) -> Result<bool, DbError> {
        let told = audit::latest_about(conn, device, Kind::JournalRollback).await?;
        let payload = self.payload();
        let is_same = |told: Value| ["last_seq", "had_seq"].iter().all(|k| told[k] == payload[k]);
        Ok(self.lost.is_empty() && told.is_some_and(is_same))
    }
}

/// What waits, in order, urgent lane first, each with the number of the one before it. What the
/// device is said to have although its numbers say that it has not is among it, also where that may only
/// mean that the numbers are older: a device takes nothing twice. What is held is not.
fn to_tell(
    (out, is_cloned): (Vec<Out>, bool),
    rollback: &mut Rollback,
    just_said: &BTreeSet<CommandId>,
) -> Vec<CommandFrame> {
    let mut frames = Vec::with_capacity(out.len());
    let mut before = PerLane::default();
    for Out { seq, is_taken, is_settled, is_held_of_clones, mut frame } in out {
        let last = *rollback.last_seq.get(frame.lane);
        let is_lost = seq > last && !just_said.contains(&frame.command_id);
        if is_taken && !is_lost {
            continue;
        }
        if is_taken && is_settled {
            let had = rollback.had_seq.get_mut(frame.lane);
            *had = seq.max(*had);
            rollback.lost.push(frame.command_id);
        }
        if is_held_of_clones && is_cloned {
            continue;
        }
        frame.after_seq = std::mem::replace(before.get_mut(frame.lane), seq);
        frames.push(frame);
    }
    frames
}

/// Puts what waits into the answer, as much as a session takes at once, and answers what is left.
fn fill(answer: &mut Answer, frames: Vec<CommandFrame>) -> Vec<CommandId> {
    let (mut bytes, mut left) = (0, Vec::new());
    for frame in frames {
        bytes += frame.jws.as_str().len();
        let is_full = answer.commands.len() == ANSWER_COMMANDS
            || (bytes > ANSWER_BYTES && !answer.commands.is_empty());
        if is_full || !left.is_empty() {
            left.push(frame.command_id);
        } else {
            answer.commands.push(frame.command_id);
            answer.frames.push(HubFrame::Command(frame));
        }
    }
    left
}

fn says(capabilities: &[String], word: &str) -> bool {
    capabilities.iter().any(|capability| capability == word)
}

fn tidied(mut hello: Hello) -> Hello {
    hello.agent = printable(&hello.agent);
    for word in &mut hello.capabilities {
        *word = printable(word);
    }
    hello
}

fn is_news(asking: &Asking, hello: &Hello, now: protocol::time::Timestamp) -> bool {
    asking.agent_version.as_ref() != Some(&hello.agent)
        || asking.boots.present != Some(hello.boot_id)
        || asking.boots.is_other_run(hello)
        || asking.trust_version != hello.trust_version
        || asking.capabilities != hello.capabilities
        || asking.degraded_since != hello.degraded_since
        || asking.last_seen_at.is_none_or(|seen| now.since(seen) > SEEN_STEP)
}

/// What is worth writing down of those who asked.
#[derive(Debug, Default)]
struct News {
    hellos: Vec<Said>,
    /// Devices that lack what they had.
    rollbacks: Vec<(DeviceId, Rollback)>,
    /// Lanes in which a device has seen higher numbers than the store has given.
    raises: Vec<Raise>,
    /// Commands beyond what an answer takes, whose devices are here: they follow soon.
    left: Vec<CommandId>,
}

/// A lane whose numbers go on from higher up.
#[derive(Debug)]
struct Raise {
    identity: DeviceIdentity,
    lane: Lane,
    from: u64,
    to: u64,
}

impl News {
    fn is_none(&self) -> bool {
        self.hellos.is_empty()
            && self.rollbacks.is_empty()
            && self.raises.is_empty()
            && self.left.is_empty()
    }

    /// A hello of a session that a later one has followed says nothing any more. Answers whether
    /// it gives a second machine away.
    fn note_hello(&mut self, device: DeviceId, hello: Hello, asking: &Asking) -> bool {
        let boots = &asking.boots;
        let is_numbered = hello.epoch > 0 && boots.present.is_some();
        if is_numbered && boots.present != Some(hello.boot_id) && hello.epoch <= boots.epoch {
            return false;
        }
        let said = Said {
            device,
            hello,
            capabilities: asking.capabilities.clone(),
            agent_version: asking.agent_version.clone(),
            boots: boots.clone(),
        };
        let is_of_a_clone = said.is_of_a_clone();
        self.hellos.push(said);
        is_of_a_clone
    }

    async fn note_rollback(
        &mut self,
        app: &App,
        conn: &mut Conn,
        device: DeviceId,
        rollback: Rollback,
    ) -> Result<(), DbError> {
        if rollback.is_none() || rollback.is_told(conn, device).await? {
            return Ok(());
        }
        tracing::warn!(
            device.id = %device, lost = rollback.lost.len(), "state of a device went backwards"
        );
        if app.limits.takes_rollback(device) {
            self.rollbacks.push((device, rollback));
        }
        Ok(())
    }

    fn note_ahead(
        &mut self,
        app: &App,
        identity: DeviceIdentity,
        reported: PerLane<u64>,
        given: PerLane<u64>,
    ) {
        let ahead = |lane: &Lane| reported.get(*lane) > given.get(*lane);
        if !Lane::ALL.iter().any(ahead) {
            return;
        }
        tracing::warn!(device.id = %identity.device, "device has seen higher numbers than given");
        if !app.limits.takes_raise(identity.device) {
            return;
        }
        self.raises.extend(Lane::ALL.into_iter().filter(ahead).map(|lane| {
            let from = *given.get(lane);
            let to = from.saturating_add(MOST_RAISE).min(*reported.get(lane));
            Raise { identity, lane, from, to }
        }));
    }
}

async fn record(app: &App, mut news: News) -> Result<(), DbError> {
    if news.is_none() {
        return Ok(());
    }
    while news.hellos.len() > PIECE {
        let hellos = news.hellos.split_off(news.hellos.len() - PIECE);
        record_piece(app, News { hellos, ..News::default() }).await?;
    }
    record_piece(app, news).await
}

async fn record_piece(app: &App, news: News) -> Result<(), DbError> {
    let now = app.now();
    let mut tx = app.db.write(Actor::System, now).await?;
    for (device, rollback) in news.rollbacks {
        tx.append_by(Actor::Device(device), Kind::JournalRollback, device, rollback.payload());
        for command in delivery::take_back(&mut tx, &rollback.lost, now.plus(NEXT_ANSWER)).await? {
            tx.append_by(Actor::Device(device), Kind::CommandLost, command, json!({}));
        }
    }
    for Raise { identity, lane, from, to } in news.raises {
        if lanes::raise(&mut tx, identity, lane, to).await? {
            let device = identity.device;
            let payload = json!({ "lane": lane, "from": from, "to": to });
            tx.append_by(Actor::Device(device), Kind::SequenceRaised, device, payload);
        }
    }
    // Those of the last moment that its numbers lack would wait for its next word.
    for command in delivery::take_back(&mut tx, &news.left, now.plus(NEXT_ANSWER)).await? {
        tx.append(Kind::CommandLost, command, json!({}));
    }
    delivery::make_due(&mut tx, &news.left, now.plus(NEXT_ANSWER)).await?;
    for said in news.hellos {
        record_hello(app, &mut tx, said).await?;
    }
    tx.commit().await
}

async fn record_hello(app: &App, tx: &mut Tx, said: Said) -> Result<(), DbError> {
    let device = said.device;
    if said.is_other_boot() || said.boots.present.is_none() {
        devices::record_boot(tx, device, said.boots.present, said.hello.epoch).await?;
    }
    if said.is_of_a_clone() && !said.boots.is_cloned {
        tracing::error!(device.id = %device, "two machines hold the identity of a device");
        devices::record_clone(tx, device).await?;
        hold::tell(tx, device).await?;
        tx.append_by(Actor::Device(device), Kind::DeviceCloned, device, said.evidence());
    }
    let heard = said.heard();
    let Said { mut hello, capabilities, agent_version, .. } = said;
    let known = capabilities.clone();
    let is_other =
        hello.capabilities != capabilities || agent_version.as_ref() != Some(&hello.agent);
    let is_told = is_other && app.limits.takes_facts(device);
    if let Some(agent_version) = agent_version.filter(|_| is_other && !is_told) {
        // No change without its event: what comes too soon is written at a later hello.
        hello.agent = agent_version;
        hello.capabilities = capabilities;
    }
    devices::record_facts(tx, device, &hello, heard).await?;
    if is_told {
        let payload = json!({ "agent": hello.agent, "capabilities": hello.capabilities });
        tx.append_by(Actor::Device(device), Kind::DeviceReported, device, payload);
        if says(&hello.capabilities, FORKED) && !says(&known, FORKED) {
            tracing::error!(device.id = %device, "device knows another audit log");
            tx.append_by(Actor::Device(device), Kind::AuditForked, device, json!({}));
        }
    }
    Ok(())
}
