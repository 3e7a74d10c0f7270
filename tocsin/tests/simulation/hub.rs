//! A hub as the simulation knows it: the real registry, inboxes, revocations and session machines
//! in a shell that does in steps what the tasks of the product's hub do at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use broker::{Arrival, BATCH, BrokerError, Downstream, Presence, Upstream};
use protocol::close::CloseCode;
use protocol::fixture;
use protocol::frame::{AgentFrame, Frame as _, Hello, HubFrame};
use protocol::id::{HubId, SessionId};
use protocol::session::Output;
use protocol::session::hub::{HubHandshake, HubSession, Pace};
use protocol::state::Lane;
use push_hub::simulation::{Session, Sessions};

use crate::bug::Bug;
use crate::bus::{Bus, Who};
use crate::keeper::Keeper;
use crate::link::{LinkId, Links, Packet};
use crate::scene::Scene;

/// Every device of the simulation is in its first enrollment.
pub(crate) const GENERATION: u32 = 1;
/// How long a refused batch rests.
const RETRY: Duration = Duration::from_millis(250);

/// What lies between the processes.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) bus: Bus,
    pub(crate) links: Links,
}

/// A session came or went.
#[derive(Debug)]
enum News {
    Arrived(Session, AgentFrame),
    Departed(Session),
}

/// A session with its socket.
#[derive(Debug)]
struct Live {
    machine: HubSession,
    session: Session,
    /// Urgent commands that its machine has and has not sent.
    urgent_waiting: usize,
}

/// One process of a hub.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) process: usize,
    pub(crate) keeper: Keeper,
    pub(crate) sessions: Sessions,
    greeting: BTreeMap<LinkId, HubHandshake>,
    /// Sessions that a planted bug has not registered yet.
    unregistered: VecDeque<(LinkId, HubSession, SessionId, Hello)>,
    live: BTreeMap<LinkId, Live>,
    news: VecDeque<News>,
    upstream: VecDeque<Upstream>,
    upstream_not_before: Option<Instant>,
    /// Taken from the channel, not yet handed to a session.
    inbound: Vec<Downstream>,
    /// Stopped by the system until then.
    pub(crate) paused_until: Option<Instant>,
}

impl Hub {
    pub(crate) fn new(process: usize, name: HubId, scene: &Scene) -> Self {
        Self {
            process,
            keeper: Keeper::new(name, scene),
            sessions: Sessions::default(),
            greeting: BTreeMap::new(),
            unregistered: VecDeque::new(),
            live: BTreeMap::new(),
            news: VecDeque::new(),
            upstream: VecDeque::new(),
            upstream_not_before: None,
            inbound: Vec::new(),
            paused_until: None,
        }
    }

    pub(crate) fn name(&self) -> &HubId {
        &self.keeper.lease.hub
    }

    pub(crate) fn who(&self) -> Who {
        Who::Hub(self.process)
    }

    pub(crate) fn is_awake(&self, now: Instant) -> bool {
        self.paused_until.is_none_or(|until| until <= now)
    }

    /// What the door answers to a device whose TLS handshake is done.
    pub(crate) fn admit(
        &self,
        device: usize,
        is_resumed: bool,
        scene: &Scene,
    ) -> Result<(), CloseCode> {
        let is_unseen = is_resumed && scene.has(Bug::ResumeWithoutRevocationCheck);
        if self.sessions.refuses(device_id(device), GENERATION) && !is_unseen {
            return Err(CloseCode::Revoked);
        }
        if self.keeper.is_fenced { Err(CloseCode::Drain) } else { Ok(()) }
    }

    pub(crate) fn accept(&mut self, link: LinkId, now: Instant) {
        self.greeting.insert(link, HubHandshake::new(now));
    }

    /// Takes the next packet of a connection.
    pub(crate) fn take_packet(&mut self, id: LinkId, scene: &mut Scene, net: &mut Net) {
        let Some(packet) = net.links.get(id).and_then(|link| link.to_hub.pop_front()) else {
            return;
        };
        let now = scene.now();
        match packet {
            Packet::Text(text) => match self.live.get_mut(&id) {
                Some(live) => live.machine.handle_text(&text, now),
                None => return self.take_hello(id, &text, scene, net),
            },
            Packet::Pong | Packet::Ping => {
                if let Some(live) = self.live.get_mut(&id) {
                    live.machine.handle_alive(now);
                }
            }
            Packet::Close(_) | Packet::Lost => return self.part(id, None, scene, net),
        }
        self.pump(id, scene, net);
    }

