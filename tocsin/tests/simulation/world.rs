//! The world: hubs, devices, control plane and what lies between them; who does what next.

use std::time::{Duration, Instant};

use broker::Presence;
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, HubFrame};
use protocol::id::HubId;
use protocol::session::Output;
use protocol::session::agent::AgentHandshake;
use protocol::state::Lane;

use crate::api::{Api, CheckIn};
use crate::bug::Bug;
use crate::bus::Bus;
use crate::device::Device;
use crate::hub::{Hub, Net, device_id};
use crate::ladder::Dial;
use crate::link::{LinkId, Links, Packet};
use crate::scene::Scene;

/// Hubs by name.
pub(crate) const HUBS: usize = 3;
/// Devices.
pub(crate) const DEVICES: usize = 3;
/// How long a dial to a hub that does not answer takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything there is.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scene: Scene,
    pub(crate) net: Net,
    pub(crate) api: Api,
    /// The processes of hubs that run; two may claim one name.
    pub(crate) hubs: Vec<Hub>,
    pub(crate) devices: Vec<Device>,
    processes: usize,
    /// When everything had ended after the chaos.
    pub(crate) calm_since: Option<Instant>,
    /// Agents that started again since then.
    pub(crate) has_restarted: [bool; DEVICES],
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, keeps_lines: bool) -> Self {
        let scene = Scene::new(seed, bug, keeps_lines);
        let net = Net { bus: Bus::new(&scene), links: Links::default() };
        let devices = (0..DEVICES).map(|index| Device::new(index, &scene)).collect();
        let api = Api::default();
        let hubs = Vec::new();
        let (processes, calm_since, has_restarted) = (0, None, [false; DEVICES]);
        let mut world =
            Self { scene, net, api, hubs, devices, processes, calm_since, has_restarted };
        for number in 0..HUBS {
            world.start_hub(number);
        }
        world
    }

    /// Starts a process of the hub of that number.
    pub(crate) fn start_hub(&mut self, number: usize) {
        self.processes += 1;
        let hub = Hub::new(self.processes, hub_name(number), &self.scene);
        self.scene.note(format_args!("{} starts as process {}", hub.name(), self.processes));
        self.hubs.push(hub);
    }

    /// A process of a hub is gone; its agents are told by their kernels, or by nobody.
    pub(crate) fn kill_hub(&mut self, at: usize, is_silent: bool) -> HubId {
        let hub = self.hubs.remove(at);
        self.scene.note(format_args!("{} (process {}) is killed", hub.name(), hub.process));
        self.net.bus.mend(hub.who());
        for id in self.net.links.of_hub(hub.process) {
            if is_silent {
                self.net.links.silence(id);
            }
            self.net.links.drop_hub(id);
        }
        hub.name().clone()
    }

    /// The agent of a device is gone and starts again.
    pub(crate) fn restart_device(&mut self, at: usize) {
        let device = &mut self.devices[at];
        for id in device.ladder.links() {
            self.net.links.drop_agent(id);
        }
        self.scene.note(format_args!("agent {at} starts again"));
        device.restart(&mut self.scene);
    }

    /// A device opens a connection to the next hub in its list.
    fn dial(&mut self, at: usize) {
        let now = self.scene.now();
        let ladder = &mut self.devices[at].ladder;
        ladder.attempt_at = None;
        let name = hub_name(ladder.next_hub % HUBS);
        let is_resumed = ladder.has_ticket && !self.scene.one_in(3);
        // Of two processes with one name the newer has the address.
        let Some(hub) = self.hubs.iter_mut().rev().find(|hub| *hub.name() == name) else {
            return ladder.failed(None, &self.scene);
        };
        if !hub.is_awake(now) {
            // The kernel takes the connection; nobody answers.
            let deadline = now + CONNECT_TIMEOUT;
            ladder.dial = Some(Dial { link: 0, handshake: None, deadline });
            return;
        }
        match hub.admit(at, is_resumed, &self.scene) {
            Ok(()) => {
                let link = self.net.links.open(at, hub.process, is_resumed);
                hub.accept(link, now);
                self.greet(at, link);
            }
            Err(code) => {
                self.scene.note(format_args!("{name} refuses device {at}: {}", code.as_str()));
                ladder.failed(Some(code), &self.scene);
            }
        }
    }

    fn greet(&mut self, at: usize, link: LinkId) {
        let now = self.scene.now();
        let device = &mut self.devices[at];
        let hello = device.hello(&self.scene);
        let Ok((handshake, text)) = AgentHandshake::start(hello, now) else { return };
        let deadline = handshake.poll_timeout().0;
        device.ladder.dial = Some(Dial { link, handshake: Some(handshake), deadline });
        if let Some(link) = self.net.links.get(link) {
            link.send_to_hub(Packet::Text(text));
        }
    }

    /// A device takes the next packet of one of its connections.
    pub(crate) fn packet_to_agent(&mut self, id: LinkId) {
        let now = self.scene.now();
        let Some(link) = self.net.links.get(id) else { return };
        let at = link.device;
        if self.devices[at].is_busy() {
            return;
        }
        let Some(packet) = link.to_agent.pop_front() else { return };
        let ladder = &mut self.devices[at].ladder;
        let is_up = ladder.up.as_ref().is_some_and(|up| up.link == id);
        let is_dial = ladder.dial.as_ref().is_some_and(|dial| dial.link == id);
        match packet {
            Packet::Text(text) if is_dial => self.welcomed(at, id, &text),
            Packet::Text(text) => {
                if let Some(up) = ladder.up.as_mut().filter(|_| is_up) {
                    up.machine.handle_text(&text, now);
                }
            }
            Packet::Ping | Packet::Pong => {
                if let Some(up) = ladder.up.as_mut().filter(|_| is_up) {
                    up.machine.handle_alive(now);
                }
                link.send_to_hub(Packet::Pong);
            }
            Packet::Close(code) => self.link_ended(at, id, Some(code)),
            Packet::Lost => self.link_ended(at, id, None),
        }
        self.flush(at);
    }

    fn link_ended(&mut self, at: usize, id: LinkId, code: Option<CloseCode>) {
        let ladder = &mut self.devices[at].ladder;
        if ladder.up.as_ref().is_some_and(|up| up.link == id) {
            self.scene.note(format_args!("session of device {at} ends"));
            ladder.fell(code, &self.scene);
        } else if ladder.dial.as_ref().is_some_and(|dial| dial.link == id) {
            ladder.failed(code, &self.scene);
        }
        self.net.links.drop_agent(id);
    }

    fn welcomed(&mut self, at: usize, id: LinkId, text: &str) {
        let now = self.scene.now();
        let device = &mut self.devices[at];
        let handshake = device.ladder.dial.as_mut().and_then(|dial| dial.handshake.take());
        match handshake.map(|handshake| handshake.receive(text, now)) {
            Some(Ok(machine)) => {
                self.scene.note(format_args!("device {at} has a session"));
                if let Some(former) = device.ladder.opened(id, machine, now) {
                    if let Some(link) = self.net.links.get(former) {
                        link.send_to_hub(Packet::Close(CloseCode::Normal));
                    }
                    self.net.links.drop_agent(former);
                }
                device.linked();
            }
            Some(Err(code)) => self.link_ended(at, id, Some(code)),
            None => {}
        }
    }

    /// Lets the agent's end of a session do what its machine says.
    fn flush(&mut self, at: usize) {
        let now = self.scene.now();
        let device = &mut self.devices[at];
        loop {
            let is_pushed = device.ladder.is_pushed();
            let Some(up) = device.ladder.up.as_mut() else { return };
            while is_pushed && let Some(frame) = device.outgoing.pop_front() {
                drop(up.machine.send(&frame));
            }
            let (id, Some(output)) = (up.link, up.machine.poll_output()) else { return };
            match output {
                Output::Transmit(text) => {
                    if let Some(link) = self.net.links.get(id) {
                        link.send_to_hub(Packet::Text(text));
                    }
                }
                Output::Received(HubFrame::Mode { mode, .. }) => {
                    let before = std::mem::replace(&mut up.mode, mode);
                    if before != mode && mode == protocol::frame::Mode::Push {
                        device.linked();
                    }
                }
                Output::Received(HubFrame::Reconnect(reconnect)) => {
                    device.ladder.reconnect(reconnect.after_ms, now);
                }
                Output::Received(frame) => device.take(vec![frame], &mut self.scene),
                Output::Ping | Output::Ignored => {}
                Output::Close(code) => {
                    if let Some(link) = self.net.links.get(id) {
                        link.send_to_hub(Packet::Close(code));
                    }
                    return self.link_ended(at, id, Some(code));
                }
            }
        }
    }

    /// A device does a step of its work.
    pub(crate) fn step_device(&mut self, at: usize) -> bool {
        let has_worked = self.devices[at].step(&mut self.scene);
        if self.devices[at].disk.is_dead() {
            self.restart_device(at);
        }
        self.devices[at].send_due(&self.scene);
        self.flush(at);
        has_worked
    }

    /// What is due on a device by the clock.
    pub(crate) fn wake_device(&mut self, at: usize) {
        let now = self.scene.now();
        let device = &mut self.devices[at];
        if let Some(up) = &mut device.ladder.up {
            up.machine.handle_timeout(now);
        }
        if let Some(dial) = device.ladder.dial.as_ref().filter(|dial| dial.deadline <= now) {
            let link = dial.link;
            device.ladder.failed(None, &self.scene);
            self.net.links.drop_agent(link);
        }
        self.flush(at);
        let device = &mut self.devices[at];
        if device.ladder.turn(&self.scene) {
            device.linked();
        }
        device.send_due(&self.scene);
        if let Some(number) = device.ladder.ask(!device.outgoing.is_empty(), now) {
            let mut frames = vec![AgentFrame::Hello(device.hello(&self.scene))];
            if !device.ladder.is_pushed() {
                frames.extend(device.outgoing.drain(..));
            }
            self.api.asked.push(CheckIn { device: at, number, frames });
        }
        self.flush(at);
        if self.devices[at].ladder.wants_to_dial(now) {
            self.dial(at);
        }
    }

    /// The next answer to a check-in arrives.
    pub(crate) fn answer_arrives(&mut self) {
        let Some(next) = self.scene.pick(self.api.answered.len()) else { return };
        if self.devices[self.api.answered[next].0].is_busy() {
            return;
        }
        let (at, number, frames) = self.api.answered.remove(next);
        let is_accepted = frames.is_some();
        let device = &mut self.devices[at];
        if device.ladder.answered(number, is_accepted, &self.scene) {
            device.take(frames.unwrap_or_default(), &mut self.scene);
        }
    }

    /// Everybody whose time has come does what is due.
    pub(crate) fn wake_all(&mut self) {
        let now = self.scene.now();
        for hub in self.hubs.iter_mut().filter(|hub| hub.is_awake(now)) {
            hub.wake(&mut self.scene, &mut self.net);
            hub.read_channel(&mut self.scene, &mut self.net);
        }
        if self.api.is_up(now) {
            self.api.work(&mut self.scene, &mut self.net.bus);
        }
        for at in 0..self.devices.len() {
            self.wake_device(at);
        }
    }

    /// One hub that is awake does one thing of each kind.
    pub(crate) fn step_hub(&mut self, at: usize) {
        let now = self.scene.now();
        let Some(hub) = self.hubs.get_mut(at).filter(|hub| hub.is_awake(now)) else { return };
        hub.read_channel(&mut self.scene, &mut self.net);
        hub.tell_news(&mut self.scene, &mut self.net);
        hub.send_upstream(&mut self.scene, &mut self.net);
        hub.dispatch(&mut self.scene, &mut self.net);
    }

    /// The control plane takes in and sends out.
    pub(crate) fn step_api(&mut self) {
        if !self.api.is_up(self.scene.now()) {
            return;
        }
        let bus = &mut self.net.bus;
        match self.scene.below(4) {
            0 => self.api.dispatch(Lane::ALL[self.scene.below(2)], &mut self.scene, bus),
            1 => self.api.check_in(&mut self.scene),
            2 => self.api.write_sent(&self.scene),
            _ => self.api.read_upstream(&mut self.scene, bus),
        }
    }

    /// A packet towards a hub, or towards an agent.
    pub(crate) fn step_link(&mut self, id: LinkId) {
        let now = self.scene.now();
        let Some(process) = self.net.links.get(id).map(|link| link.hub) else { return };
        if self.scene.one_in(2) {
            return self.packet_to_agent(id);
        }
        let hub = self.hubs.iter_mut().find(|hub| hub.process == process && hub.is_awake(now));
        if let Some(hub) = hub {
            hub.take_packet(id, &mut self.scene, &mut self.net);
            hub.pump_all(&mut self.scene, &mut self.net);
        }
    }

    /// What must hold at every moment.
    pub(crate) fn check_always(&mut self) {
        for hub in &self.hubs {
            if hub.refused_sessions() > 0 {
                let name = hub.name();
                self.scene.breaks(format_args!("{name} keeps a session that it must refuse"));
            }
        }
    }

    /// Where the broker says that a device is.
    pub(crate) fn located(&self, at: usize) -> Option<Presence> {
        self.net.bus.locate(&[device_id(at)]).ok()?.pop().flatten()
    }

    pub(crate) fn now(&self) -> Instant {
        self.scene.now()
    }
}

pub(crate) fn hub_name(number: usize) -> HubId {
    format!("hub-{number}").parse().expect("a plain name")
}
