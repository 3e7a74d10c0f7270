//! One run: chaos, then healing, then calm; and what must hold in each.

use std::time::Duration;

use protocol::receipt::RefusalReason;
use protocol::state::{CommandState, Lane};

use crate::bug::{self, Bug};
use crate::bus::{Cut, Who};
use crate::hub::device_id;
use crate::scene::Traced;
use crate::store::Row;
use crate::world::{DEVICES, HUBS, World, hub_name};

/// Steps of the chaos, and of the calm after it.
const CHAOS: usize = 900;
const CALM: usize = 400;
/// Orders of one run.
const ORDERS: usize = 30;
/// How long healing may take: several rounds of the slowest timers.
const HEALING: Duration = Duration::from_secs(40 * 60);
/// How soon a device is heard of an order while nothing fails but one restart of its agent: some
/// rounds of redelivery, and less than a device that is taken for absent is left alone.
const PROMPT: Duration = Duration::from_secs(150);

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) verdict: Result<(), String>,
    pub(crate) trace: Traced,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, bug: Option<Bug>, keeps_lines: bool) -> Ran {
    bug::plant(bug);
    let mut world = World::new(seed, bug, keeps_lines);
    let verdict = world.live();
    bug::plant(None);
    Ran { verdict, trace: world.scene.into_trace() }
}

impl World {
    fn live(&mut self) -> Result<(), String> {
        for _ in 0..CHAOS {
            self.chaos_step();
            self.check_always();
            self.scene.verdict()?;
        }
        self.heal()?;
        self.calm_since = Some(self.now());
        for _ in 0..CALM {
            self.calm_step();
            self.check_always();
            self.scene.verdict()?;
        }
        self.settle_until_quiet()?;
        self.check_promises();
        self.scene.verdict()
    }

    fn chaos_step(&mut self) {
        match self.scene.below(100) {
            0..4 => self.operate(),
            4..6 => self.disturb(),
            6..12 => {
                let millis = if self.scene.one_in(40) { 60_000 } else { 600 };
                self.pass_time(millis);
            }
            _ => self.progress(),
        }
    }

    fn calm_step(&mut self) {
        match self.scene.below(100) {
            0..3 => self.order(),
            3..4 => {
                let at = self.scene.below(DEVICES);
                if !std::mem::replace(&mut self.has_restarted[at], true) {
                    self.restart_device(at);
                }
            }
            4..5 => {
                let at = self.scene.below(self.hubs.len());
                self.hubs[at].send_away(&mut self.scene, &mut self.net);
            }
            5..12 => self.pass_time(100),
            _ => self.progress(),
        }
    }

    fn pass_time(&mut self, at_most_millis: u64) {
        let by = Duration::from_millis(self.scene.chance.below(at_most_millis));
        self.scene.advance(by);
        self.wake_all();
    }

    /// Something that is under way gets further.
    fn progress(&mut self) {
        match self.scene.below(10) {
            0..3 => {
                let ids = self.net.links.ids();
                if let Some(id) = ids.get(self.scene.below(ids.len().max(1))) {
                    self.step_link(*id);
                }
            }
            3..5 => {
                let at = self.scene.below(self.hubs.len().max(1));
                self.step_hub(at);
            }
            5..7 => self.step_api(),
            7 => self.answer_arrives(),
            8 if self.scene.one_in(4) => {
                let at = self.scene.below(self.hubs.len().max(1));
                if let Some(hub) = self.hubs.get_mut(at) {
                    hub.register_late(&mut self.scene, &mut self.net);
                }
            }
            _ => {
                let at = self.scene.below(DEVICES);
                self.step_device(at);
            }
        }
    }

    fn order(&mut self) {
        let device = self.scene.below(DEVICES);
        let may_order = self.api.is_up(self.now()) && !self.api.store.revoked.contains(&device);
        if may_order && self.api.store.rows.len() < ORDERS {
            let at = self.api.store.create(device, &mut self.scene);
            self.api.push(at, &self.scene);
        }
    }