    fn take_hello(&mut self, id: LinkId, text: &str, scene: &mut Scene, net: &mut Net) {
        let Some(handshake) = self.greeting.remove(&id) else { return };
        let session_id = SessionId::new(scene.wall(), scene.chance.bytes());
        let times = (scene.now(), scene.wall());
        match handshake.receive(text, session_id, Pace::default(), times) {
            Ok((machine, hello)) if scene.has(Bug::BacklogBeforeRegister) => {
                if let Some(link) = net.links.get(id) {
                    let request = AgentFrame::Hello(hello.clone());
                    let upstream = self.address(link.device, session_id, request);
                    self.upstream.push_back(upstream);
                }
                self.unregistered.push_back((id, machine, session_id, hello));
            }
            Ok((machine, hello)) => self.begin(id, (machine, session_id, hello), scene, net),
            Err(code) => self.part(id, Some(code), scene, net),
        }
    }

    /// Registers first, then asks for what is pending.
    fn begin(
        &mut self,
        id: LinkId,
        (machine, session_id, hello): (HubSession, SessionId, Hello),
        scene: &mut Scene,
        net: &mut Net,
    ) {
        let Some(link) = net.links.get(id) else { return };
        let (device, is_resumed) = (device_id(link.device), link.is_resumed);
        let session = self.sessions.register((device, GENERATION), session_id, &hello);
        let is_unseen = is_resumed && scene.has(Bug::ResumeWithoutRevocationCheck);
        if self.sessions.refuses(device, GENERATION) && !is_unseen {
            session.close(CloseCode::Revoked);
        }
        self.keeper.greet(&session);
        scene.note(format_args!("{} registers {device} as {session_id}", self.name()));
        let request = AgentFrame::Hello(hello);
        self.news.push_back(News::Arrived(session.clone(), request));
        self.live.insert(id, Live { machine, session, urgent_waiting: 0 });
        self.pump_all(scene, net);
    }

    /// What a planted bug put off.
    pub(crate) fn register_late(&mut self, scene: &mut Scene, net: &mut Net) {
        if let Some((id, machine, session_id, hello)) = self.unregistered.pop_front() {
            self.begin(id, (machine, session_id, hello), scene, net);
        }
    }

    pub(crate) fn pump_all(&mut self, scene: &mut Scene, net: &mut Net) {
        for id in self.live.keys().copied().collect::<Vec<_>>() {
            self.pump(id, scene, net);
        }
    }

    /// Lets a session's task run until it has to wait.
    fn pump(&mut self, id: LinkId, scene: &mut Scene, net: &mut Net) {
        let now = scene.now();
        let Some(live) = self.live.get_mut(&id) else { return };
        let (frames, close) = live.session.take();
        for frame in frames {
            live.urgent_waiting += usize::from(is_urgent(&frame));
            live.machine.deliver(&frame, now);
        }
        if let Some(code) = close {
            live.machine.close(code);
        }
        loop {
            let Some(live) = self.live.get_mut(&id) else { return };
            let Some(link) = net.links.get(id) else { return };
            if !link.has_room() && close.is_none() {
                return;
            }
            match live.machine.poll_output() {
                None => return,
                Some(Output::Transmit(text)) => {
                    let is_starved = live.urgent_waiting > 0 && text.contains("\"lane\":\"bulk\"");
                    live.urgent_waiting -=
                        usize::from(text.contains("\"lane\":\"urgent\"")).min(live.urgent_waiting);
                    link.send_to_agent(Packet::Text(text));
                    if is_starved {
                        scene.breaks(format_args!("an urgent command waited behind a bulk one"));
                    }
                }
                Some(Output::Ping) => link.send_to_agent(Packet::Ping),
                Some(Output::Received(frame)) => {
                    live.session.remember(&frame);
                    let (device, session) = (link.device, live.session.id());
                    let upstream = self.address(device, session, frame);
                    self.upstream.push_back(upstream);
                }
                Some(Output::Ignored) => {}
                Some(Output::Close(code)) => return self.part(id, Some(code), scene, net),
            }
        }
    }

