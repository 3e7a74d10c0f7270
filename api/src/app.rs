//! What every handler and job shares: the store, the bus, time, chance and the keys.
//!
//! Owns no behaviour beyond drawing ids. Cloning is cheap, and clones are the same control plane.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use broker::Broker;
use protocol::enrollment::AgentConfig;
use protocol::jws::{CompactJws, JwsError};
use protocol::key::SigningKey;
use protocol::time::Timestamp;
use runtime::{Clock, Drain, Entropy};
use uuid::Uuid;

use crate::auth::{Memory, Usage};
use crate::commands::{Advanced, Intake, Sent};
use crate::config::{Config, Policy};
use crate::db::Db;
use crate::deliver::Places;
use crate::leases::Leases;
use crate::limits::Limits;
use crate::outbox::Outbox;
use crate::pki::Authority;
use crate::sign_in::Provider;
use crate::trust;

/// The shared state. Dereferences to [`Inner`].
#[derive(Debug, Clone)]
pub struct App(Arc<Inner>);

/// What is shared.
#[derive(Debug)]
pub struct Inner {
    /// The store.
    pub db: Db,
    /// The bus to the hubs.
    pub broker: Arc<dyn Broker>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
    /// The embedded authority, as its files were read last.
    pub authority: ArcSwap<Authority>,
    /// Signs envelopes and configurations.
    pub command_key: SigningKey,
    /// The settings, as they were at the start.
    pub config: Config,
    /// Those that change while it runs.
    pub policy: ArcSwap<Policy>,
    /// How often devices and addresses may ask.
    pub limits: Limits,
    /// How tokens of operators are used.
    pub usage: Usage,
    /// Whose tokens they were a moment ago.
    pub principals: Memory,
    /// By whom people sign in, as it was read last.
    pub provider: Provider,
    /// The version of the trust root that was read last.
    pub trust: trust::Known,
    /// Where agents are told to connect.
    pub addresses: ArcSwap<Addresses>,
    /// The newest checkpoint of the audit log that this node knows of.
    pub checkpoint: ArcSwapOption<CompactJws>,
    /// Where devices were a moment ago.
    pub places: Places,
    /// Orders on their way into the store.
    pub intake: Intake,
    /// Deliveries on their way to the broker.
    pub outbox: Outbox,
    /// What was sent and is not written down.
    pub sent: Sent,
    /// Who watches commands is told here.
    pub advanced: Advanced,
    /// Which jobs this node does.
    pub leases: Leases,
    /// The end.
    pub drain: Drain,
}

/// Where agents are told to connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Addresses of the agent port.
    pub api: Vec<String>,
    /// Addresses of hubs.
    pub hubs: Vec<String>,
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    /// Shares it.
    pub fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// The authority of this moment; who answers with what it issued asks once.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// Wall time.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }

    /// Ten random bytes: what an id of the protocol takes.
    pub fn random(&self) -> [u8; 10] {
        self.entropy.bytes()
    }

    /// A fresh id for something that the protocol does not know, such as a token.
    pub fn uuid(&self, now: Timestamp) -> Uuid {
        uuid::Builder::from_unix_timestamp_millis(now.as_millis(), &self.random()).into_uuid()
    }

    /// The configuration for agents, signed now.
    pub fn agent_config(&self, now: Timestamp) -> Result<CompactJws, JwsError> {
        let addresses = self.addresses.load();
        let config =
            AgentConfig { iat: now, api: addresses.api.clone(), hubs: addresses.hubs.clone() };
        config.sign(&self.command_key)
    }
}
