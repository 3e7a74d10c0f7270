//! The process of the control plane: outbox, dispatch, redelivery, what comes upstream, check-in.
//!
//! Killing it loses everything here, and nothing of the store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use api::commands::model::{Happening, Step};
use broker::{Downstream, Upstream};
use protocol::fixture::session;
use protocol::frame::{AgentFrame, CommandFrame, Frame as _, Hello, HubFrame};
use protocol::id::{CommandId, DeviceId, HubId};
use protocol::jws::CompactJws;
use protocol::session::hub::{Pace, welcome};
use protocol::state::{CommandState, Lane, PerLane};

use crate::bug::Bug;
use crate::bus::{Bus, Who};
use crate::hub::{GENERATION, device_id};
use crate::scene::Scene;
use crate::store::{Row, Store};

/// How long a device without a session is left alone.
const ABSENT: Duration = Duration::from_secs(5 * 60);
/// How long to wait when a hub did not take it, or the broker failed.
const FAILED: Duration = Duration::from_secs(2);
/// Between two rounds of the jobs.
const ROUND: Duration = Duration::from_secs(1);

/// What one device is to be told.
#[derive(Debug, Default)]
struct Answer {
    frames: Vec<HubFrame>,
    commands: Vec<CommandId>,
    is_refused: bool,
}

/// A request of the last rung on its way.
#[derive(Debug)]
pub(crate) struct CheckIn {
    pub(crate) device: usize,
    pub(crate) number: u64,
    pub(crate) frames: Vec<AgentFrame>,
}

/// The answer to a check-in; `None` when the device's enrollment does not stand.
pub(crate) type CheckedIn = (usize, u64, Option<Vec<HubFrame>>);

/// The control plane.
#[derive(Debug, Default)]
pub(crate) struct Api {
    pub(crate) store: Store,
    outbox: PerLane<VecDeque<CommandFrame>>,
    /// Published, and not yet written down as sent.
    published: Vec<CommandId>,
    pub(crate) asked: Vec<CheckIn>,
    pub(crate) answered: Vec<CheckedIn>,
    round_at: Option<Instant>,
    handled: u32,
    pub(crate) down_until: Option<Instant>,
}

impl Api {
    pub(crate) fn is_up(&self, now: Instant) -> bool {
        self.down_until.is_none_or(|until| until <= now)
    }

    /// The process dies.
    pub(crate) fn kill(&mut self, until: Instant, bus: &mut Bus) {
        let store = std::mem::take(&mut self.store);
        let handled = self.handled;
        *self = Self { store, handled, down_until: Some(until), ..Self::default() };
        bus.drop_reader();
    }

    /// What was just released goes into the outbox, after the commit.
    pub(crate) fn push(&mut self, at: Option<usize>, scene: &Scene) {
        let Some(at) = at else { return };
        let after_seq = self.store.after_seq(at, scene.wall());
        let row = &self.store.rows[at];
        if let Some(frame) = row.frame(after_seq) {
            self.outbox.get_mut(row.lane).push_back(frame);
        }
    }

    /// Takes one command out of the outbox of a lane and publishes it.
    pub(crate) fn dispatch(&mut self, lane: Lane, scene: &mut Scene, bus: &mut Bus) {
        if let Some(frame) = self.outbox.get_mut(lane).pop_front() {
            self.send(vec![frame], scene, bus);
        }
    }

    /// Sends commands to the hubs of their devices; says which devices are absent, and which
    /// commands were taken.
    fn send(
        &mut self,
        frames: Vec<CommandFrame>,
        scene: &mut Scene,
        bus: &mut Bus,
    ) -> (BTreeSet<CommandId>, BTreeSet<CommandId>) {
        let (mut absent, mut taken) = (BTreeSet::new(), BTreeSet::new());
        let device_of = |store: &mut Store, id| store.row(id).map(|row| device_id(row.device));
        let devices: Vec<_> =
            frames.iter().filter_map(|f| device_of(&mut self.store, f.command_id)).collect();
        let Ok(places) = bus.locate(&devices) else { return (absent, taken) };
        let mut by_hub: BTreeMap<HubId, Vec<(CommandId, Downstream)>> = BTreeMap::new();
        for ((frame, device), place) in frames.into_iter().zip(devices).zip(places) {
            let id = frame.command_id;
            match place {
                Some(presence) => {
                    let frames = vec![HubFrame::Command(frame)];
                    let part = Downstream::Deliver { device, frames };
                    by_hub.entry(presence.hub).or_default().push((id, part));
                }
                None => {
                    absent.insert(id);
                }
            }
        }
        for (hub, parts) in by_hub {
            let (ids, parts): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
            if bus.publish(Who::Api, &hub, parts).is_ok_and(|receivers| receivers > 0) {
                scene.note(format_args!("published to {hub}: {ids:?}"));
                taken.extend(ids);
            }
        }
        self.published.extend(taken.iter().copied());
        (absent, taken)
    }

