//! A hub whose Redis dies, stops, is demoted, cut off or comes back empty: its sessions stay, its
//! health turns red, agents are told to poll; then commands reach them again.

#![expect(clippy::print_stdout, reason = "how long a loss and a return took is worth reading")]

use std::sync::Arc;
use std::time::Duration;

use broker::fixture::RedisServer;
use broker::{Broker, Downstream, RedisBroker, RedisConfig};
use protocol::frame::{HubFrame, Mode};
use protocol::id::{DeviceId, HubId};
use protocol::state::Lane;
use push_hub::Config;
use runtime::fixture::{Link, Relay};
use runtime::{Clock, Entropy};

use crate::support::{
    Agent, Device, GUARD, PAUSE, World, command, command_id, config, hub_id, until,
};

/// How long a command is waited for before it is sent again, as the control plane does.
const AGAIN: Duration = Duration::from_secs(1);
/// Rarer than other tests look at the bus: each look is a question to a real server.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// A bus on that server.
fn bus(url: String) -> Arc<RedisBroker> {
    let config = RedisConfig { urls: vec![url], ..RedisConfig::default() };
    Arc::new(RedisBroker::connect(config, Clock::system(), Entropy::system()).unwrap())
}

/// From the control plane to a device.
struct Way<'a> {
    api: &'a RedisBroker,
    device: DeviceId,
    /// The hub at which the device is.
    hub: HubId,
}

impl Way<'_> {
    /// Sends a command again and again, until it comes to the agent.
    async fn reaches(&self, agent: &mut Agent, number: u128) {
        let mut again = tokio::time::interval(AGAIN);
        loop {
            tokio::select! {
                frame = agent.frame() => match frame {
                    HubFrame::Command(command) if command.command_id == command_id(number) => return,
                    HubFrame::Command(_) | HubFrame::Mode { .. } => {}
                    other => panic!("{other:?}"),
                },
                _ = again.tick() => self.sends(number).await,
            }
        }
    }

    /// Sends that command until the hub takes it.
    async fn sends(&self, number: u128) {
        let sending = async {
            loop {
                let places = self.api.locate(&[self.device]).await;
                let is_here = matches!(places.as_deref(), Ok([Some(at)]) if at.hub == self.hub);
                let frames = vec![command(number, Lane::Urgent, 10)];
                let part = Downstream::Deliver { device: self.device, frames };
                if is_here && matches!(self.api.publish(&self.hub, vec![part]).await, Ok(1..)) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(GUARD, sending).await.expect("the hub takes the command");
    }
}

/// A hub with one agent, and the control plane's end of the bus.
struct Fleet {
    world: World,
    api: Arc<RedisBroker>,
    device: Device,
    agent: Agent,
    sent: u128,
}

impl Fleet {
    /// The hub reaches Redis at `near`, the control plane at `far`.
    async fn start(near: String, far: String) -> Self {
        let settings = Config { probe_every: PROBE_EVERY, ..config() };
        let world = World::with_bus(settings, bus(near), crate::support::bus()).await;
        let device = world.device(1);
        until("the hub is ready", || world.readiness.is_ready()).await;
        let agent = device.connect_at(10).await;
        let mut fleet = Self { world, api: bus(far), device, agent, sent: 0 };
        fleet.delivers().await;
        fleet
    }

    /// Sends a command as the control plane does, again and again, until it comes to the agent: what Redis
    /// hands to a subscription that is about to end is taken, and lost.
    async fn delivers(&mut self) {
        self.sent += 1;
        let number = self.sent;
        let way = Way { api: &self.api, device: self.device.id, hub: hub_id() };
        way.reaches(&mut self.agent, number).await;
    }

    /// The loss is seen where people look, and the agent polls; its session stays.
    async fn loses(&mut self, began: std::time::Instant) {
        until("health is red", || self.world.readiness.unmet() == ["broker"]).await;
        println!("health is red after {} ms", began.elapsed().as_millis());
        loop {
            match self.agent.frame().await {
                HubFrame::Mode { mode: Mode::Poll, .. } => break,
                HubFrame::Mode { .. } | HubFrame::Command(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.world.hub.sessions(), 1);
    }

    /// Push works again, on the same session.
    async fn comes_back(mut self, began: std::time::Instant) {
        self.delivers().await;
        println!("push works again after {} ms", began.elapsed().as_millis());
        until("ready again", || self.world.readiness.is_ready()).await;
        assert_eq!(self.world.hub.sessions(), 1);
    }
}

fn now() -> std::time::Instant {
    Clock::system().now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_redis_that_is_killed_and_comes_back_empty_costs_no_session() {
    let mut server = RedisServer::start();
    let mut fleet = Fleet::start(server.url(), server.url()).await;
    let began = now();
    server.kill();
    fleet.loses(began).await;
    server.restart();
    fleet.comes_back(now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_redis_that_was_flushed_knows_the_sessions_again() {
    let server = RedisServer::start();
    let fleet = Fleet::start(server.url(), server.url()).await;
    let began = now();
    server.ask(&["FLUSHALL"]);
    fleet.comes_back(began).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f09_hub_that_is_cut_off_from_redis_polls_and_comes_back() {
    let server = RedisServer::start();
    let cable = Relay::to(server.port()).await;
    let mut fleet = Fleet::start(format!("redis://{}", cable.addr), server.url()).await;
    let began = now();
    cable.set(Link::Frozen);
    fleet.loses(began).await;
    cable.set(Link::Open);
    fleet.comes_back(now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f09_redis_that_is_demoted_and_keeps_its_sockets_is_left_and_taken_back() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let mut fleet = Fleet::start(server.url(), server.url()).await;
    let began = now();
    server.follow(&other);
    fleet.loses(began).await;
    server.promote();
    fleet.comes_back(now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_redis_that_stops_in_its_tracks_is_noticed_and_taken_back() {
    let server = RedisServer::start();
    let mut fleet = Fleet::start(server.url(), server.url()).await;
    let began = now();
    server.pause();
    fleet.loses(began).await;
    server.resume();
    fleet.comes_back(now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_subscriber_that_redis_kicked_hears_again() {
    let server = RedisServer::start();
    let fleet = Fleet::start(server.url(), server.url()).await;
    let began = now();
    assert!(server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).number() > 0);
    fleet.comes_back(began).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f18_device_on_two_hubs_keeps_the_later_session() {
    let server = RedisServer::start();
    let mut fleet = Fleet::start(server.url(), server.url()).await;
    let settings = Config { name: "other".parse().unwrap(), probe_every: PROBE_EVERY, ..config() };
    let other = World::with_bus(settings, bus(server.url()), crate::support::bus()).await;
    until("the hub is ready", || other.readiness.is_ready()).await;
    let mut newer = other.device(1).connect_at(11).await;
    assert_eq!(fleet.agent.closed().await, Some(protocol::close::CloseCode::Replaced.number()));
    let mut late = fleet.device.greet_at(10).await;
    assert_eq!(late.closed().await, Some(protocol::close::CloseCode::Replaced.number()));
    let way = Way { api: &fleet.api, device: fleet.device.id, hub: "other".parse().unwrap() };
    way.reaches(&mut newer, 99).await;
    let place = async {
        loop {
            match fleet.api.locate(&[fleet.device.id]).await.as_deref() {
                Ok([Some(place)]) => return place.clone(),
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    let place = tokio::time::timeout(GUARD, place).await.expect("the later session stands");
    assert_eq!((place.hub.as_str(), place.epoch), ("other", 11));
}
