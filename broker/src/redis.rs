//! The bus between processes, on Redis: what production runs on.
//!
//! Passes the same contract as the bus inside one process. Redis may forget, lie or vanish at any
//! moment: nothing here is the truth, everything that is read is bounded, and what it costs is
//! delay. One connection carries all questions of a process in pipelines; each subscription and
//! each reader of the upstream has one of its own, so that a read that blocks blocks nobody.

mod address;
mod channel;
mod config;
mod dial;
mod entry;
mod names;
mod nodes;
mod place;
mod reply;
mod script;
mod shared;
mod upstream;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;

use ::redis::Value;
use async_trait::async_trait;
use protocol::id::{DeviceId, HubId, SessionId};
use runtime::{Clock, Entropy};
use tokio::task::JoinSet;

use self::channel::{Channel, RedisSubscription, publish, unavailable};
pub use self::config::{InvalidRedisConfig, RedisConfig, RedisMode, RedisTls};
pub use self::dial::RedisTlsError;
use self::dial::{Dialer, Failure};
use self::nodes::{Finder, Nodes};
use self::reply::{int, list, text};
use self::script::Script;
use self::shared::Shared;
use crate::{
    Arrival, Broker, BrokerError, Downstream, HubLease, LEASE, LeaseGrant, Presence, Subscription,
    Upstream, UpstreamReader, check_batch,
};

/// The most hubs that are listed: more is a mistake, or somebody's malice.
const MAX_HUBS: usize = 4096;
/// How long a hub without a lease is remembered, in milliseconds.
const HUB_MEMORY_MS: u64 = 24 * 60 * 60 * 1000;