    /// A connection ends: by us with that code, or by itself.
    fn part(&mut self, id: LinkId, code: Option<CloseCode>, scene: &mut Scene, net: &mut Net) {
        if let (Some(code), Some(link)) = (code, net.links.get(id)) {
            scene.note(format_args!("{} closes link {id}: {}", self.name(), code.as_str()));
            link.send_to_agent(Packet::Close(code));
        }
        self.greeting.remove(&id);
        if let Some(live) = self.live.remove(&id)
            && self.sessions.unregister(&live.session)
        {
            self.news.push_back(News::Departed(live.session));
        }
        net.links.drop_hub(id);
    }

    fn address(&self, device: usize, session: SessionId, frame: AgentFrame) -> Upstream {
        let device = device_id(device);
        let hub = self.name().clone();
        Upstream { device, generation: GENERATION, hub, session, frame }
    }

    /// Tells the broker of one session that came or went.
    pub(crate) fn tell_news(&mut self, scene: &mut Scene, net: &mut Net) {
        let who = self.who();
        match self.news.pop_front() {
            Some(News::Arrived(session, request)) => {
                if !self.sessions.is_current(&session) {
                    return;
                }
                let presence = self.presence(&session);
                match net.bus.arrive(who, session.device(), presence) {
                    Ok(Arrival::Stale) => {
                        session.close(CloseCode::Replaced);
                        return self.pump_all(scene, net);
                    }
                    Ok(Arrival::Written { replaced }) => {
                        self.tell_replaced(replaced, &session, net)
                    }
                    Err(_) => {
                        self.keeper.needs_resync = true;
                        self.keeper.suspect(scene.now());
                    }
                }
                if !scene.has(Bug::BacklogBeforeRegister) {
                    self.request(&session, request);
                }
            }
            Some(News::Departed(session)) => self.depart(&session, scene, net),
            None => {}
        }
    }

    fn depart(&mut self, session: &Session, scene: &Scene, net: &mut Net) {
        let presence = self.presence(session);
        if net.bus.depart(self.who(), session.device(), &presence).is_err() {
            self.keeper.suspect(scene.now());
        }
    }

    /// Tells the hub of an older session that it is over.
    fn tell_replaced(&self, older: Option<Presence>, newer: &Session, net: &mut Net) {
        let Some(Presence { hub, session, .. }) = older else { return };
        let word = vec![Downstream::Replaced { device: newer.device(), session }];
        // When the word is lost, that hub finds out as it restores its entries.
        drop(net.bus.publish(self.who(), &hub, word));
    }

