//! The world: hosts, the network between them, and everything that can happen to either.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use broker::memory::MemoryBroker;
use broker::{Broker as _, Presence};
use futures_util::FutureExt as _;
use protocol::fixture::NOW;
use protocol::id::DeviceId;
use protocol::state::Lane;
use runtime::Entropy;
use turmoil::{Builder, Sim};

use crate::bus::{Bus, Way};
use crate::fleet::{DEVICES, Fleet, HUBS, host_name, hub_name};
use crate::hosts::{DeviceHost, HubHost};
use crate::life::Life;
use crate::plane::{self, Plane};
use crate::scene::Scene;
use crate::stranger;

/// A step of the simulation.
const TICK: Duration = Duration::from_millis(10);
/// How long a message takes at most, while nothing fails.
const LATENCY: Duration = Duration::from_millis(40);
/// Messages that a connection holds for a peer that does not read. Few, so that writes stall.
const CAPACITY: usize = 24;

/// What is to be mended.
#[derive(Debug, Clone)]
enum Mend {
    Link(Link),
    Host(String),
    Bus(usize),
}

/// A device, and the hub or control plane at the other end.
type Link = (String, String);

/// Everything there is.
pub(crate) struct World<'a> {
    sim: Sim<'a>,
    pub(crate) scene: Arc<Scene>,
    chance: Entropy,
    broker: Arc<MemoryBroker>,
    pub(crate) plane: Arc<Plane>,
    pub(crate) hubs: Vec<Arc<HubHost>>,
    pub(crate) devices: Vec<Arc<DeviceHost>>,
    later: Vec<(Duration, Mend)>,
    /// Links to which something is happening.
    hurt: BTreeSet<Link>,
}

