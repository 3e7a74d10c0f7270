//! One run: chaos, healing, calm, and a device that goes silent; and what must hold in each.

use std::time::Duration;

use agent::status::Rung;
use protocol::planted::{self, Bug};
use protocol::state::Lane;

use crate::fleet::{DEVICES, device_id};
use crate::hosts::{DEAD_AFTER, WRITE_STALL};
use crate::scene::Traced;
use crate::store::lane_name;
use crate::world::World;

/// How long things fail.
const CHAOS: Duration = Duration::from_secs(40);
/// How long healing may take: some rounds of the slowest timers.
const HEALING: Duration = Duration::from_secs(120);
/// Orders of the calm, and the time between two of them.
const CALM: (usize, Duration) = (12, Duration::from_millis(250));
/// How soon a device is heard of an order while nothing fails: before anything is sent again.
const PROMPT: Duration = Duration::from_millis(1_500);
/// Orders for the device that goes silent: more than its connection holds.
const UNREAD: usize = 40;
/// How late somebody may be besides the limits that count for it.
const MARGIN: Duration = Duration::from_secs(5);

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) verdict: Result<(), String>,
    pub(crate) trace: Traced,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, bug: Option<Bug>, keeps_lines: bool) -> Ran {
    planted::plant(bug);
    let mut world = World::new(seed, keeps_lines);
    let verdict = world.live();
    let trace = world.scene.trace();
    drop(world);
    planted::plant(None);
    Ran { verdict, trace }
}

impl World<'_> {
    fn live(&mut self) -> Result<(), String> {
        // Somewhere a middlebox breaks WebSockets: then the hubs long-poll.
        let is_polled = self.one_in(5);
        self.offer_sockets(!is_polled);
        self.chaos()?;
        self.offer_sockets(true);
        self.heal(is_polled);
        // A connection that lost a message is deaf for ever, and looks well until somebody misses
        // its peer.
        self.pass(DEAD_AFTER + MARGIN)?;
        self.settle()?;
        self.calm()?;
        self.settle()?;
        self.one_goes_silent()?;
        self.settle()?;
        self.check_effects();
        self.scene.verdict()
    }

    fn chaos(&mut self) -> Result<(), String> {
        let mut revoke_at = self.one_in(2).then(|| self.within(CHAOS));
        while self.scene.elapsed() < CHAOS {
            if self.one_in(70) {
                self.order();
            }
            if self.one_in(90) {
                self.disturb();
            }
            if revoke_at.take_if(|at| *at <= self.scene.elapsed()).is_some() {
                self.revoke_one();
            }
            self.step()?;
        }
        Ok(())
    }

    /// Until everything has ended, and everybody has the one session that is true.
    fn settle(&mut self) -> Result<(), String> {
        let until = self.scene.elapsed() + HEALING;
        loop {
            // Somebody may have been on its way out when healing began.
            self.revive_all();
            self.pass(Duration::from_millis(500))?;
            match self.unquiet() {
                None => return Ok(()),
                Some(what) if self.scene.elapsed() > until => return Err(what),
                Some(_) => {}
            }
        }
    }

    fn calm(&mut self) -> Result<(), String> {
        let first = self.plane.store().rows.len();
        for _ in 0..CALM.0 {
            self.order();
            self.pass(CALM.1)?;
        }
        self.pass(PROMPT)?;
        let store = self.plane.store();
        for row in &store.rows[first..] {
            let waited = row.heard_at.map(|at| at - row.ordered_at);
            if waited.is_none_or(|waited| waited > PROMPT) {
                let (device, lane, seq) = (row.device, lane_name(row.lane), row.seq);
                return Err(format!("device-{device} is heard of {lane} {seq} after {waited:?}"));
            }
        }
        Ok(())
    }

    /// A device takes no byte and says none, while much is sent to it: the hub must not keep it.
    fn one_goes_silent(&mut self) -> Result<(), String> {
        let device = self.any_device();
        self.silence(device);
        for _ in 0..UNREAD {
            self.plane.order(device, Lane::Bulk);
            self.step()?;
        }
        self.pass(DEAD_AFTER + WRITE_STALL + MARGIN)?;
        let id = device_id(device);
        for hub in &self.hubs {
            if hub.held().iter().any(|(held, _)| *held == id) {
                return Err(format!("hub-{} keeps a session of a silent device", hub.number));
            }
        }
        if let Some(place) = self.located(id) {
            return Err(format!("a silent device is still said to be at {}", place.hub));
        }
        if let Some(kept) = self.left_over() {
            return Err(format!("while a device is silent {kept}"));
        }
        self.unsilence(device);
        Ok(())
    }

    /// What keeps the world from being quiet.
    fn unquiet(&self) -> Option<String> {
        let store = self.plane.store();
        if let Some(row) = store.owed() {
            let (device, lane, seq) = (row.device, lane_name(row.lane), row.seq);
            return Some(format!("{lane} {seq} of device-{device} is {:?}", row.state));
        }
        drop(store);
        (0..DEVICES).find_map(|number| self.astray(number)).or_else(|| self.left_over())
    }

    /// What is wrong with the session of a device.
    fn astray(&self, number: usize) -> Option<String> {
        let id = device_id(number);
        let mut held = Vec::new();
        for hub in &self.hubs {
            held.extend(hub.held().iter().filter(|(device, _)| *device == id).map(|(_, s)| *s));
        }
        if self.plane.store().revoked == Some(number) {
            let has_some = !held.is_empty() || self.located(id).is_some();
            return has_some.then(|| format!("device-{number} is revoked and has a session"));
        }
        let ladder = self.devices[number].ladder();
        let believed = ladder.as_ref().filter(|ladder| ladder.rung == Rung::Push);
        let believed = believed.and_then(|ladder| ladder.session_id);
        let [session] = held[..] else {
            return Some(format!("device-{number} has {} sessions", held.len()));
        };
        if believed != Some(session) {
            return Some(format!("device-{number} does not know of its session"));
        }
        let is_located = self.located(id).is_some_and(|presence| presence.session == session);
        (!is_located).then(|| format!("presence of device-{number} is not true"))
    }

    /// Connections that belong to no session.
    fn left_over(&self) -> Option<String> {
        self.hubs.iter().find_map(|hub| {
            let (streams, sessions) = (hub.streams(), hub.held().len());
            let number = hub.number;
            (streams != sessions)
                .then(|| format!("hub-{number} has {streams} connections for {sessions} sessions"))
        })
    }

    /// On each device every command of a lane took effect once, in the order of the numbers.
    fn check_effects(&self) {
        for device in &self.devices {
            let number = device.number;
            let effects = device.effects();
            let store = self.plane.store();
            for lane in Lane::ALL {
                let ids = |line: &String| line.split(' ').nth(1).map(str::to_owned);
                let is_here = |row: &&crate::store::Row| (row.device, row.lane) == (number, lane);
                let ordered: Vec<_> =
                    store.rows.iter().filter(is_here).map(|row| row.id.to_string()).collect();
                let done: Vec<_> =
                    effects.iter().filter_map(ids).filter(|id| ordered.contains(id)).collect();
                // One whose enrollment ended had no time for the last ones.
                let is_revoked = store.revoked == Some(number);
                if done != ordered && !(is_revoked && ordered.starts_with(&done)) {
                    let (lane, done, ordered) = (lane_name(lane), done.len(), ordered.len());
                    self.scene.breaks(format_args!(
                        "device-{number} did {done} of {ordered} {lane} commands, or out of order"
                    ));
                }
            }
            self.scene.note(format_args!("device-{number} did {} commands", effects.len()));
        }
    }
}