    /// Writes down what was published.
    pub(crate) fn write_sent(&mut self, scene: &Scene) {
        let ids = std::mem::take(&mut self.published);
        self.store.mark_sent(&ids, scene.wall());
    }

    /// Tells hubs again of revoked devices that are present.
    fn evict(&self, bus: &mut Bus) {
        let revoked: Vec<_> = self.store.revoked.iter().map(|at| device_id(*at)).collect();
        let Ok(places) = bus.locate(&revoked) else { return };
        for (device, place) in revoked.into_iter().zip(places) {
            if let Some(presence) = place {
                drop(bus.publish(Who::Api, &presence.hub, vec![revocation(device)]));
            }
        }
    }

    /// The jobs: eviction, redelivery and expiry.
    pub(crate) fn work(&mut self, scene: &mut Scene, bus: &mut Bus) {
        let now = scene.now();
        if self.round_at.is_some_and(|at| at > now) {
            return;
        }
        self.round_at = Some(now + ROUND);
        self.evict(bus);
        self.store.expire(scene);
        let wall = scene.wall();
        let is_due = |row: &Row| {
            row.state.is_undelivered() && row.redeliver_at <= wall && row.expires_at() > wall
        };
        let due: Vec<_> =
            (0..self.store.rows.len()).filter(|at| is_due(&self.store.rows[*at])).collect();
        let frames: Vec<_> = due
            .iter()
            .filter_map(|at| self.store.rows[*at].frame(self.store.after_seq(*at, wall)))
            .collect();
        if frames.is_empty() {
            return;
        }
        let (absent, taken) = self.send(frames, scene, bus);
        self.write_sent(scene);
        for at in due {
            let row = &mut self.store.rows[at];
            if absent.contains(&row.id) {
                row.redeliver_at = wall.plus(ABSENT);
            } else if !taken.contains(&row.id) {
                row.redeliver_at = wall.plus(FAILED);
            }
        }
    }

    /// Reads what hubs pass on, commits it, answers, and acknowledges unless the process dies.
    pub(crate) fn read_upstream(&mut self, scene: &mut Scene, bus: &mut Bus) {
        let batch = bus.read_upstream(scene);
        if batch.is_empty() {
            return;
        }
        let mut hubs: BTreeMap<usize, HubId> = BTreeMap::new();
        let mut inbound = Vec::new();
        for Upstream { device, hub, frame, .. } in batch {
            let Some(index) = (0..u8::MAX.into()).find(|at| device_id(*at) == device) else {
                continue;
            };
            if frame.check().is_ok() {
                hubs.insert(index, hub);
                inbound.push((index, frame));
            }
        }
        for (device, answer) in self.exchange(inbound, scene) {
            let Some(hub) = hubs.get(&device) else { continue };
            let id = device_id(device);
            if answer.is_refused {
                drop(bus.publish(Who::Api, hub, vec![revocation(id)]));
            } else if !answer.frames.is_empty() {
                let part = Downstream::Deliver { device: id, frames: answer.frames };
                if bus.publish(Who::Api, hub, vec![part]).is_ok_and(|receivers| receivers > 0) {
                    self.published.extend(answer.commands);
                }
            }
        }
        let dies = !scene.is_healed && scene.one_in(100);
        if dies {
            scene.note(format_args!("api dies before it acknowledges"));
            self.kill(scene.now() + Duration::from_secs(2), bus);
        } else {
            self.write_sent(scene);
            bus.acknowledge();
        }
    }

    /// Answers one check-in. The answer is the delivery: written down before it leaves.
    pub(crate) fn check_in(&mut self, scene: &mut Scene) {
        let Some(at) = scene.pick(self.asked.len()) else { return };
        let CheckIn { device, number, frames } = self.asked.remove(at);
        if self.store.revoked.contains(&device) {
            return self.answered.push((device, number, None));
        }
        let inbound = frames.into_iter().map(|frame| (device, frame)).collect();
        let mut answers = self.exchange(inbound, scene);
        let answer = answers.remove(&device).unwrap_or_default();
        self.store.mark_sent(&answer.commands, scene.wall());
        let greeting = welcome(session(1), Pace::default(), scene.wall());
        let mut frames = vec![HubFrame::Welcome(greeting)];
        frames.extend(answer.frames);
        self.answered.push((device, number, Some(frames)));
    }

