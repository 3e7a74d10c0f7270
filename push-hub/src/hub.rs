//! A hub as a value: started with its settings and its surroundings, and drained.
//!
//! Owns the tasks and the order of their end. Must not know whether it is alone in its process.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use broker::Broker;
use runtime::admin::Readiness;
use runtime::tls::pki_types::CertificateDer;
use runtime::tls::{self, ClientAuth, Identity, Tickets, TlsError};
use runtime::{Clock, Drain, Entropy};
use rustls::ServerConfig;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::budget::Budget;
use crate::certificate::Revocations;
use crate::config::{Config, InvalidConfig};
use crate::core::Core;
use crate::link::{self, Keeper, Link};
use crate::metrics::Metrics;
use crate::owed::Owed;
use crate::port::{self, Port};
use crate::presence::{self, Lanes};
use crate::registry::Registry;
use crate::reload::Reload;
use crate::turns::Turns;
use crate::{budget, dispatch, listener, upstream};

/// Handshakes that begin at a time, for each thread of the runtime: enough that none rests.
const TURNS_PER_WORKER: usize = 2;
/// The readiness condition of the agent port.
const LISTENING: &str = "agent_port";
/// How long sessions may take to close at the hard end of a drain.
const LAST_SESSIONS: Duration = Duration::from_secs(3);
/// How long the last frames may take on their way to the control plane.
const LAST_FRAMES: Duration = Duration::from_secs(1);

/// Why a hub could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not usable.
    #[error("configuration of the hub is not valid")]
    Config(#[from] InvalidConfig),
    /// The agent port could not be bound.
    #[error("agent port {address} cannot be bound")]
    Bind {
        /// What was configured.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What a hub needs from its surroundings.
#[derive(Debug)]
pub struct Deps {
    /// The bus to the control plane.
    pub broker: Arc<dyn Broker>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
    /// The TLS side of the agent port, as [`agent_tls`] makes it. Replacing its content takes
    /// effect for new connections.
    pub tls: Arc<ArcSwap<ServerConfig>>,
    /// Where the hub says whether it listens and whether its broker delivers.
    pub readiness: Readiness,
    /// The drain of the process, or a child of it.
    pub drain: Drain,
}

/// The TLS side of an agent port: 1.3 only, and a client certificate of one of `authorities` is
/// demanded. Sessions are resumed by `tickets`. Reads their secret.
///
/// # Errors
/// When key and chain do not fit, or no authority or no secret is usable.
pub fn agent_tls(
    identity: &Identity,
    authorities: Vec<CertificateDer<'static>>,
    tickets: &Tickets,
) -> Result<ServerConfig, TlsError> {
    let ticketer = tickets.producer(&authorities)?;
    let required = ClientAuth::Required(authorities);
    let mut config = tls::server_config(identity, required, &[b"http/1.1"])?;
    config.ticketer = ticketer;
    Ok(config)
}

/// A running hub. Dropping it cuts everything.
#[derive(Debug)]
pub struct Hub {
    agent_addr: SocketAddr,
    core: Arc<Core>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Hub {
    /// Binds the agent port and begins to serve it. Looks at the broker once before it returns,
    /// and starts without it: agents are told to poll meanwhile.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config, deps: Deps) -> Result<Self, StartError> {
        config.validate()?;
        let address = config.listen;
        let port = port::bind(address).map_err(|source| StartError::Bind { address, source })?;
        Self::start_on(port, config, deps).await
    }

    /// [`Hub::start`] on a port that is bound already, whatever network it belongs to;
    /// `config.listen` counts for nothing then.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start_on<P: Port>(
        port: P,
        config: Config,
        deps: Deps,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let unknown = |source| StartError::Bind { address: config.listen, source };
        let agent_addr = port.address().map_err(unknown)?;
        let readiness = deps.readiness.clone();
        readiness.set(LISTENING, false);
        let (upstream, waiting) = mpsc::channel(upstream::CAPACITY);
        let core = Arc::new(assemble(config, deps, upstream));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for lane in core.lanes.take_receivers() {
            tasks.spawn(presence::run(core.clone(), lane));
        }
        tasks.spawn(upstream::run(core.clone(), waiting, stop.clone()));
        let (subscriptions, subscribed) = mpsc::channel(1);
        tasks.spawn(dispatch::run(core.clone(), subscribed));
        let mut keeper = Keeper::new(core.clone(), readiness.clone(), subscriptions);
        keeper.beat().await;
        tasks.spawn(keeper.run(stop.clone()));
        budget::look(&core);
        tasks.spawn(budget::run(core.clone(), stop.clone()));
        tasks.spawn(listener::run(core.clone(), port));
        tasks.spawn(send_away(core.clone(), readiness.clone()));
        readiness.set(LISTENING, true);
        tracing::info!(hub.id = %core.name, agent.addr = %agent_addr, "hub listens");
        Ok(Self { agent_addr, core, tasks, stop })
    }

    /// Where agents connect.
    #[must_use]
    pub const fn agent_addr(&self) -> SocketAddr {
        self.agent_addr
    }

    /// For reading the settings again while the hub runs.
    #[must_use]
    pub fn reload(&self) -> Reload {
        Reload::new(self.core.clone())
    }

    /// How many devices have a session here.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.core.registry.len()
    }

    /// Which sessions are here, for a simulation that looks after each of them.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn held(&self) -> Vec<(protocol::id::DeviceId, protocol::id::SessionId)> {
        self.core.registry.all().iter().map(|handle| (handle.device, handle.session)).collect()
    }

    /// Begins the drain, with `grace` until the sessions that are left are closed, and waits for
    /// its end. Agents are told to go elsewhere, spread over the grace.
    pub async fn drain(self, grace: Duration) {
        self.core.drain.begin(grace);
        self.finished().await;
    }

    /// Waits for the end of a drain that somebody else begins.
    pub async fn finished(mut self) {
        let core = self.core.clone();
        core.drain.soft().cancelled().await;
        core.tracker.close();
        let everybody_leaves = async {
            core.registry.emptied().await;
            // Nobody is left who could be told to come back elsewhere.
            core.port.cancel();
            core.tracker.wait().await;
        };
        tokio::select! {
            biased;
            () = everybody_leaves => {}
            () = core.drain.hard().cancelled() => {
                core.port.cancel();
                core.registry.shut();
                drop(tokio::time::timeout(LAST_SESSIONS, core.tracker.wait()).await);
            }
        }
        self.stop_tasks().await;
        tracing::info!(hub.id = %self.core.name, "hub has drained");
    }

    /// Sessions are gone: lets the last frames out, gives the lease back and ends the tasks.
    async fn stop_tasks(&mut self) {
        let core = &self.core;
        let is_empty = async {
            while core.upstream.capacity() < core.upstream.max_capacity() {
                tokio::time::sleep(LAST_FRAMES / 50).await;
            }
        };
        if tokio::time::timeout(LAST_FRAMES, is_empty).await.is_err() {
            tracing::info!(hub.id = %core.name, "frames are left, agents repeat them");
        }
        core.drain.abort();
        self.stop.cancel();
        let given_back = async {
            // The lanes and the dispatcher live as long as the core; the others end.
            while self.tasks.len() > presence::LANES {
                if self.tasks.join_next().await.is_none() {
                    return;
                }
            }
        };
        drop(tokio::time::timeout(link::CALL_TIMEOUT, given_back).await);
        self.tasks.shutdown().await;
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.core.drain.abort();
        self.core.port.cancel();
        self.core.registry.shut();
        self.stop.cancel();
    }
}