/// Why the bus cannot be set up. That Redis is away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum RedisBrokerError {
    /// The configuration is not usable.
    #[error("configuration of redis is not valid")]
    Config(#[from] InvalidRedisConfig),
    /// The files of TLS are not usable.
    #[error("redis cannot be spoken to over tls")]
    Tls(#[from] RedisTlsError),
}

/// The bus on Redis. Share it in an `Arc`; dropping it closes its connections.
#[derive(Debug)]
pub struct RedisBroker {
    shared: Arc<Shared>,
    _supervisor: JoinSet<()>,
}

impl RedisBroker {
    /// Begins to look for the servers, and keeps looking: calls fail as unavailable while they
    /// are not found. Call it inside of a tokio runtime.
    ///
    /// # Errors
    /// See [`RedisBrokerError`].
    pub fn connect(
        config: RedisConfig,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, RedisBrokerError> {
        config.validate()?;
        Self::open(config, clock, entropy)
    }

    /// The same, for tests of what the bus does and not of when it gives up: it waits for whoever does not
    /// answer much longer than a hub may, since a server of a busy machine is slow without being away.
    ///
    /// # Errors
    /// See [`RedisBrokerError`].
    #[cfg(feature = "fixture")]
    pub fn connect_patiently(
        config: RedisConfig,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, RedisBrokerError> {
        config.validate()?;
        Self::open(config.patient(), clock, entropy)
    }

    fn open(config: RedisConfig, clock: Clock, entropy: Entropy) -> Result<Self, RedisBrokerError> {
        let finder = Finder::new(&config, Dialer::new(&config)?);
        let shared = Arc::new(Shared::new(config, finder, (clock, entropy)));
        let mut supervisor = JoinSet::new();
        supervisor.spawn(shared.clone().supervise());
        Ok(Self { shared, _supervisor: supervisor })
    }

    /// Does something with the servers of this moment.
    async fn with<T>(
        &self,
        what: impl AsyncFnOnce(&Nodes) -> Result<T, Failure>,
    ) -> Result<T, BrokerError> {
        let nodes = self.shared.nodes().await?;
        what(&nodes).await.map_err(|failure| unavailable(&self.shared, &failure))
    }

    /// What a script about a lease answers.
    async fn about_lease(
        &self,
        script: Script,
        lease: &HubLease,
        arguments: &[u64],
    ) -> Result<i64, BrokerError> {
        let key = self.shared.names.lease(&lease.hub);
        self.with(async |nodes| {
            let mut call = nodes.script(script, &key);
            call.arg(&lease.incarnation.as_bytes()[..]).arg(arguments);
            int(&nodes.ask(&key, &call).await?).ok_or(Failure::Answer("a lease"))
        })
        .await
    }

    /// Puts the hub on the list of those that are asked whether they hold a lease.
    async fn list(&self, hub: &HubId) -> Result<(), BrokerError> {
        let key = self.shared.names.hubs();
        let mut listing = ::redis::cmd("ZADD");
        listing.arg(&key).arg(self.shared.clock.unix_millis()).arg(hub.as_str());
        self.with(async |nodes| nodes.ask(&key, &listing).await).await.map(drop)
    }
}

/// Who holds the leases of those hubs, in their order.
async fn holders(
    shared: &Shared,
    nodes: &Nodes,
    hubs: impl Iterator<Item = &HubId>,
) -> Result<Vec<Option<SessionId>>, Failure> {
    let question = |hub: &HubId| {
        let key = shared.names.lease(hub);
        let mut get = ::redis::cmd("GET");
        get.arg(&key);
        (key, get)
    };
    let answers = nodes.ask_all(hubs.map(question).collect()).await?;
    Ok(answers.iter().map(|value| reply::bytes(value).and_then(entry::incarnation)).collect())
}

#[async_trait]
impl Broker for RedisBroker {
    async fn renew_lease(&self, lease: &HubLease) -> Result<LeaseGrant, BrokerError> {
        let millis = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
        let grant = match self.about_lease(Script::Renew, lease, &[millis]).await? {
            0 => return Err(BrokerError::LeaseLost),
            1 => LeaseGrant::Taken,
            _ => LeaseGrant::Renewed,
        };
        self.list(&lease.hub).await?;
        Ok(grant)
    }

    async fn release_lease(&self, lease: &HubLease) -> Result<(), BrokerError> {
        match self.about_lease(Script::Release, lease, &[]).await? {
            0 => Err(BrokerError::LeaseLost),
            _ => Ok(()),
        }
    }

    async fn hubs(&self) -> Result<Vec<HubLease>, BrokerError> {
        let key = self.shared.names.hubs();
        let forgotten = self.shared.clock.unix_millis().saturating_sub(HUB_MEMORY_MS);
        let mut forget = ::redis::cmd("ZREMRANGEBYSCORE");
        forget.arg(&key).arg("-inf").arg(forgotten);
        let mut known = ::redis::cmd("ZREVRANGE");
        known.arg(&key).arg(0).arg(MAX_HUBS - 1);
        self.with(async |nodes| {
            let answers = nodes.ask_all(vec![(key.clone(), forget), (key.clone(), known)]).await?;
            let names = answers.get(1).and_then(list).ok_or(Failure::Answer("ZREVRANGE"))?;
            let hubs: Vec<HubId> =
                names.iter().filter_map(|name| text(name)?.parse().ok()).collect();
            let holders = holders(&self.shared, nodes, hubs.iter()).await?;
            let held = hubs.into_iter().zip(holders);
            Ok(held.filter_map(|(hub, by)| Some(HubLease { hub, incarnation: by? })).collect())
        })
        .await
    }

    async fn subscribe(&self, lease: &HubLease) -> Result<Box<dyn Subscription>, BrokerError> {
        let shared = &self.shared;
        let nodes = shared.nodes().await?;
        let failed = |failure| unavailable(shared, &failure);
        let holder = holders(shared, &nodes, [&lease.hub].into_iter()).await.map_err(failed)?;
        if holder != [Some(lease.incarnation)] {
            return Err(BrokerError::LeaseLost);
        }
        shared.grant()?;
        let channels = shared.names.channels(&lease.hub);
        let opened = Box::pin(Channel::open(shared, &nodes, channels)).await;
        let (channel, queue) = opened.map_err(failed)?;
        shared.keep(&channel);
        let inbox = channel.inbox();
        let mut keeper = JoinSet::new();
        keeper.spawn(channel.keep(shared.clone(), nodes));
        Ok(Box::new(RedisSubscription {
            shared: shared.clone(),
            inbox,
            queue,
            next: VecDeque::new(),
            _keeper: keeper,
        }))
    }

    async fn publish(&self, hub: &HubId, batch: Vec<Downstream>) -> Result<usize, BrokerError> {
        check_batch(batch.len())?;
        let channels = self.shared.names.channels(hub);
        let is_peer = |message: &Downstream| matches!(message, Downstream::Replaced { .. });
        let (peer, control): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_peer);
        let encode = |batch: &[Downstream]| wire::encode(batch).ok_or(BrokerError::BatchTooBig);
        let messages = [(&channels.hub, encode(&control)?), (&channels.peer, encode(&peer)?)];
        self.with(async |nodes| {
            let publishing = |(channel, messages): (&String, Vec<Vec<u8>>)| {
                let command = |message: Vec<u8>| publish(nodes.is_cluster, channel, &message);
                let keyed = |command| (channel.clone(), command);
                messages.into_iter().map(command).map(keyed).collect::<Vec<_>>()
            };
            let commands = messages.into_iter().flat_map(publishing).collect();
            let taken = nodes.ask_all(commands).await?;
            // Whoever did not take all of it has a gap, and is about to find out.
            let taken = taken.iter().map(|count| int(count).unwrap_or(0)).min();
            Ok(usize::try_from(taken.unwrap_or(0)).unwrap_or(0))
        })
        .await
    }

    async fn send_upstream(&self, batch: Vec<Upstream>) -> Result<(), BrokerError> {
        check_batch(batch.len())?;
        let entries = wire::encode_upstream(&batch).ok_or(BrokerError::BatchTooBig)?;
        let key = self.shared.names.upstream();
        let answer = self
            .with(async |nodes| {
                let mut call = nodes.script(Script::Append, &key);
                call.arg(self.shared.config.upstream).arg(entries);
                int(&nodes.ask(&key, &call).await?).ok_or(Failure::Answer("the upstream"))
            })
            .await?;
        if answer == 1 { Ok(()) } else { Err(BrokerError::Full) }
    }

    async fn read_upstream(&self) -> Result<Box<dyn UpstreamReader>, BrokerError> {
        let nodes = self.shared.nodes().await?;
        let reader = upstream::Reader::open(&self.shared, &nodes).await;
        Ok(Box::new(reader.map_err(|failure| unavailable(&self.shared, &failure))?))
    }

    async fn upstream_waiting(&self) -> Result<u64, BrokerError> {
        let key = self.shared.names.upstream();
        let mut length = ::redis::cmd("XLEN");
        length.arg(&key);
        self.with(async |nodes| {
            let count = int(&nodes.ask(&key, &length).await?).ok_or(Failure::Answer("XLEN"))?;
            Ok(u64::try_from(count).unwrap_or(0))
        })
        .await
    }

    async fn arrive(&self, device: DeviceId, presence: Presence) -> Result<Arrival, BrokerError> {
        let entries = [(device, presence)];
        let placed = self
            .with(async |nodes| place::place(&self.shared, nodes, &entries, false).await)
            .await?;
        placed.into_iter().next().ok_or(BrokerError::Unavailable)
    }

    async fn restore(&self, entries: &[(DeviceId, Presence)]) -> Result<Vec<Arrival>, BrokerError> {
        check_batch(entries.len())?;
        self.with(async |nodes| place::place(&self.shared, nodes, entries, true).await).await
    }

    async fn depart(&self, device: DeviceId, presence: &Presence) -> Result<bool, BrokerError> {
        let key = self.shared.names.presence(device);
        self.with(async |nodes| {
            let mut call = nodes.script(Script::Depart, &key);
            call.arg(&entry::field(device)[..]).arg(&presence.session.as_bytes()[..]);
            Ok(nodes.ask(&key, &call).await? == Value::Int(1))
        })
        .await
    }

    async fn locate(&self, devices: &[DeviceId]) -> Result<Vec<Option<Presence>>, BrokerError> {
        self.with(async |nodes| place::locate(&self.shared, nodes, devices).await).await
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        self.shared.probe().await
    }
}