    /// Commits what devices report, then reads what waits for those who ask.
    fn exchange(
        &mut self,
        inbound: Vec<(usize, AgentFrame)>,
        scene: &mut Scene,
    ) -> BTreeMap<usize, Answer> {
        let mut asks: BTreeMap<usize, PerLane<u64>> = BTreeMap::new();
        let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
        let mut confirmed: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut just_said = BTreeSet::new();
        for (device, frame) in inbound {
            match frame {
                AgentFrame::Hello(Hello { last_seq, .. }) | AgentFrame::Sync { last_seq } => {
                    asks.insert(device, last_seq);
                }
                AgentFrame::Ack { command_id } => {
                    just_said.insert(command_id);
                    self.hear(device, command_id, Happening::Acked, scene);
                }
                AgentFrame::Progress { command_id, .. } => {
                    self.hear(device, command_id, Happening::Progressed, scene);
                }
                AgentFrame::Proof { command_id, jws } => {
                    self.hear(device, command_id, Happening::Progressed, scene);
                    confirmed.entry(device).or_default().push(jws.sha256());
                }
                AgentFrame::Receipt { command_id, jws } => {
                    just_said.insert(command_id);
                    self.take_receipt(device, command_id, &jws, scene);
                    confirmed.entry(device).or_default().push(jws.sha256());
                }
                // Simulated executors make no credentials.
                AgentFrame::Escrow { .. } | AgentFrame::Notice { .. } | AgentFrame::Unknown => {}
            }
        }
        for (device, last_seq) in asks {
            let answer = answers.entry(device).or_default();
            answer.is_refused = self.store.revoked.contains(&device);
            if !answer.is_refused {
                self.fill(answer, (device, last_seq), &just_said, scene);
            }
        }
        for (device, receipts) in confirmed {
            answers.entry(device).or_default().frames.push(HubFrame::Confirmed { receipts });
        }
        answers
    }

    fn hear(&mut self, device: usize, id: CommandId, what: Happening, scene: &mut Scene) {
        let now = scene.now();
        let is_over = self.store.revoked.contains(&device);
        let Some(row) = self.store.row(id).filter(|row| row.device == device) else { return };
        row.heard_at.get_or_insert(now);
        row.happen(what);
        if is_over {
            row.happen(Happening::EnrollmentEnded);
        }
    }

    /// The first receipt wins; the others are confirmed, so that the device need not insist.
    fn take_receipt(&mut self, device: usize, id: CommandId, jws: &CompactJws, scene: &mut Scene) {
        self.handled += 1;
        let loses = scene.has(Bug::ConfirmBeforeCommit) && self.handled.is_multiple_of(4);
        let now = scene.now();
        let Some(row) = self.store.row(id).filter(|row| row.device == device) else { return };
        let outcome = jws.as_str().split('.').nth(1).and_then(CommandState::from_name);
        let Some(outcome) = outcome.filter(|_| !loses) else { return };
        let is_stored = row.receipt.as_ref() == Some(jws);
        row.heard_at.get_or_insert(now);
        if row.happen(Happening::Receipt { outcome, is_stored }) == Step::To(outcome) {
            scene.note(format_args!("the store holds {jws}"));
            row.receipt = Some(jws.clone());
        }
    }

    /// Everything that waits for a device, in order; also what it was said to have and has not.
    fn fill(
        &self,
        answer: &mut Answer,
        (device, last_seq): (usize, PerLane<u64>),
        just_said: &BTreeSet<CommandId>,
        scene: &Scene,
    ) {
        let now = scene.wall();
        for lane in Lane::ALL {
            let mut rows: Vec<_> = self
                .store
                .rows
                .iter()
                .filter(|row| row.device == device && row.lane == lane && row.sent.is_some())
                .collect();
            rows.sort_by_key(|row| row.seq());
            let mut before = 0;
            for row in rows.into_iter().filter(|r| !r.state.is_terminal() && r.expires_at() > now) {
                let is_lost = row.seq() > *last_seq.get(lane) && !just_said.contains(&row.id);
                if row.state.is_undelivered() || is_lost {
                    let after_seq = std::mem::replace(&mut before, row.seq());
                    answer.commands.push(row.id);
                    answer.frames.extend(row.frame(after_seq).map(HubFrame::Command));
                }
            }
        }
    }

    /// Ends a device's enrollment, and tells every hub.
    pub(crate) fn revoke(&mut self, device: usize, scene: &mut Scene, bus: &mut Bus) {
        self.store.revoke(device, scene);
        let Ok(hubs) = bus.hubs() else { return };
        for hub in hubs {
            drop(bus.publish(Who::Api, &hub, vec![revocation(device_id(device))]));
        }
    }

    pub(crate) fn work_left(&self) -> usize {
        let outbox: usize = Lane::ALL.into_iter().map(|lane| self.outbox.get(lane).len()).sum();
        outbox + self.published.len() + self.asked.len() + self.answered.len()
    }
}

fn revocation(device: DeviceId) -> Downstream {
    Downstream::Revoke { device, through_generation: GENERATION }
}
