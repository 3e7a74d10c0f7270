//! What runs on the hosts of hubs and devices: the product's own `Hub` and `Agent`, started anew in
//! each life of the host, and looked at from time to time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent::config::{ArmingConfig, LadderConfig, PowerConfig};
use agent::http::Dialer;
use agent::status::LadderStatus;
use agent::{Agent, Machine};
use arc_swap::ArcSwap;
use protocol::id::{DeviceId, SessionId};
use push_hub::config::AdmissionConfig;
use push_hub::socket::SocketConfig;
use push_hub::{Hub, agent_tls};
use runtime::admin::Readiness;
use runtime::tls::Tickets;
use runtime::{Blocking, Clock, Drain, Entropy};
use rustls::ServerConfig;

use crate::bus::Bus;
use crate::fleet::{Fleet, host_name, hub_addresses, hub_name};
use crate::life::Life;
use crate::net::{SimNetwork, SimPort};
use crate::scene::Scene;

/// How often a host is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a drain may take.
const GRACE: Duration = Duration::from_secs(8);
/// Silence after which hub and agent give the other one up.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(12);
/// A write without progress for this long ends a session.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(5);

/// The host of a hub.
pub(crate) struct HubHost {
    pub(crate) number: usize,
    pub(crate) life: Arc<Life>,
    pub(crate) bus: Arc<Bus>,
    tls: Arc<ArcSwap<ServerConfig>>,
    /// Whether the next life offers WebSockets.
    pub(crate) has_sockets: AtomicBool,
    held: Mutex<Vec<(DeviceId, SessionId)>>,
    /// Connections that the hub has open.
    streams: AtomicUsize,
}

impl HubHost {
    pub(crate) fn new(number: usize, scene: &Arc<Scene>, fleet: &Fleet, bus: Bus) -> Self {
        let tickets = Tickets::new(Default::default(), Clock::system(), Entropy::system());
        let tls = agent_tls(&fleet.server(&hub_name(number)), fleet.authorities(), &tickets);
        Self {
            number,
            life: Life::new(hub_name(number), scene),
            bus: Arc::new(bus),
            tls: Arc::new(ArcSwap::from_pointee(tls.expect("key and certificate fit"))),
            has_sockets: AtomicBool::new(true),
            held: Mutex::default(),
            streams: AtomicUsize::new(0),
        }
    }

    /// The sessions that it had when it was last looked at.
    pub(crate) fn held(&self) -> MutexGuard<'_, Vec<(DeviceId, SessionId)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections it had open when it was last looked at.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }

    /// One life, until it is asked to drain.
    pub(crate) async fn run(self: Arc<Self>) -> turmoil::Result {
        self.held().clear();
        self.streams.store(0, Ordering::SeqCst);
        let number = self.life.begin().await;
        let (name, scene) = (&self.life.name, &self.life.scene);
        let port = SimPort::bind(&self.life).await?;
        let deps = push_hub::Deps {
            broker: self.bus.clone(),
            clock: wall_clock(Duration::ZERO),
            entropy: scene.entropy(name, number),
            tls: self.tls.clone(),
            readiness: Readiness::new(&[]),
            drain: Drain::new(),
        };
        let hub = Hub::start_on(port, self.config()?, deps).await?;
        loop {
            tokio::select! {
                biased;
                () = self.life.asked() => break,
                () = tokio::time::sleep(LOOK) => {
                    *self.held() = hub.held();
                    self.streams.store(turmoil::established_tcp_stream_count(), Ordering::SeqCst);
                }
            }
        }
        scene.note(format_args!("{name} drains"));
        hub.drain(GRACE).await;
        self.held().clear();
        scene.note(format_args!("{name} has drained"));
        Ok(())
    }

