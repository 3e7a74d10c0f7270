//! Everything between the store and the device, and the faults of all of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use protocol::fixture::{self, NOW};
use protocol::frame::{AgentFrame, HubFrame};
use protocol::id::CommandId;
use protocol::session::Output;
use protocol::session::agent::{AgentHandshake, AgentSession};
use protocol::session::hub::{HubHandshake, HubSession, Pace};
use protocol::state::{CommandState, Lane};

use crate::agent::{Agent, Bug};
use crate::random::Random;
use crate::store::{Row, Store};

/// Commands of one run.
const COMMANDS: usize = 24;

/// A connection with a session at either end. Reliable and in order while it lasts.
#[derive(Debug)]
struct Connection {
    hub: HubSession,
    agent: AgentSession,
    to_hub: VecDeque<String>,
    to_agent: VecDeque<String>,
}

#[derive(Debug)]
pub(crate) struct World {
    random: Random,
    now: Instant,
    store: Store,
    agent: Agent,
    connection: Option<Connection>,
    /// The bus loses, doubles and reorders.
    downstream: Vec<HubFrame>,
    upstream: Vec<AgentFrame>,
    is_healed: bool,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "an instant can only be had from the clock")]
    pub(crate) fn new(seed: u64, bug: Option<Bug>) -> Self {
        Self {
            random: Random::new(seed),
            now: Instant::now(),
            store: Store::new(bug),
            agent: Agent::new(bug),
            connection: None,
            downstream: Vec::new(),
            upstream: Vec::new(),
            is_healed: false,
        }
    }

    /// One random event: mostly progress, often a fault.
    pub(crate) fn chaos_step(&mut self) {
        match self.random.below(100) {
            0..6 => self.create(),
            6..7 => {
                let at = self.random.below(COMMANDS);
                self.store.cancel(at);
            }
            7..10 => self.connection = None,
            10..16 => self.connect(),
            16..19 => {
                let kept = self.random.below(3);
                self.agent.crash(kept);
                self.connection = None;
            }
            19..22 => self.redeliver(),
            22..25 => self.disturb_bus(),
            25..26 => self.tick(),
            26..40 => self.bus_to_hub(),
            40..52 => self.bus_to_store(),
            52..64 => self.network_to_agent(),
            64..76 => self.network_to_hub(),
            _ => {
                self.agent.step();
                self.flush_agent();
            }
        }
    }

    fn create(&mut self) {
        if self.store.rows.len() < COMMANDS {
            let lane = Lane::ALL[self.random.below(2)];
            self.store.create(lane);
            // Now and then a command waits: for the device, or to be withdrawn.
            if self.random.below(4) > 0 {
                self.redeliver();
            }
        }
    }

    fn connect(&mut self) {
        let hello = fixture::hello(self.agent.ledger().last_seq());
        let (handshake, text) = AgentHandshake::start(hello, self.now).expect("hello encodes");
        let session_id = fixture::session(1);
        let (mut hub, hello) = HubHandshake::new(self.now)
            .receive(&text, session_id, Pace::default(), (self.now, NOW))
            .expect("the hub takes its agent's hello");
        let Some(Output::Transmit(welcome)) = hub.poll_output() else { panic!("no welcome") };
        let agent = handshake.receive(&welcome, self.now).expect("the agent takes the welcome");
        self.connection =
            Some(Connection { hub, agent, to_hub: VecDeque::new(), to_agent: VecDeque::new() });
        self.upstream.push(AgentFrame::Hello(hello));
        self.agent.connected();
        self.flush_agent();
    }

    fn redeliver(&mut self) {
        self.downstream.extend(self.store.pending());
    }

    fn disturb_bus(&mut self) {
        let lose = self.random.below(2) == 0;
        disturb(&mut self.downstream, lose, &mut self.random);
        disturb(&mut self.upstream, lose, &mut self.random);
    }

    fn tick(&mut self) {
        self.now += Duration::from_secs(7);
        let now = self.now;
        if let Some(connection) = &mut self.connection {
            connection.hub.handle_timeout(now);
            connection.agent.handle_timeout(now);
        }
        self.flush_hub();
        self.flush_agent();
    }

    fn bus_to_hub(&mut self) {
        let next = pick(self.downstream.len(), self.is_healed, &mut self.random);
        if let Some(at) = next {
            let frame = self.downstream.remove(at);
            self.deliver(&frame);
        }
    }

    fn deliver(&mut self, frame: &HubFrame) {
        let Some(connection) = &mut self.connection else { return };
        connection.hub.deliver(frame, self.now);
        self.flush_hub();
    }

    fn bus_to_store(&mut self) {
        if let Some(at) = pick(self.upstream.len(), self.is_healed, &mut self.random) {
            let frame = self.upstream.remove(at);
            let answer = self.store.handle(&frame);
            self.downstream.extend(answer);
        }
    }

    fn network_to_agent(&mut self) {
        if self.agent.is_busy() {
            return;
        }
        let Some(connection) = &mut self.connection else { return };
        let Some(text) = connection.to_agent.pop_front() else { return };
        connection.agent.handle_text(&text, self.now);
        self.flush_agent();
    }

    fn network_to_hub(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let Some(text) = connection.to_hub.pop_front() else { return };
        connection.hub.handle_text(&text, self.now);
        self.flush_hub();
    }

    fn flush_hub(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        while let Some(output) = connection.hub.poll_output() {
            match output {
                Output::Transmit(text) => connection.to_agent.push_back(text),
                Output::Ping => connection.agent.handle_alive(self.now),
                Output::Received(frame) => self.upstream.push(frame),
                Output::Ignored => {}
                Output::Close(_) => return self.connection = None,
            }
        }
    }

    fn flush_agent(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        while let Some(frame) = self.agent.outgoing.pop_front() {
            connection.agent.send(&frame).expect("the agent's frames fit");
        }
        while let Some(output) = connection.agent.poll_output() {
            match output {
                Output::Transmit(text) => connection.to_hub.push_back(text),
                Output::Received(frame) => self.agent.take(&frame, self.store.organisation()),
                Output::Ping | Output::Ignored => {}
                Output::Close(_) => return self.connection = None,
            }
        }
    }

    /// No more faults: everything may go through, as often as it takes.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        self.is_healed = true;
        for _ in 0..64 {
            self.connection = None;
            self.connect();
            self.settle();
            let is_open = self.store.rows.iter().any(|row| !row.state.is_terminal());
            if !is_open && self.agent.ledger().unconfirmed().count() == 0 {
                return Ok(());
            }
            self.redeliver();
            self.settle();
        }
        let open = self.store.rows.iter().filter(|row| !row.state.is_terminal()).count();
        Err(format!("{open} commands never ended"))
    }

    /// Until nothing moves any more; bounded, so that a storm of answers shows as no end.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.bus_to_store();
            self.bus_to_hub();
            self.network_to_hub();
            self.network_to_agent();
            let has_worked = self.agent.step();
            self.flush_agent();
            if !has_worked && self.work_left() == 0 {
                return;
            }
        }
    }

    fn work_left(&self) -> usize {
        let connection = self.connection.as_ref();
        let in_flight = connection.map_or(0, |c| c.to_hub.len() + c.to_agent.len());
        in_flight + self.upstream.len() + self.downstream.len() + usize::from(self.agent.is_busy())
    }

    /// What must hold at every moment.
    pub(crate) fn check_always(&self) -> Result<(), String> {
        let effects = &self.agent.device.effects;
        let twice = effects.iter().enumerate().find(|(at, id)| effects[..*at].contains(id));
        twice.map_or(Ok(()), |(_, command_id)| Err(format!("{command_id} took effect twice")))
    }

    /// What must hold in the end.
    pub(crate) fn check_promises(&self) -> Result<(), String> {
        self.check_always()?;
        for lane in Lane::ALL {
            let rows = self.store.rows.iter().filter(|row| row.frame.lane == lane);
            let is_done = |id: &CommandId| self.agent.device.effects.contains(id);
            let mut expected = Vec::new();
            for row in rows.clone() {
                let succeeded = row.state == CommandState::Succeeded;
                let done = is_done(&row.frame.command_id);
                if succeeded && !done {
                    return Err(format!("{} is said to be done", row.frame.command_id));
                }
                if done {
                    expected.push(row.frame.command_id);
                }
            }
            let of_lane = |id: &&CommandId| rows.clone().any(|row| row.frame.command_id == **id);
            let actual: Vec<_> = self.agent.device.effects.iter().filter(of_lane).collect();
            let is_withdrawn = |row: &&Row| row.state == CommandState::Cancelled;
            if let Some(row) =
                rows.clone().filter(is_withdrawn).find(|row| is_done(&row.frame.command_id))
            {
                return Err(format!("{} was withdrawn", row.frame.command_id));
            }
            if actual != expected.iter().collect::<Vec<_>>() {
                return Err(format!("{lane:?} commands took effect out of order"));
            }
        }
        Ok(())
    }
}

/// The bus keeps no order until it is healed: any message may come next.
fn pick(length: usize, in_order: bool, random: &mut Random) -> Option<usize> {
    match length {
        0 => None,
        _ if in_order => Some(0),
        _ => Some(random.below(length)),
    }
}

fn disturb<F: Clone>(bus: &mut Vec<F>, lose: bool, random: &mut Random) {
    let Some(at) = pick(bus.len(), false, random) else { return };
    if lose {
        bus.remove(at);
    } else {
        bus.push(bus[at].clone());
    }
}