impl World<'_> {
    pub(crate) fn new(seed: u64, keeps_lines: bool) -> Self {
        let scene = Arc::new(Scene::new(seed, keeps_lines));
        let fleet = Arc::new(Fleet::new());
        let broker = Arc::new(MemoryBroker::new(scene.clock()));
        let mut sim = Builder::new()
            .epoch(UNIX_EPOCH + Duration::from_millis(NOW.as_millis()))
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(LATENCY)
            .repair_rate(0.05)
            .tcp_capacity(CAPACITY)
            .enable_random_order()
            .rng_seed(seed)
            .build();
        let bus = |who: &str| Bus::new(who, &broker, &scene);
        let plane = Arc::new(Plane::new(&scene, &fleet, bus(plane::NAME)));
        let hub = |number| HubHost::new(number, &scene, &fleet, bus(&hub_name(number)));
        let hubs: Vec<_> = (0..HUBS).map(|number| Arc::new(hub(number))).collect();
        let device = |number| Arc::new(DeviceHost::new(number, &scene, &fleet));
        let devices: Vec<_> = (0..DEVICES).map(device).collect();
        let software = plane.clone();
        sim.host(plane::NAME, move || software.clone().run());
        for hub in &hubs {
            let software = hub.clone();
            sim.host(hub_name(hub.number), move || software.clone().run());
        }
        for device in &devices {
            let software = device.clone();
            sim.host(host_name(device.number), move || software.clone().run());
        }
        let of_stranger = scene.clone();
        sim.host(stranger::NAME, move || stranger::run(of_stranger.clone()));
        let chance = scene.entropy("the world", 0);
        let (later, hurt) = (Vec::new(), BTreeSet::new());
        Self { sim, scene, chance, broker, plane, hubs, devices, later, hurt }
    }

    pub(crate) fn below(&self, bound: usize) -> usize {
        usize::try_from(self.chance.below(bound as u64)).unwrap_or(0)
    }

    pub(crate) fn one_in(&self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    /// A moment within that time.
    pub(crate) fn within(&self, time: Duration) -> Duration {
        self.millis(0, u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.chance.below(to - from))
    }

    /// One step: whatever is due is mended, then everybody goes on.
    pub(crate) fn step(&mut self) -> Result<(), String> {
        self.scene.advance(TICK);
        let now = self.scene.elapsed();
        let is_due = |(at, _): &mut (Duration, Mend)| *at <= now;
        let due: Vec<_> = self.later.extract_if(.., is_due).collect();
        for (_, mend) in due {
            self.mend(mend);
        }
        self.sim.step().map_err(|error| format!("a host fell: {error}"))?;
        self.scene.verdict()
    }

    pub(crate) fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = self.scene.elapsed() + time;
        while self.scene.elapsed() < until {
            self.step()?;
        }
        Ok(())
    }

    pub(crate) fn order(&self) {
        let lane = Lane::ALL[self.below(2)];
        self.plane.order(self.any_device(), lane);
    }

    /// A device that is enrolled: the last one may not be any more.
    pub(crate) fn any_device(&self) -> usize {
        let is_revoked = self.plane.store().revoked.is_some();
        self.below(DEVICES - usize::from(is_revoked))
    }

    pub(crate) fn revoke_one(&self) {
        self.plane.revoke(DEVICES - 1);
    }

    fn everybody() -> impl Iterator<Item = String> {
        let hubs = (0..HUBS).map(hub_name).chain([plane::NAME.to_owned()]);
        hubs.chain((0..DEVICES).map(host_name))
    }

    fn links() -> impl Iterator<Item = Link> {
        let far = || (0..HUBS).map(hub_name).chain([plane::NAME.to_owned()]);
        (0..DEVICES).flat_map(move |number| far().map(move |far| (host_name(number), far)))
    }

    /// Something fails, and is to be mended later.
    pub(crate) fn disturb(&mut self) {
        match self.below(16) {
            0..8 => self.hurt_link(),
            8..10 => {
                let name = hub_name(self.below(HUBS));
                self.kill(&name, 12_000);
            }
            10..12 => {
                let name = host_name(self.below(DEVICES));
                self.kill(&name, 8_000);
            }
            12 => {
                let life = self.devices[self.below(DEVICES)].life.clone();
                life.ask_to_leave();
                self.later_on(Mend::Host(life.name.clone()), (1_000, 6_000));
            }
            13 => {
                let life = self.hubs[self.below(HUBS)].life.clone();
                life.ask_to_leave();
                // The drain takes its time.
                self.later_on(Mend::Host(life.name.clone()), (9_000, 15_000));
            }
            14 => {
                let number = self.below(HUBS + 1);
                let way = if self.one_in(2) { Way::Refusing } else { Way::Mute };
                self.scene.note(format_args!("broker is {way:?} to number {number}"));
                self.bus(number).set(way);
                self.later_on(Mend::Bus(number), (500, 14_000));
            }
            _ => self.kill(plane::NAME, 6_000),
        }
    }

    fn later_on(&mut self, mend: Mend, (from, to): (u64, u64)) {
        let at = self.scene.elapsed() + self.millis(from, to);
        self.later.push((at, mend));
    }

    fn hurt_link(&mut self) {
        let links: Vec<_> = Self::links().collect();
        let link = links[self.below(links.len())].clone();
        if !self.hurt.insert(link.clone()) {
            return;
        }
        let (near, far) = (link.0.as_str(), link.1.as_str());
        let what = match self.below(8) {
            0 | 1 => {
                self.sim.partition(near, far);
                "cut"
            }
            2 => {
                let (from, to) = if self.one_in(2) { (near, far) } else { (far, near) };
                self.sim.partition_oneway(from, to);
                "cut one way"
            }
            3 | 4 => {
                self.sim.hold(near, far);
                "held"
            }
            5 => {
                let slow = self.millis(500, 4_000);
                self.sim.set_link_max_message_latency(near, far, slow);
                "slow"
            }
            _ => {
                self.sim.set_link_fail_rate(near, far, 0.1);
                "lossy"
            }
        };
        self.scene.note(format_args!("{near} to {far} is {what}"));
        self.later_on(Mend::Link(link), (300, 8_000));
    }

    fn life(&self, name: &str) -> Arc<Life> {
        let hubs = self.hubs.iter().map(|hub| &hub.life);
        let mut all = hubs.chain(self.devices.iter().map(|device| &device.life));
        all.find(|life| life.name == name).unwrap_or(&self.plane.life).clone()
    }

    /// A host is gone, its power with it or only its process, and comes back.
    fn kill(&mut self, name: &str, within_millis: u64) {
        let life = self.life(name);
        if life.is_bare() || !self.sim.is_host_running(name) {
            return;
        }
        if self.one_in(2) {
            self.scene.note(format_args!("{name} loses its power"));
            life.die(|| self.sim.crash(name));
        } else {
            self.scene.note(format_args!("{name} is killed, and its kernel says so"));
            life.set_bare(true);
            life.die(|| self.sim.bounce(name));
        }
        self.forget(name);
        self.later_on(Mend::Host(name.to_owned()), (200, within_millis));
    }

    /// A host that is gone comes back.
    fn revive(&mut self, name: &str) {
        let life = self.life(name);
        if life.is_bare() || !self.sim.is_host_running(name) {
            life.set_bare(false);
            life.die(|| self.sim.bounce(name));
        }
    }

    /// Everybody who is gone comes back.
    pub(crate) fn revive_all(&mut self) {
        Self::everybody().for_each(|name| self.revive(&name));
    }

    /// What was last seen of a host is no longer true.
    fn forget(&self, name: &str) {
        for hub in self.hubs.iter().filter(|hub| hub.life.name == name) {
            hub.held().clear();
        }
        for device in self.devices.iter().filter(|device| device.life.name == name) {
            *device.ladder() = None;
        }
    }

    fn bus(&self, number: usize) -> &Bus {
        self.hubs.get(number).map_or(&self.plane.bus, |hub| &hub.bus)
    }

    fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Link(link) => self.mend_link(link),
            Mend::Host(name) => self.revive(&name),
            Mend::Bus(number) => {
                self.scene.note(format_args!("broker is back for number {number}"));
                self.bus(number).set(Way::Open);
            }
        }
    }

    fn mend_link(&mut self, link: Link) {
        self.hurt.remove(&link);
        let (near, far) = (link.0.as_str(), link.1.as_str());
        self.sim.set_link_fail_rate(near, far, 0.0);
        self.sim.set_link_max_message_latency(near, far, LATENCY);
        self.sim.release(near, far);
        self.scene.note(format_args!("{near} to {far} is well"));
    }

    /// Hubs of the next life offer WebSockets, or not.
    pub(crate) fn offer_sockets(&mut self, offers: bool) {
        for hub in &self.hubs {
            hub.has_sockets.store(offers, Ordering::SeqCst);
        }
    }

    /// No more faults: everything is reachable, and everybody is there. `restarts`: hubs begin anew.
    pub(crate) fn heal(&mut self, restarts: bool) {
        self.scene.note(format_args!("healing begins"));
        self.later.clear();
        Self::links().for_each(|link| self.mend_link(link));
        (0..=HUBS).for_each(|number| self.bus(number).set(Way::Open));
        for hub in self.hubs.iter().filter(|_| restarts) {
            hub.held().clear();
            hub.life.die(|| self.sim.bounce(hub.life.name.as_str()));
        }
        self.revive_all();
    }

    /// Nothing passes between a device and anybody, and nobody is told.
    pub(crate) fn silence(&mut self, device: usize) {
        let name = host_name(device);
        self.scene.note(format_args!("{name} goes silent"));
        for (near, far) in Self::links().filter(|(near, _)| *near == name) {
            self.sim.hold(near.as_str(), far.as_str());
        }
    }

    /// What was held arrives.
    pub(crate) fn unsilence(&mut self, device: usize) {
        let name = host_name(device);
        Self::links().filter(|(near, _)| *near == name).for_each(|link| self.mend_link(link));
    }

    /// Where the broker says that a device is.
    pub(crate) fn located(&self, device: DeviceId) -> Option<Presence> {
        let places = self.broker.locate(&[device]).now_or_never()?.ok()?;
        places.into_iter().next().flatten()
    }
}
