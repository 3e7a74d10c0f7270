//! The agent as the simulation knows it: the real journal and ledger on a disk that may lose, and
//! every step between them where a crash may fall.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::config::LadderConfig;
use agent::journal::Journal;
use protocol::envelope::{self, Envelope, Verifying};
use protocol::fixture;
use protocol::frame::{AgentFrame, CommandFrame, Hello, HubFrame};
use protocol::id::CommandId;
use protocol::jws::{self, CompactJws};
use protocol::ledger::{Answer, Ledger, Offer, Record, Refused, Work};
use protocol::limits;
use protocol::state::{CommandState, Lane, PerLane};
use protocol::time::Timestamp;
use runtime::Backoff;

use crate::bug::Bug;
use crate::disk::SimDisk;
use crate::hub::{GENERATION, device_id};
use crate::ladder::Ladder;
use crate::scene::Scene;

/// The last ceiling of the back-off between sendings of a receipt.
const RESEND_CAP: Duration = Duration::from_secs(120);
/// How long after a failed write the disk is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The shortest time between two `sync` frames.
const SYNC_PAUSE: Duration = Duration::from_secs(1);
/// Frames that wait for the rung in use.
const OUTGOING: usize = 64;
/// The journal is compacted beyond this.
const COMPACT_BYTES: u64 = 12 * 1024;

/// What a lane is at; a crash may come between any two.
#[derive(Debug, Clone)]
enum Running {
    Intending(CommandId),
    Applying(CommandId),
    Recovering(CommandId),
    Proving(CommandId),
    Ending(CommandId, CompactJws),
}

/// One step before anything else is taken in.
#[derive(Debug, Clone)]
enum Step {
    /// On disk, then in memory.
    Append(Vec<Record>),
    Send(AgentFrame),
    /// The first ack of the command at that place.
    Ack(CommandId, (Lane, u64)),
}

/// One device with its agent.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) index: usize,
    pub(crate) disk: SimDisk,
    journal: Option<Journal<SimDisk>>,
    pub(crate) ledger: Ledger,
    /// Every effect that ever happened, in order.
    pub(crate) effects: Vec<CommandId>,
    /// The newest numbers that it ever acked.
    acked: PerLane<u64>,
    /// How far its clock is ahead.
    pub(crate) ahead_secs: u64,
    /// That of its newest session; on disk.
    epoch: u64,
    steps: VecDeque<Step>,
    running: PerLane<Option<Running>>,
    /// Frames for the rung in use.
    pub(crate) outgoing: VecDeque<AgentFrame>,
    is_sync_due: bool,
    sync_not_before: Option<Instant>,
    resend_at: Option<Instant>,
    resend: Backoff,
    retry_at: Option<Instant>,
    pub(crate) ladder: Ladder,
}

impl Device {
    pub(crate) fn new(index: usize, scene: &Scene) -> Self {
        let config = LadderConfig::default();
        let disk = SimDisk::default();
        let path = Path::new("journal");
        Journal::create_on(&disk, path).expect("a new disk takes a journal");
        let mut device = Self {
            index,
            disk,
            journal: None,
            ledger: Ledger::default(),
            effects: Vec::new(),
            acked: PerLane::default(),
            ahead_secs: scene.chance.below(90),
            epoch: 0,
            steps: VecDeque::new(),
            running: PerLane::default(),
            outgoing: VecDeque::new(),
            is_sync_due: false,
            sync_not_before: None,
            resend_at: None,
            resend: Backoff::new(config.resend, RESEND_CAP),
            retry_at: None,
            ladder: Ladder::new(scene),
        };
        device.open_journal();
        device
    }

    fn open_journal(&mut self) -> bool {
        let Ok(opened) = Journal::open_on(self.disk.clone(), Path::new("journal")) else {
            return false;
        };
        self.ledger = Ledger::replay(&opened.records);
        self.journal = Some(opened.journal);
        opened.damage.is_none()
    }

