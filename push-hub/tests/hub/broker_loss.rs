//! A broker that goes away, comes back empty, or belongs to somebody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use broker::{
    Arrival, Broker, BrokerError, Downstream, HubLease, LeaseGrant, MemoryBroker, Presence,
    Subscription, Upstream, UpstreamReader,
};
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, HubFrame, Mode};
use protocol::id::{DeviceId, HubId, SessionId};
use protocol::state::{Lane, PerLane};
use uuid::Uuid;

use crate::support::{
    Agent, World, bus, close_header, command, command_id, config, hub_id, until, upstream,
};

/// The in-process bus behind a cable that can be cut.
#[derive(Debug)]
struct Cable {
    memory: Arc<MemoryBroker>,
    is_cut: AtomicBool,
}

impl Cable {
    fn new() -> Arc<Self> {
        Arc::new(Self { memory: bus(), is_cut: AtomicBool::new(false) })
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }

    fn bus(&self) -> Result<&MemoryBroker, BrokerError> {
        if self.is_cut.load(Ordering::SeqCst) {
            Err(BrokerError::Unavailable)
        } else {
            Ok(&self.memory)
        }
    }
}

#[async_trait]
impl Broker for Cable {
    async fn renew_lease(&self, lease: &HubLease) -> Result<LeaseGrant, BrokerError> {
        self.bus()?.renew_lease(lease).await
    }

    async fn release_lease(&self, lease: &HubLease) -> Result<(), BrokerError> {
        self.bus()?.release_lease(lease).await
    }

    async fn hubs(&self) -> Result<Vec<HubLease>, BrokerError> {
        self.bus()?.hubs().await
    }

    async fn subscribe(&self, lease: &HubLease) -> Result<Box<dyn Subscription>, BrokerError> {
        self.bus()?.subscribe(lease).await
    }

    async fn publish(&self, hub: &HubId, batch: Vec<Downstream>) -> Result<usize, BrokerError> {
        self.bus()?.publish(hub, batch).await
    }

    async fn send_upstream(&self, batch: Vec<Upstream>) -> Result<(), BrokerError> {
        self.bus()?.send_upstream(batch).await
    }

    async fn read_upstream(&self) -> Result<Box<dyn UpstreamReader>, BrokerError> {
        self.bus()?.read_upstream().await
    }

    async fn upstream_waiting(&self) -> Result<u64, BrokerError> {
        self.bus()?.upstream_waiting().await
    }

    async fn arrive(&self, device: DeviceId, presence: Presence) -> Result<Arrival, BrokerError> {
        self.bus()?.arrive(device, presence).await
    }

    async fn restore(&self, entries: &[(DeviceId, Presence)]) -> Result<Vec<Arrival>, BrokerError> {
        self.bus()?.restore(entries).await
    }

    async fn depart(&self, device: DeviceId, presence: &Presence) -> Result<bool, BrokerError> {
        self.bus()?.depart(device, presence).await
    }

    async fn locate(&self, devices: &[DeviceId]) -> Result<Vec<Option<Presence>>, BrokerError> {
        self.bus()?.locate(devices).await
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        self.bus()?.probe().await
    }
}