    /// People at work, good and bad.
    fn operate(&mut self) {
        let at = self.scene.below(self.api.store.rows.len().max(1));
        if !self.api.is_up(self.now()) {
            return;
        }
        match self.scene.below(24) {
            0 => self.api.store.cancel(at, &mut self.scene),
            1..8 => {
                let released = self.api.store.approve(at, &mut self.scene);
                self.api.push(released, &self.scene);
            }
            8 => {
                let released = self.api.store.forge_release(at, &mut self.scene);
                self.api.push(released, &self.scene);
            }
            9 if self.scene.one_in(6) => {
                let device = self.scene.below(DEVICES);
                self.api.revoke(device, &mut self.scene, &mut self.net.bus);
            }
            _ => self.order(),
        }
    }

    /// Something fails.
    fn disturb(&mut self) {
        let now = self.now();
        match self.scene.below(16) {
            0 | 1 => {
                let ids = self.net.links.ids();
                let Some(id) = ids.get(self.scene.below(ids.len().max(1))) else { return };
                if self.scene.one_in(2) {
                    self.net.links.reset(*id);
                } else {
                    self.net.links.silence(*id);
                }
            }
            2 | 3 => self.disturb_hub(),
            4 => {
                let number = self.scene.below(HUBS);
                if self.hubs.len() < HUBS + 2 {
                    self.start_hub(number);
                }
            }
            5 | 6 => {
                let who = match self.scene.below(self.hubs.len() + 1) {
                    0 => Who::Api,
                    at => self.hubs[at - 1].who(),
                };
                let cut = if self.scene.one_in(2) { Cut::Both } else { Cut::Answers };
                self.scene.note(format_args!("{who:?} is cut off: {cut:?}"));
                self.net.bus.cut(who, cut);
            }
            7 | 8 => self.mend_bus(),
            9 => {
                self.scene.note(format_args!("the broker forgets everything"));
                self.net.bus.flush(&self.scene);
            }
            10 => {
                let at = self.scene.below(self.hubs.len().max(1));
                if let Some(hub) = self.hubs.get_mut(at) {
                    hub.lose_message(&self.scene);
                }
            }
            11..14 => self.disturb_device(),
            14 => {
                let until = now + Duration::from_millis(self.scene.chance.below(20_000));
                self.scene.note(format_args!("api is killed"));
                self.api.kill(until, &mut self.net.bus);
            }
            _ => {
                // A request or an answer of the last rung is lost.
                if self.scene.one_in(2) {
                    self.api.asked.pop();
                } else {
                    self.api.answered.pop();
                }
            }
        }
    }

    fn disturb_hub(&mut self) {
        if self.hubs.is_empty() {
            return;
        }
        let at = self.scene.below(self.hubs.len());
        if self.scene.one_in(2) {
            let secs = if self.scene.one_in(2) { 5 } else { 90 };
            let until = self.now() + Duration::from_millis(self.scene.chance.below(secs * 1000));
            self.scene.note(format_args!("{} is paused", self.hubs[at].name()));
            self.hubs[at].paused_until = Some(until);
        } else {
            let is_silent = self.scene.one_in(2);
            let name = self.kill_hub(at, is_silent);
            let number = (0..HUBS).find(|number| hub_name(*number) == name);
            if let Some(number) = number.filter(|_| !self.scene.one_in(4)) {
                self.start_hub(number);
            }
        }
    }

    fn disturb_device(&mut self) {
        let at = self.scene.below(DEVICES);
        let disk = self.devices[at].disk.clone();
        match self.scene.below(6) {
            0 => disk.fail_next_sync(),
            1 => self.restart_device(at),
            2 | 3 => disk.die_in(self.scene.below(4)),
            _ => {
                self.scene.note(format_args!("device {at} loses its power"));
                let is_ragged = self.scene.one_in(2);
                disk.cut_power(|unsynced| self.scene.below(unsynced + 1), is_ragged);
                self.restart_device(at);
            }
        }
    }