    /// Shorter than the defaults, in about the same proportions: simulated time is not free.
    fn config(&self) -> turmoil::Result<push_hub::Config> {
        let name = hub_name(self.number);
        let mut other_hubs = hub_addresses();
        other_hubs.remove(self.number);
        Ok(push_hub::Config {
            name: name.parse()?,
            websocket: self.has_sockets.load(Ordering::SeqCst),
            heartbeat: Duration::from_secs(5),
            dead_after: DEAD_AFTER,
            check_in: Duration::from_secs(60),
            poll_hold: Duration::from_secs(10),
            reassert_every: Duration::from_secs(10),
            drain_spread: Duration::from_secs(3),
            other_hubs,
            admission: AdmissionConfig {
                tls_timeout: Duration::from_secs(3),
                head_timeout: Duration::from_secs(2),
                hello_timeout: Duration::from_secs(3),
                ..AdmissionConfig::default()
            },
            socket: SocketConfig { write_stall: WRITE_STALL, ..SocketConfig::default() },
            ..push_hub::Config::default()
        })
    }
}

/// The host of a device.
pub(crate) struct DeviceHost {
    pub(crate) number: usize,
    pub(crate) life: Arc<Life>,
    state_dir: PathBuf,
    /// How far its wall clock is ahead.
    ahead: Duration,
    ladder: Mutex<Option<LadderStatus>>,
}

impl DeviceHost {
    pub(crate) fn new(number: usize, scene: &Arc<Scene>, fleet: &Fleet) -> Self {
        let ahead = scene.entropy(&host_name(number), u64::MAX).below(90);
        Self {
            number,
            life: Life::new(host_name(number), scene),
            state_dir: fleet.state_dir(number),
            ahead: Duration::from_secs(ahead),
            ladder: Mutex::default(),
        }
    }

    /// Where its agent stood when it was last looked at.
    pub(crate) fn ladder(&self) -> MutexGuard<'_, Option<LadderStatus>> {
        self.ladder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its executor wrote: one line for each effect.
    pub(crate) fn effects(&self) -> Vec<String> {
        let log = self.state_dir.join(agent::execute::simulated::EFFECTS_LOG);
        std::fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// One life, until it is asked to stop.
    pub(crate) async fn run(self: Arc<Self>) -> turmoil::Result {
        *self.ladder() = None;
        let number = self.life.begin().await;
        let (name, scene) = (&self.life.name, &self.life.scene);
        let network = SimNetwork(self.life.clone());
        let machine = Machine { dialer: Dialer::over(network), blocking: Blocking::Inline };
        let deps = agent::Deps {
            clock: wall_clock(self.ahead),
            entropy: scene.entropy(name, number),
            drain: Drain::new(),
        };
        let agent = Agent::start_on(machine, self.config(), deps)?;
        loop {
            tokio::select! {
                biased;
                () = self.life.asked() => break,
                () = tokio::time::sleep(LOOK) => self.look(agent.status().ladder),
            }
        }
        agent.drain().await?;
        scene.note(format_args!("{name} has stopped"));
        Ok(())
    }

    fn look(&self, seen: LadderStatus) {
        let mut known = self.ladder();
        let place = |status: &LadderStatus| (status.rung, status.address.clone());
        if known.as_ref().map(place) != Some(place(&seen)) {
            let (rung, address) = place(&seen);
            let Life { name, scene, .. } = &*self.life;
            scene.note(format_args!("{name} is on {rung:?} at {address:?}"));
        }
        *known = Some(seen);
    }

    fn config(&self) -> agent::Config {
        let mut config = agent::Config { state_dir: self.state_dir.clone(), ..Default::default() };
        config.host.arming = ArmingConfig::Simulated;
        config.host.power = PowerConfig::Record(self.state_dir.join("power.log"));
        config.ladder = LadderConfig {
            backoff_cap: Duration::from_secs(8),
            connect_timeout: Duration::from_secs(5),
            long_poll_hold: Duration::from_secs(10),
            check_in: Duration::from_secs(15),
            check_in_running: Duration::from_secs(5),
            check_in_healthy: Duration::from_secs(60),
            resend: Duration::from_secs(3),
            ..LadderConfig::default()
        };
        config
    }
}

/// The clock of the host that this is called on.
fn wall_clock(ahead: Duration) -> Clock {
    let wall = turmoil::since_epoch().unwrap_or_default() + ahead;
    Clock::of_runtime(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX))
}