async fn mode(agent: &mut Agent) -> Mode {
    match agent.frame().await {
        HubFrame::Mode { mode, .. } => mode,
        other => panic!("no mode: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_broker_drops_no_session_and_no_frame() {
    let cable = Cable::new();
    let world = World::with_bus(config(), cable.clone(), cable.memory.clone()).await;
    let mut reader = world.reader().await;
    let (device, newcomer) = (world.device(1), world.device(2));
    let mut agent = device.connect().await;
    upstream(&mut reader, |message| message.device == device.id).await;
    assert!(world.readiness.is_ready());

    cable.cut(true);
    assert_eq!(mode(&mut agent).await, Mode::Poll);
    assert_eq!(world.readiness.unmet(), ["broker"]);
    let acks = (1..=50).map(|n| AgentFrame::Ack { command_id: command_id(n) }).collect::<Vec<_>>();
    for ack in &acks {
        agent.say(ack).await;
    }
    let mut late = newcomer.connect().await;
    assert_eq!(mode(&mut late).await, Mode::Poll);

    cable.cut(false);
    assert_eq!(mode(&mut agent).await, Mode::Push);
    assert_eq!(mode(&mut late).await, Mode::Push);
    let sync = AgentFrame::Sync { last_seq: PerLane { urgent: 7, bulk: 8 } };
    let mut heard = Vec::new();
    let is_whole = |heard: &[Upstream]| {
        let from = |device, frame: &AgentFrame| {
            heard.iter().any(|message| message.device == device && message.frame == *frame)
        };
        acks.iter().all(|ack| from(device.id, ack))
            && from(newcomer.id, &crate::support::hello())
            && from(device.id, &sync)
            && from(newcomer.id, &sync)
    };
    while !is_whole(&heard) {
        heard.extend(reader.next().await.unwrap());
    }
    let presence = world.broker.locate(&[device.id, newcomer.id]).await.unwrap();
    assert!(presence.iter().all(Option::is_some), "{presence:?}");
    world.deliver(device.id, vec![command(1, Lane::Urgent, 10)]).await;
    assert_eq!(agent.commands(1).await, [command_id(1)]);
    until("ready again", || world.readiness.is_ready()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_starts_without_its_broker() {
    let cable = Cable::new();
    cable.cut(true);
    let world = World::with_bus(config(), cable.clone(), cable.memory.clone()).await;
    let mut agent = world.device(1).connect().await;
    assert_eq!(mode(&mut agent).await, Mode::Poll);
    cable.cut(false);
    assert_eq!(mode(&mut agent).await, Mode::Push);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_subscription_is_made_anew_and_agents_are_asked_for() {
    let world = World::new().await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let mut agent = device.connect().await;
    upstream(&mut reader, |message| message.device == device.id).await;
    // The newest subscription of a hub ends the older ones.
    let lease = world.broker.hubs().await.unwrap().remove(0);
    drop(world.broker.subscribe(&lease).await.unwrap());
    upstream(&mut reader, |message| matches!(message.frame, AgentFrame::Sync { .. })).await;
    world.deliver(device.id, vec![command(1, Lane::Urgent, 10)]).await;
    assert_eq!(agent.commands(1).await, [command_id(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_whose_name_is_taken_sends_its_agents_away() {
    let cable = Cable::new();
    let world = World::with_bus(config(), cable.clone(), cable.memory.clone()).await;
    let mut agent = world.device(1).connect().await;
    // While this hub is cut off, another one takes the name.
    cable.cut(true);
    assert_eq!(mode(&mut agent).await, Mode::Poll);
    let ours = cable.memory.hubs().await.unwrap().remove(0);
    cable.memory.release_lease(&ours).await.unwrap();
    let incarnation = SessionId::from_uuid(Uuid::from_u128(99));
    let theirs = HubLease { hub: hub_id(), incarnation };
    cable.memory.renew_lease(&theirs).await.unwrap();
    cable.cut(false);
    assert_eq!(agent.closed().await, Some(CloseCode::Drain.number()));
    let refused = world.device(2).refusal().await;
    assert_eq!((refused.status().as_u16(), close_header(&refused)), (503, Some("4008")));

    cable.memory.release_lease(&theirs).await.unwrap();
    until("ready again", || world.readiness.is_ready()).await;
    world.device(2).connect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_is_newer_elsewhere_is_closed_after_an_outage() {
    let cable = Cable::new();
    let world = World::with_bus(config(), cable.clone(), cable.memory.clone()).await;
    let device = world.device(1);
    let mut reader = world.reader().await;
    let mut agent = device.connect().await;
    upstream(&mut reader, |message| message.device == device.id).await;
    cable.cut(true);
    assert_eq!(mode(&mut agent).await, Mode::Poll);
    let incarnation = SessionId::from_uuid(Uuid::from_u128(99));
    let other = HubLease { hub: "other".parse().unwrap(), incarnation };
    cable.memory.renew_lease(&other).await.unwrap();
    let newer = Presence::new(&other, SessionId::from_uuid(Uuid::from_u128(7)), 7);
    cable.memory.arrive(device.id, newer).await.unwrap();
    cable.cut(false);
    assert_eq!(agent.closed().await, Some(CloseCode::Replaced.number()));
}