fn assemble(config: Config, deps: Deps, upstream: mpsc::Sender<broker::Upstream>) -> Core {
    let admission = Admission::new(&config.admission, &deps.clock);
    let now = protocol::time::Timestamp::from_millis(deps.clock.unix_millis());
    let incarnation = protocol::id::SessionId::new(now, deps.entropy.bytes());
    let link = Link::new(config.name.clone(), incarnation);
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    Core {
        name: config.name.clone(),
        config: ArcSwap::from_pointee(config),
        broker: deps.broker,
        began: deps.clock.now(),
        clock: deps.clock,
        entropy: deps.entropy,
        tls: deps.tls,
        drain: deps.drain.child(),
        port: CancellationToken::new(),
        metrics: Metrics::new(),
        admission,
        turns: Turns::new(workers * TURNS_PER_WORKER),
        owed: Owed::default(),
        budget: Budget::new(),
        revocations: Revocations::default(),
        registry: Registry::default(),
        link,
        lanes: Lanes::new(),
        upstream,
        tracker: TaskTracker::new(),
    }
}

/// Tells every agent to go elsewhere once the drain begins.
async fn send_away(core: Arc<Core>, readiness: Readiness) {
    core.drain.soft().cancelled().await;
    readiness.set(LISTENING, false);
    let sessions = core.registry.all();
    let spread = core.spread(sessions.len());
    tracing::info!(
        hub.id = %core.name,
        sessions = sessions.len(),
        spread_ms = spread.as_millis(),
        "draining, agents are sent elsewhere"
    );
    for handle in sessions {
        core.send_away(&handle, spread);
    }
}