    /// The process is gone and comes back; the disk is as its faults left it.
    pub(crate) fn restart(&mut self, scene: &mut Scene) {
        self.disk.restart();
        if !self.open_journal() {
            scene.breaks(format_args!("the journal of device {} is damaged", self.index));
        }
        for lane in Lane::ALL {
            if self.ledger.last_seq().get(lane) < self.acked.get(lane) {
                scene.breaks(format_args!("device {} forgot what it acked", self.index));
            }
        }
        self.steps.clear();
        self.running = PerLane::default();
        self.outgoing.clear();
        (self.is_sync_due, self.sync_not_before, self.resend_at) = (false, None, None);
        self.resend.reset();
        self.retry_at = None;
        self.ladder.restart(scene);
    }

    /// Its wall clock.
    pub(crate) fn wall(&self, scene: &Scene) -> Timestamp {
        scene.wall().plus(Duration::from_secs(self.ahead_secs))
    }

    fn verifying<'a>(&self, scene: &'a Scene) -> Verifying<'a> {
        let trust = &scene.organisation.trust;
        let (device, now) = (device_id(self.index), self.wall(scene));
        Verifying { device, generation: GENERATION, now, trust, is_simulated: false }
    }

    /// Whether it can take another frame: one thing at a time.
    pub(crate) fn is_busy(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Opens a session, later than all before it.
    pub(crate) fn hello(&mut self, scene: &Scene) -> Hello {
        self.epoch = self.wall(scene).as_millis().max(self.epoch + 1);
        // What it says that it has on disk must stay there.
        let last_seq = self.ledger.last_seq();
        for lane in Lane::ALL {
            let acked = self.acked.get_mut(lane);
            *acked = (*acked).max(*last_seq.get(lane));
        }
        Hello { epoch: self.epoch, ..fixture::hello(self.ledger.last_seq()) }
    }

    pub(crate) fn is_idle(&self) -> bool {
        let is_running = Lane::ALL.into_iter().any(|lane| self.running.get(lane).is_some());
        !self.is_busy() && !is_running && self.ledger.open_commands().next().is_none()
    }

    /// A rung stands: whatever the former one lost goes out again.
    pub(crate) fn linked(&mut self) {
        self.outgoing.clear();
        let open: Vec<_> = self.ledger.open_commands().collect();
        for command_id in open {
            self.say(AgentFrame::Ack { command_id });
        }
        self.resend_at = None;
    }

    fn say(&mut self, frame: AgentFrame) {
        if self.ladder.is_linked() && self.outgoing.len() < OUTGOING {
            self.outgoing.push_back(frame);
        }
    }

    /// Takes what a rung brought, in order; commands that come together share one sync.
    pub(crate) fn take(&mut self, frames: Vec<HubFrame>, scene: &mut Scene) {
        let mut commands = Vec::new();
        for frame in frames {
            match frame {
                HubFrame::Command(command) => commands.push(command),
                HubFrame::Confirmed { receipts } => self.confirm(receipts),
                HubFrame::Welcome(_)
                | HubFrame::Trust { .. }
                | HubFrame::Checkpoint { .. }
                | HubFrame::Mode { .. }
                | HubFrame::Reconnect(_)
                | HubFrame::Unknown => {}
            }
        }
        if !commands.is_empty() && self.retry_at.is_none() {
            self.deliver(commands, scene);
        }
    }

    fn confirm(&mut self, receipts: Vec<String>) {
        let waiting: Vec<_> = self.ledger.unconfirmed().map(|(_, r)| r.sha256()).collect();
        let known = receipts.into_iter().filter(|sha256| waiting.contains(sha256));
        let records: Vec<_> =
            known.map(|receipt_sha256| Record::Confirmed { receipt_sha256 }).collect();
        if !records.is_empty() {
            self.steps.push_back(Step::Append(records));
        }
    }

    fn deliver(&mut self, commands: Vec<CommandFrame>, scene: &mut Scene) {
        let mut ahead = self.ledger.clone();
        let (mut records, mut answers) = (Vec::new(), Vec::new());
        for mut frame in commands {
            if scene.has(Bug::IgnoreGap) {
                frame.after_seq = 0;
            }
            let command_id = frame.command_id;
            match ahead.offer(&frame, &self.verifying(scene)) {
                Offer::Take(received) => {
                    answers.push(Step::Ack(command_id, (received.lane, received.seq)));
                    records.push(Record::Received(*received));
                }
                Offer::Refuse(refusal) => {
                    let place = refusal.authentic.as_deref().map(|e| (e.lane, e.seq));
                    let reason = refusal.reason.as_str();
                    let receipt = self.receipt(command_id, CommandState::Refused, reason, scene);
                    let jws = receipt.clone();
                    answers.push(Step::Send(AgentFrame::Receipt { command_id, jws }));
                    let envelope_sha256 = frame.jws.sha256();
                    records.push(Record::Refused(Refused {
                        command_id,
                        place,
                        envelope_sha256,
                        receipt,
                    }));
                }
                Offer::Known(Answer::Ack) => {
                    answers.push(Step::Send(AgentFrame::Ack { command_id }));
                }
                Offer::Known(Answer::Receipt(jws)) => {
                    answers.push(Step::Send(AgentFrame::Receipt { command_id, jws }));
                }
                Offer::Gap => {
                    self.is_sync_due = true;
                    continue;
                }
                Offer::Drop => continue,
            }
            if let Some(record) = records.last() {
                ahead.apply(record);
            }
        }
        let append = (!records.is_empty()).then_some(Step::Append(records));
        if scene.has(Bug::AckBeforeJournal) {
            self.steps.extend(answers.into_iter().chain(append));
        } else {
            self.steps.extend(append.into_iter().chain(answers));
        }
    }

    fn receipt(
        &self,
        id: CommandId,
        state: CommandState,
        reason: &str,
        scene: &Scene,
    ) -> CompactJws {
        let at = self.wall(scene).as_millis();
        CompactJws::from_text(format!("{id}.{}.{reason}.{at}", state.as_str()))
    }

    /// On disk, then in memory; after an error nothing has happened.
    fn append(&mut self, records: &[Record], now: Instant) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        if journal.append(records).is_err() {
            self.retry_at = Some(now + RETRY);
            return false;
        }
        records.iter().for_each(|record| self.ledger.apply(record));
        true
    }

    /// Does one step, or brings a lane forward. Says whether there was anything to do.
    pub(crate) fn step(&mut self, scene: &mut Scene) -> bool {
        let now = scene.now();
        if self.retry_at.is_some_and(|at| at > now) {
            return false;
        }
        if self.retry_at.take().is_some() {
            let last_seq = self.ledger.last_seq();
            self.is_sync_due |= self.append(&[Record::Sequence { last_seq }], now);
            return true;
        }
        match self.steps.pop_front() {
            Some(Step::Append(records)) => {
                if !self.append(&records, now) {
                    // What should have followed does not.
                    self.steps.clear();
                }
                return true;
            }
            Some(Step::Send(frame)) => {
                self.say(frame);
                return true;
            }
            Some(Step::Ack(id, place)) => {
                self.ack(id, place, scene);
                return true;
            }
            None => {}
        }
        let first = scene.below(2);
        let lanes = [Lane::ALL[first], Lane::ALL[1 - first]];
        lanes.into_iter().any(|lane| self.advance(lane, scene)) || self.compact(scene)
    }

    fn ack(&mut self, command_id: CommandId, (lane, seq): (Lane, u64), scene: &mut Scene) {
        scene.note(format_args!("device {} acks {command_id}", self.index));
        if self.ladder.is_linked() {
            let acked = self.acked.get_mut(lane);
            *acked = seq.max(*acked);
        }
        self.say(AgentFrame::Ack { command_id });
    }

    /// Brings a lane forward by one step.
    fn advance(&mut self, lane: Lane, scene: &mut Scene) -> bool {
        let now = scene.now();
        let next = match self.running.get(lane).clone() {
            None => match self.ledger.next_work(lane) {
                Some(work) => self.begin(&work, scene),
                None => return false,
            },
            Some(Running::Intending(id)) => {
                if scene.has(Bug::NoIntent)
                    || self.append(&[Record::Intent { command_id: id }], now)
                {
                    Some(Running::Applying(id))
                } else {
                    return true;
                }
            }
            Some(Running::Recovering(id)) => {
                // The probe looks at the world, not at the journal.
                let is_applied = self.effects.contains(&id) && !scene.has(Bug::NoProbe);
                Some(if is_applied { Running::Proving(id) } else { Running::Applying(id) })
            }
            Some(Running::Applying(id)) => {
                self.apply(id, scene);
                Some(Running::Proving(id))
            }
            Some(Running::Proving(id)) => {
                let receipt = self.receipt(id, CommandState::Succeeded, "", scene);
                Some(Running::Ending(id, receipt))
            }
            Some(Running::Ending(id, receipt)) => {
                let done = Record::Done { command_id: id, receipt: receipt.clone() };
                if !self.append(&[done], now) {
                    return true;
                }
                self.end(id, receipt, now);
                None
            }
        };
        *self.running.get_mut(lane) = next;
        true
    }

    fn end(&mut self, id: CommandId, receipt: CompactJws, now: Instant) {
        if self.ladder.is_linked() {
            self.resend_at.get_or_insert(now + LadderConfig::default().resend);
        }
        self.say(AgentFrame::Receipt { command_id: id, jws: receipt });
    }

    fn apply(&mut self, id: CommandId, scene: &mut Scene) {
        scene.note(format_args!("device {} carries out {id}", self.index));
        if self.effects.contains(&id) {
            scene.breaks(format_args!("{id} took effect twice"));
        }
        self.effects.push(id);
    }

    /// Verifies a command again, at this moment, and begins it.
    fn begin(&mut self, work: &Work, scene: &mut Scene) -> Option<Running> {
        let id = work.command_id;
        if work.is_begun {
            return Some(Running::Recovering(id));
        }
        if let Err(refusal) = self.verifying(scene).verify(&work.envelope) {
            let reason = refusal.reason.as_str();
            let receipt = self.receipt(id, CommandState::Refused, reason, scene);
            return Some(Running::Ending(id, receipt));
        }
        if claims(&work.envelope).is_some_and(|envelope| envelope.exp <= self.wall(scene)) {
            scene.breaks(format_args!("{id} was taken in hand after its end"));
        }
        Some(Running::Intending(id))
    }

    fn compact(&mut self, scene: &Scene) -> bool {
        let now = self.wall(scene);
        let Some(journal) = &mut self.journal else { return false };
        if journal.is_detached() || (journal.len() > COMPACT_BYTES && scene.one_in(8)) {
            self.ledger.forget(now);
            if journal.compact(&self.ledger.snapshot()).is_err() {
                self.retry_at = Some(scene.now() + RETRY);
            }
            return true;
        }
        false
    }

    /// Sends what is due: the wish for everything pending, and receipts without confirmation.
    pub(crate) fn send_due(&mut self, scene: &Scene) {
        let now = scene.now();
        if !self.ladder.is_linked() {
            return;
        }
        if self.is_sync_due && self.sync_not_before.is_none_or(|at| at <= now) {
            (self.is_sync_due, self.sync_not_before) = (false, Some(now + SYNC_PAUSE));
            self.say(AgentFrame::Sync { last_seq: self.ledger.last_seq() });
        }
        if self.ledger.unconfirmed().next().is_none() {
            self.resend_at = None;
            self.resend.reset();
        } else if self.resend_at.is_none_or(|at| at <= now) {
            self.send_receipts(scene);
        }
    }

    fn send_receipts(&mut self, scene: &Scene) {
        let receipts: Vec<_> =
            self.ledger.unconfirmed().map(|(id, jws)| (id, jws.clone())).collect();
        for (command_id, jws) in receipts {
            let receipt_sha256 = jws.sha256();
            self.say(AgentFrame::Receipt { command_id, jws });
            if scene.has(Bug::ForgetOnSend) {
                self.steps.push_back(Step::Append(vec![Record::Confirmed { receipt_sha256 }]));
            }
        }
        let jitter = self.resend.next(scene.chance.next_u64());
        self.resend_at = Some(scene.now() + LadderConfig::default().resend + jitter);
    }
}

fn claims(jws: &CompactJws) -> Option<Envelope> {
    jws::parse(jws, envelope::TYP, limits::ENVELOPE_BYTES).ok()?.claims().ok()
}
