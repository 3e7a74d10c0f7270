//! What the parts of the bus on Redis share, and the task that keeps it true.
//!
//! Owns the snapshot of the servers: made, looked at each beat and in doubt at once, abandoned
//! when it is not true any more, and made again with a budget. That a socket stands says nothing:
//! a primary that was demoted keeps its sockets and delivers nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use runtime::{Backoff, Clock, Entropy};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::address::Address;
use super::channel::{Channel, unavailable};
use super::config::RedisConfig;
use super::dial::Failure;
use super::names::Names;
use super::nodes::{Finder, Nodes};
use crate::BrokerError;
use crate::metrics::Metrics;

/// The first ceiling of the pause between two attempts.
const RETRY: Duration = Duration::from_millis(50);
/// The last one: this, and a hub's beat, is what recovery takes after the servers are back.
const RETRY_CAP: Duration = Duration::from_secs(1);
/// Servers that were good for so long are a new start; sooner, the pauses go on growing.
const GOOD: Duration = Duration::from_secs(10);
/// Between two looks that doubt asked for, at least.
const DOUBT_PAUSE: Duration = Duration::from_millis(50);

/// A new subscription makes its hub tell and ask for everything: so many are granted within
/// [`BUDGET_TIME`], then the bus counts as away until there is room again.
const BUDGET: usize = 10;
/// See [`BUDGET`].
const BUDGET_TIME: Duration = Duration::from_secs(10);

/// What is known of the servers.
#[derive(Debug, Clone)]
enum State {
    /// The first attempt is under way.
    Starting,
    /// They are not found.
    Down,
    /// They are these.
    Up(Arc<Nodes>),
}

/// The shared parts.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: RedisConfig,
    pub(super) names: Names,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) metrics: Metrics,
    pub(super) finder: Finder,
    state: watch::Sender<State>,
    doubts: Notify,
    channels: Mutex<Vec<Weak<Channel>>>,
    /// When the last subscriptions were granted.
    granted: Mutex<VecDeque<Instant>>,
}

impl Shared {
    pub(super) fn new(
        config: RedisConfig,
        finder: Finder,
        (clock, entropy): (Clock, Entropy),
    ) -> Self {
        let names = Names::new(&config.prefix);
        Self {
            config,
            names,
            clock,
            entropy,
            metrics: Metrics::new(),
            finder,
            state: watch::Sender::new(State::Starting),
            doubts: Notify::new(),
            channels: Mutex::default(),
            granted: Mutex::default(),
        }
    }

    /// Whether one more subscription may be made.
    pub(super) fn grant(&self) -> Result<(), BrokerError> {
        let now = self.clock.now();
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.retain(|at| now.saturating_duration_since(*at) < BUDGET_TIME);
        if granted.len() >= BUDGET {
            tracing::warn!("subscriptions end again and again, none is made for a while");
            return Err(BrokerError::Unavailable);
        }
        granted.push_back(now);
        Ok(())
    }

    /// A call failed: look at once.
    pub(super) fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// The servers of this moment. Waits only for the very first attempt.
    pub(super) async fn nodes(&self) -> Result<Arc<Nodes>, BrokerError> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Starting));
        let Ok(Ok(known)) = timeout(self.config.connect_timeout, known).await else {
            return Err(BrokerError::Unavailable);
        };
        match &*known {
            State::Up(nodes) => Ok(nodes.clone()),
            State::Starting | State::Down => Err(BrokerError::Unavailable),
        }
    }

    pub(super) fn keep(&self, channel: &Arc<Channel>) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|known| known.strong_count() > 0);
        channels.push(Arc::downgrade(channel));
    }

    /// Goes through the normal path once: the servers are primaries, and each subscription of
    /// this process hears itself.
    pub(super) async fn probe(&self) -> Result<(), BrokerError> {
        let nodes = self.nodes().await?;
        let looked = self.finder.check(&nodes, false).await;
        looked.map_err(|failure| unavailable(self, &failure))?;
        let channels: Vec<_> = {
            let known = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().filter_map(Weak::upgrade).collect()
        };
        for channel in channels.iter().filter(|channel| channel.is_live()) {
            channel.probe(self).await.map_err(|failure| unavailable(self, &failure))?;
        }
        Ok(())
    }

    /// Keeps the snapshot true until it is dropped.
    pub(super) async fn supervise(self: Arc<Self>) {
        let mut backoff = Backoff::new(RETRY, RETRY_CAP);
        let mut former: Vec<Address> = Vec::new();
        loop {
            match self.finder.find(&former).await {
                Ok(nodes) => {
                    former = nodes.addresses().to_vec();
                    let began = self.clock.now();
                    let failure = self.serve(Arc::new(nodes)).await;
                    self.lost(&failure, "redis is abandoned");
                    if self.clock.now().saturating_duration_since(began) >= GOOD {
                        backoff.reset();
                    }
                }
                Err(failure) => self.lost(&failure, "redis is not found"),
            }
            tokio::time::sleep(backoff.next(self.entropy.next_u64())).await;
        }
    }

    /// Offers the servers for as long as they are good, and tells what is wrong then.
    async fn serve(&self, nodes: Arc<Nodes>) -> Failure {
        tracing::info!(servers = nodes.addresses().len(), "redis is found");
        self.metrics.found.increment(1);
        self.metrics.up.set(1.0);
        self.state.send_replace(State::Up(nodes.clone()));
        let mut located_at = self.clock.now();
        let failure = loop {
            let is_doubted = self.beat().await;
            let is_due = is_doubted || self.is_due(located_at);
            if is_due {
                located_at = self.clock.now();
            }
            let patience = self.config.connect_timeout + self.config.command_timeout;
            let looked = timeout(patience, self.finder.check(&nodes, is_due)).await;
            match looked.unwrap_or(Err(Failure::TimedOut("redis"))) {
                Ok(()) => {}
                Err(failure) => break failure,
            }
        };
        nodes.gone.cancel();
        failure
    }

    /// Waits for the next look; whether it is because of a doubt.
    async fn beat(&self) -> bool {
        tokio::select! {
            biased;
            () = async {
                tokio::time::sleep(DOUBT_PAUSE).await;
                self.doubts.notified().await;
            } => true,
            () = tokio::time::sleep(self.config.probe_every) => false,
        }
    }

    fn is_due(&self, located_at: Instant) -> bool {
        self.clock.now().saturating_duration_since(located_at) >= self.config.locate_every
    }

    fn lost(&self, failure: &Failure, what: &'static str) {
        let was = self.state.send_replace(State::Down);
        self.metrics.up.set(0.0);
        self.metrics.failures.increment(1);
        let error = failure as &dyn std::error::Error;
        match was {
            State::Starting | State::Up(_) => tracing::warn!(error, "{what}"),
            State::Down => tracing::debug!(error, "{what}"),
        }
    }
}