    /// Writes the entries of sessions again. What turns out to be over is closed.
    pub(crate) fn restore(
        &mut self,
        sessions: &[Session],
        scene: &Scene,
        net: &mut Net,
    ) -> Result<(), BrokerError> {
        for some in sessions.chunks(BATCH) {
            let entries: Vec<_> = some.iter().map(|s| (s.device(), self.presence(s))).collect();
            let restored = net.bus.restore(self.who(), &entries)?;
            for (session, arrival) in some.iter().zip(restored) {
                match arrival {
                    Arrival::Stale => session.close(CloseCode::Replaced),
                    Arrival::Written { replaced } => self.tell_replaced(replaced, session, net),
                }
                if !self.sessions.is_current(session) {
                    self.depart(session, scene, net);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn presence(&self, session: &Session) -> Presence {
        Presence::new(&self.keeper.lease, session.id(), session.epoch())
    }

    /// Sends a request of a session, by its agent or on its behalf.
    pub(crate) fn request(&mut self, session: &Session, frame: AgentFrame) {
        let hub = self.name().clone();
        self.upstream.push_back(Upstream {
            device: session.device(),
            generation: session.generation(),
            hub,
            session: session.id(),
            frame,
        });
    }

    pub(crate) fn send_upstream(&mut self, scene: &mut Scene, net: &mut Net) {
        let now = scene.now();
        if self.upstream.is_empty() || self.upstream_not_before.is_some_and(|at| at > now) {
            return;
        }
        let batch: Vec<_> = self.upstream.iter().take(BATCH).cloned().collect();
        let count = batch.len();
        if net.bus.send_upstream(self.who(), batch).is_ok() {
            self.upstream.drain(..count);
        } else {
            self.upstream_not_before = Some(now + RETRY);
            self.keeper.suspect(now);
        }
    }

    /// Reads the channel, always and fast.
    pub(crate) fn read_channel(&mut self, scene: &mut Scene, net: &mut Net) {
        if !net.bus.is_cut(self.who()) {
            self.keeper.read_channel(&mut self.inbound, scene.now());
        }
    }

    /// Hands one message of the channel to its session. The bus may lose, double and reorder.
    pub(crate) fn dispatch(&mut self, scene: &mut Scene, net: &mut Net) {
        let Some(at) = scene.pick(self.inbound.len()) else { return };
        let is_doubled = !scene.is_healed && scene.one_in(20);
        let message = if is_doubled { self.inbound[at].clone() } else { self.inbound.remove(at) };
        match message {
            Downstream::Deliver { device, frames } => {
                if let Some(session) = self.sessions.get(device) {
                    session.push(frames.into_iter().filter(|frame| frame.check().is_ok()));
                }
            }
            Downstream::Revoke { device, through_generation } => {
                self.sessions.revoke(device, through_generation);
                let session = self.sessions.get(device);
                if let Some(session) = session.filter(|s| s.generation() <= through_generation) {
                    session.close(CloseCode::Revoked);
                }
            }
            Downstream::Replaced { device, session } => self.sessions.replaced(device, session),
        }
        self.pump_all(scene, net);
    }

    pub(crate) fn lose_message(&mut self, scene: &Scene) {
        if let Some(at) = scene.pick(self.inbound.len()) {
            self.inbound.remove(at);
        }
    }

    /// Timers. What has arrived counts, however late the task comes to read it.
    pub(crate) fn wake(&mut self, scene: &mut Scene, net: &mut Net) {
        let now = scene.now();
        self.keeper_beats(scene, net);
        for id in self.live.keys().copied().collect::<Vec<_>>() {
            let is_due = self.live.get(&id).is_some_and(|l| l.machine.poll_timeout().0 <= now);
            if is_due {
                self.take_packet(id, scene, net);
            }
            if let Some(live) = self.live.get_mut(&id).filter(|_| is_due) {
                live.machine.handle_timeout(now);
            }
            self.pump(id, scene, net);
        }
        let is_late = |handshake: &HubHandshake| handshake.poll_timeout().0 <= now;
        let late: Vec<_> =
            self.greeting.iter().filter(|(_, h)| is_late(h)).map(|(id, _)| *id).collect();
        for id in late {
            self.part(id, Some(CloseCode::HelloTimeout), scene, net);
        }
    }

    /// Asks an agent to open a session elsewhere, as a drain does.
    pub(crate) fn send_away(&mut self, scene: &mut Scene, net: &mut Net) {
        for session in self.sessions.all() {
            let after_ms = scene.chance.below(5_000);
            let reason = "the hub drains".to_owned();
            let reconnect = protocol::frame::Reconnect { after_ms, hubs: Vec::new(), reason };
            session.push([HubFrame::Reconnect(reconnect)]);
        }
        self.pump_all(scene, net);
    }

    /// Devices with a session that this hub, by what it knows, must refuse.
    pub(crate) fn refused_sessions(&self) -> usize {
        let open = self.live.values().map(|live| &live.session);
        open.filter(|session| self.sessions.refuses(session.device(), GENERATION)).count()
    }

    pub(crate) fn work_left(&self) -> usize {
        self.news.len() + self.upstream.len() + self.inbound.len() + self.unregistered.len()
    }
}

pub(crate) fn device_id(device: usize) -> protocol::id::DeviceId {
    fixture::device(u8::try_from(device + 1).expect("few devices"))
}

fn is_urgent(frame: &HubFrame) -> bool {
    matches!(frame, HubFrame::Command(command) if command.lane == Lane::Urgent)
}