    fn mend_bus(&mut self) {
        self.net.bus.mend(Who::Api);
        for hub in &self.hubs {
            self.net.bus.mend(hub.who());
        }
    }

    /// No more faults: each name has one process, everything is reachable, and time passes.
    fn heal(&mut self) -> Result<(), String> {
        self.scene.note(format_args!("healing begins"));
        self.scene.is_healed = true;
        self.mend_bus();
        self.api.down_until = None;
        for number in 0..HUBS {
            let name = hub_name(number);
            while self.hubs.iter().filter(|hub| *hub.name() == name).count() > 1 {
                let at = self.hubs.iter().position(|hub| *hub.name() == name).unwrap_or(0);
                self.kill_hub(at, false);
            }
            if !self.hubs.iter().any(|hub| *hub.name() == name) {
                self.start_hub(number);
            }
        }
        for hub in &mut self.hubs {
            hub.paused_until = None;
        }
        for device in &self.devices {
            device.disk.restart();
        }
        self.settle_until_quiet()
    }

    /// Until everything has ended and presence is true.
    fn settle_until_quiet(&mut self) -> Result<(), String> {
        let until = self.now() + HEALING;
        while self.now() < until {
            for at in 0..self.api.store.rows.len() {
                let released = self.api.store.approve(at, &mut self.scene);
                self.api.push(released, &self.scene);
            }
            self.settle();
            self.check_always();
            self.scene.verdict()?;
            if self.unquiet().is_none() {
                return Ok(());
            }
            let is_soon = self.now() + HEALING < until + Duration::from_secs(60);
            self.scene.advance(Duration::from_millis(if is_soon { 500 } else { 2_000 }));
            self.wake_all();
        }
        Err(self.unquiet().unwrap_or_default())
    }

    /// Until nothing moves without time; bounded, so that a storm of answers shows as no end.
    fn settle(&mut self) {
        let (mut left_before, mut stalled, mut rounds) = (0, 0, 0);
        while stalled < 50 {
            for at in 0..self.hubs.len() {
                self.step_hub(at);
                self.hubs[at].register_late(&mut self.scene, &mut self.net);
            }
            self.settle_api();
            self.answer_arrives();
            for id in self.net.links.ids() {
                self.step_link(id);
            }
            let mut has_worked = false;
            for at in 0..DEVICES {
                has_worked |= self.step_device(at);
            }
            let hubs: usize = self.hubs.iter().map(crate::hub::Hub::work_left).sum();
            let left = hubs + self.api.work_left() + self.net.links.in_flight();
            if !has_worked && left == 0 {
                return;
            }
            // What waits for time does not move however often it is looked at.
            stalled = if has_worked || left != left_before { 0 } else { stalled + 1 };
            left_before = left;
            rounds += 1;
            if rounds > 5_000 {
                return;
            }
        }
    }

    fn settle_api(&mut self) {
        let bus = &mut self.net.bus;
        for lane in Lane::ALL {
            self.api.dispatch(lane, &mut self.scene, bus);
        }
        self.api.read_upstream(&mut self.scene, bus);
        self.api.check_in(&mut self.scene);
        self.api.write_sent(&self.scene);
    }

    /// What keeps the world from being quiet.
    fn unquiet(&self) -> Option<String> {
        let rows = &self.api.store.rows;
        if let Some(row) = rows.iter().find(|row| !row.state.is_terminal()) {
            return Some(format!("{} never ended, it is {}", row.id, row.state.as_str()));
        }
        for (at, device) in self.devices.iter().enumerate() {
            let is_revoked = self.api.store.revoked.contains(&at);
            let holder = self.hubs.iter().find(|hub| hub.sessions.get(device_id(at)).is_some());
            if is_revoked && holder.is_some() {
                return Some(format!("device {at} is revoked and has a session"));
            }
            if is_revoked {
                continue;
            }
            if !device.is_idle() || device.ledger.unconfirmed().next().is_some() {
                return Some(format!("device {at} has receipts that nobody confirmed"));
            }
            let Some(holder) = holder.filter(|_| device.ladder.up.is_some()) else {
                return Some(format!("device {at} has no session"));
            };
            let session = holder.sessions.get(device_id(at))?;
            if self.located(at) != Some(holder.presence(&session)) {
                return Some(format!("presence of device {at} is not true"));
            }
        }
        None
    }

    /// What must hold in the end.
    fn check_promises(&mut self) {
        let rows = std::mem::take(&mut self.api.store.rows);
        for row in &rows {
            self.check_end(row);
        }
        for at in 0..DEVICES {
            for lane in Lane::ALL {
                self.check_order(at, lane, &rows);
            }
            self.check_waits(at);
        }
        self.api.store.rows = rows;
    }

    /// Every terminal state is explained, and says what the device did.
    fn check_end(&mut self, row: &Row) {
        let is_done = self.devices[row.device].effects.contains(&row.id);
        let is_revoked = self.api.store.revoked.contains(&row.device);
        let (id, state) = (row.id, row.state.as_str());
        if is_done && row.persons.len() < row.needed {
            self.scene.breaks(format_args!("{id} took effect on {:?} alone", row.persons));
        }
        let is_explained = match row.state {
            CommandState::Succeeded => is_done,
            CommandState::Refused => !is_done && Self::is_refusal_right(row),
            CommandState::Expired => {
                (!is_done || is_revoked) && row.expires_at() < self.scene.wall()
            }
            CommandState::Cancelled => !is_done || is_revoked,
            CommandState::InDoubt => is_revoked,
            CommandState::Acked
            | CommandState::Running
            | CommandState::Failed
            | CommandState::AwaitingApproval
            | CommandState::AwaitingWave
            | CommandState::Queued
            | CommandState::Sent => false,
        };
        if !is_explained {
            self.scene.breaks(format_args!("{id} is {state}; took effect: {is_done}"));
        }
        let is_new =
            row.released_at.is_some_and(|at| self.calm_since.is_some_and(|since| at >= since));
        let waited = row.heard_at.zip(row.released_at).map(|(heard, at)| heard - at);
        if is_new && !is_revoked && waited.is_none_or(|waited| waited > PROMPT) {
            self.scene.breaks(format_args!("{id} was not heard of for {waited:?} in calm"));
        }
    }

    fn is_refusal_right(row: &Row) -> bool {
        let Some(receipt) = &row.receipt else { return false };
        let fields: Vec<_> = receipt.as_str().split('.').collect();
        let [_, _, reason, at] = fields.as_slice() else { return false };
        let is = |known: RefusalReason| known.as_str() == *reason;
        let is_past = at.parse().is_ok_and(|at: u64| row.expires_at().as_millis() <= at);
        (is(RefusalReason::Expired) && is_past)
            || (is(RefusalReason::DoubledApproval) && row.persons.len() < row.needed)
            // Later ones went ahead of it while it was no longer to be delivered.
            || (is(RefusalReason::Replayed) && (row.was_given_up || is_past))
    }

    /// Commands of one lane take effect in the order of their numbers.
    fn check_order(&mut self, at: usize, lane: Lane, rows: &[Row]) {
        let number = |id| {
            let row = rows.iter().find(|row| row.id == id && row.lane == lane)?;
            Some(row.seq())
        };
        let effects = &self.devices[at].effects;
        let numbers: Vec<_> = effects.iter().filter_map(|id| number(*id)).collect();
        if !numbers.is_sorted() {
            self.scene
                .breaks(format_args!("{lane:?} of device {at} was out of order: {numbers:?}"));
        }
    }

    /// Waits at the cap of the back-off are spread: no three are the same to the nanosecond.
    fn check_waits(&mut self, at: usize) {
        let mut waits = self.devices[at].ladder.capped_waits.clone();
        waits.sort_unstable();
        if waits.windows(3).any(|three| three[0] == three[2]) {
            self.scene.breaks(format_args!("device {at} waits the same time again and again"));
        }
    }
}
