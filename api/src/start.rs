//! The control plane as a value: started it is bound, drained it is gone.
//!
//! Owns the first start, which does everything by itself: data folder, authority, keys, trust
//! root, first operator. Reads no argument and no environment.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::response::IntoResponse as _;
use broker::Broker;
use protocol::action::Verb;
use protocol::id::{HubId, SessionId};
use protocol::state::Lane;
use protocol::time::Timestamp;
use protocol::trust::{CommandKey, RootKeys, SignedTrustRoot, TrustRoot};
use runtime::http::{ConnectionInfo, HttpLimits, serve_tls};
use runtime::lifecycle::{TaskError, Tasks};
use runtime::tls::Identity;
use runtime::{Clock, Drain, Entropy};
use serde_json::json;
use tokio::net::TcpListener;

use crate::app::{Addresses, App, Inner};
use crate::audit::{Actor, Kind};
use crate::auth::{self, Gate, Memory, Secret, Usage, guard};
use crate::commands::{Advanced, Intake, Sent};
use crate::config::{Config, ConfigError, Policy};
use crate::db::{Db, DbError};
use crate::deliver::Places;
use crate::housekeeping::{ListenerError, Listeners};
use crate::http::{Problem, body, layers};
use crate::installation::{InstallationError, Keys};
use crate::keys::{self, KeyFileError};
use crate::leases::{self, Leases};
use crate::limits::Limits;
use crate::outbox::Outbox;
use crate::pki::{self, Authority, PkiError, SERVER_LASTS};
use crate::reload::Reload;
use crate::sign_in::Provider;
use crate::sinks::{self, Sink};
use crate::vault::{self, First, Kms, UnlockError};
use crate::{
    checkpoints, cluster, collections, commands, enrollment, housekeeping, jobs, metrics, openapi,
    operators, trust,
};

/// How long tasks may take to end when one of them failed.
const FAILURE_GRACE: Duration = Duration::from_secs(5);
/// Rounds of the other jobs between two looks for revoked devices that are present.
const EVICTION_PERIODS: u32 = 5;
/// The same between two looks for texts that another key should seal.
const VAULT_PERIODS: u32 = 5;

/// How often it is written down when tokens were used.
const USAGE_PERIOD: Duration = Duration::from_secs(60);

/// What the control plane does not make itself.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The bus to the hubs.
    pub broker: Arc<dyn Broker>,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
    /// The end of the process; the control plane also ends by its own.
    pub drain: Drain,
}

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be meant.
    #[error("the configuration is not sound")]
    Config(#[from] ConfigError),
    /// The data folder cannot be made or read.
    #[error("the data folder {} is not usable", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[from] DbError),
    /// This node has not the keys of its store.
    #[error("this node has not the keys of its store")]
    Installation(#[from] InstallationError),
    /// What is secret in the store cannot be opened.
    #[error("the vault of the store does not open")]
    Vault(#[from] UnlockError),
    /// A key cannot be loaded.
    #[error("a key cannot be loaded")]
    Key(#[from] KeyFileError),
    /// The listeners' certificates cannot be made.
    #[error("the listeners have no certificate")]
    Listener(#[from] ListenerError),
    /// An address cannot be bound.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The first entries of the store cannot be written.
    #[error("the first entries of the store cannot be written: {0}")]
    FirstStart(#[from] Problem),
    /// The first trust root cannot be signed.
    #[error("the first trust root cannot be signed")]
    Trust(#[from] protocol::jws::JwsError),
}

/// What only the first start knows. Show it once.
#[derive(Debug)]
pub struct FirstStart {
    /// The first operator's API token, for everything, everywhere.
    pub token: Secret,
    /// The root key that signs versions of the trust root. Move it to an offline place.
    pub root_key: PathBuf,
}

/// A running control plane.
#[derive(Debug)]
pub struct Api {
    /// Where operators connect.
    pub operator_addr: SocketAddr,
    /// Where agents connect.
    pub agent_addr: SocketAddr,
    /// What only the first start knows.
    pub first_start: Option<FirstStart>,
    app: App,
    listeners: Arc<Listeners>,
    tasks: Tasks,
}

impl Api {
    /// Starts the control plane and returns it bound.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing keeps running then.
    pub async fn start(config: Config, deps: Deps) -> Result<Self, StartError> {
        Self::start_with(config, deps, None).await
    }

    /// The same, with a key service that wraps the data keys of the vault, in place of keys in this
    /// process.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing keeps running then.
    pub async fn start_with(
        config: Config,
        deps: Deps,
        kms: Option<Arc<dyn Kms>>,
    ) -> Result<Self, StartError> {
        config.check()?;
        metrics::describe();
        make_folder(&config.data_dir)?;
        let operator_listener = bind(config.operator_listen).await?;
        let agent_listener = bind(config.agent_listen).await?;
        let operator_addr = addr_of(&operator_listener, config.operator_listen)?;
        let agent_addr = addr_of(&agent_listener, config.agent_listen)?;
        let app = assemble((config, kms), deps, agent_addr).await?;
        let first_start = first_start(&app).await?;
        let listeners = Arc::new(Listeners::new(&app)?);
        let mut tasks = Tasks::new(app.drain.clone(), FAILURE_GRACE);
        serve(&app, &mut tasks, &listeners, operator_listener, agent_listener);
        run_jobs(&app, &mut tasks, listeners.clone());
        tracing::info!(%operator_addr, %agent_addr, "control plane started");
        Ok(Self { operator_addr, agent_addr, first_start, app, listeners, tasks })
    }

    /// What is shared inside, for whoever embeds the control plane.
    pub const fn app(&self) -> &App {
        &self.app
    }

    /// The routes for operators, for whoever asks them without a connection.
    #[cfg(feature = "fixture")]
    pub fn operator_router(&self) -> axum::Router {
        operator_router(&self.app)
    }

    /// Tells agents, from their next enrollment or renewal on, to connect to these hubs.
    pub fn advertise_hubs(&self, hubs: Vec<String>) {
        self.app
            .addresses
            .rcu(|addresses| Addresses { hubs: hubs.clone(), ..(**addresses).clone() });
    }

    /// A further token for everything, for whoever owns the data folder and lost the first.
    ///
    /// # Errors
    /// When the store is not available.
    pub async fn issue_owner_token(&self) -> Result<Secret, DbError> {
        let mut tx = self.app.db.write(Actor::System, self.app.now()).await?;
        let token = operators::create_owner_token(&self.app, &mut tx).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// A fresh identity for a hub. It verifies devices with [`Authority::certificate`].
    ///
    /// # Errors
    /// When a name is not usable in a certificate.
    pub fn issue_hub_identity(&self, hub: &HubId, names: &[String]) -> Result<Identity, PkiError> {
        let times = (self.app.now(), SERVER_LASTS);
        pki::issue_hub_identity(&self.app.authority(), hub, names, times)
    }

    /// For reading configuration and authority again while the control plane runs.
    pub fn reload(&self) -> Reload {
        Reload::new(self.app.clone(), self.listeners.clone())
    }

    /// The authority that devices, hubs and operators trust.
    pub fn authority(&self) -> Arc<Authority> {
        self.app.authority()
    }

    /// Runs until the drain, and then until everything has ended.
    ///
    /// # Errors
    /// The first failure of a task.
    pub async fn wait(self) -> Result<(), TaskError> {
        let outcome = self.tasks.wait().await;
        commands::flush_sent(&self.app).await;
        if let Err(error) = auth::write_down(&self.app).await {
            tracing::warn!(error = %error, "last uses of tokens were not written");
        }
        self.app.db.close().await;
        outcome
    }

    /// Begins the drain and waits for its end, at most for about `grace`.
    ///
    /// # Errors
    /// The first failure of a task.
    pub async fn drain(self, grace: Duration) -> Result<(), TaskError> {
        self.app.drain.begin(grace);
        self.wait().await
    }
}

fn make_folder(path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::Folder { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|source| StartError::Bind { addr, source })
}

fn addr_of(listener: &TcpListener, addr: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Bind { addr, source })
}

async fn assemble(
    (config, kms): (Config, Option<Arc<dyn Kms>>),
    deps: Deps,
    agent_addr: SocketAddr,
) -> Result<App, StartError> {
    let folder = &config.data_dir;
    let now = Timestamp::from_millis(deps.clock.unix_millis());
    let db = Db::open(&config.database, folder).await?;
    let named = trust::command_keys(&mut db.read().await?).await?;
    let Keys { authority, command_key } =
        Keys::settle(&db, folder, now, &deps.entropy, &named).await?;
    let vault = (&config.vault, folder.as_path());
    db.unlock(vault, kms, First::Make, (now, &deps.entropy)).await?;
    let holder = SessionId::new(now, deps.entropy.bytes()).as_uuid();
    let leases = Leases::new(node_name(&config), holder);
    let addresses =
        Addresses { api: agent_urls(&config, agent_addr), hubs: config.hub_urls.clone() };
    let limits = Limits::new(&config, &deps.clock);
    let policy = ArcSwap::from_pointee(Policy::of(&config));
    Ok(App::new(Inner {
        db,
        broker: deps.broker,
        clock: deps.clock,
        entropy: deps.entropy,
        authority: ArcSwap::from_pointee(authority),
        command_key,
        config,
        policy,
        limits,
        usage: Usage::default(),
        principals: Memory::default(),
        provider: Provider::default(),
        trust: trust::Known::default(),
        addresses: ArcSwap::from_pointee(addresses),
        checkpoint: ArcSwapOption::empty(),
        places: Places::default(),
        intake: Intake::new(),
        outbox: Outbox::new(),
        sent: Sent::default(),
        advanced: Advanced::default(),
        leases,
        drain: deps.drain.child(),
    }))
}

fn node_name(config: &Config) -> String {
    if !config.node.is_empty() {
        return config.node.clone();
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn agent_urls(config: &Config, agent_addr: SocketAddr) -> Vec<String> {
    if !config.agent_urls.is_empty() {
        return config.agent_urls.clone();
    }
    let name = config.server_names.first().map_or("localhost", String::as_str);
    let port = agent_addr.port();
    let is_v6 = name.parse::<std::net::Ipv6Addr>().is_ok();
    vec![if is_v6 { format!("https://[{name}]:{port}") } else { format!("https://{name}:{port}") }]
}

/// Writes the first trust root and the first operator, unless they are there.
async fn first_start(app: &App) -> Result<Option<FirstStart>, StartError> {
    let mut conn = app.db.read().await?;
    let is_first = trust::is_missing(&mut conn).await?;
    drop(conn);
    if !is_first {
        return Ok(None);
    }
    let now = app.now();
    let mut tx = app.db.write(Actor::System, now).await?;
    // Asked again inside the transaction: of several nodes exactly one does it.
    if !trust::is_missing(tx.conn()).await? {
        return Ok(None);
    }
    let root_path = app.config.data_dir.join("root.key");
    let root_key = keys::load_or_create(&root_path, &app.entropy)?;
    let verbs = Verb::ALL.iter().map(|verb| verb.as_str().to_owned()).collect();
    let root = TrustRoot {
        version: 1,
        issued_at: now,
        root: RootKeys { keys: vec![root_key.public().clone()], threshold: 1 },
        command_keys: vec![CommandKey { key: app.command_key.public().clone(), verbs }],
        approvers: Vec::new(),
        approvals: std::collections::BTreeMap::new(),
        protected_devices: std::collections::BTreeSet::new(),
        groups: std::collections::BTreeMap::new(),
        mass: None,
        break_glass: None,
        undo_secs: std::collections::BTreeMap::new(),
        thawed_at: None,
        authority_pins: std::collections::BTreeSet::new(),
    };
    let signed = SignedTrustRoot::sign(&root, &[&root_key])?;
    tx.append(Kind::StoreCreated, "store", json!({ "version": env!("CARGO_PKG_VERSION") }));
    trust::pin_first(&mut tx, signed).await?;
    let token = operators::create_owner_token(app, &mut tx).await?;
    tx.commit().await?;
    Ok(Some(FirstStart { token, root_key: root_path }))
}

fn serve(
    app: &App,
    tasks: &mut Tasks,
    listeners: &Listeners,
    operator_listener: TcpListener,
    agent_listener: TcpListener,
) {
    let operator = operator_router(app);
    let agent = enrollment::agent_router().merge(commands::agent_router());
    let agent = finish(app, agent.merge(collections::agent_router()));
    let limits = HttpLimits {
        name: "operator",
        max_connections: app.config.operator_connections,
        max_body_bytes: body::MAX_BODY,
        too_large: || body::too_large().into_response(),
        ..HttpLimits::default()
    };
    let (tls, drain) = (listeners.operator.clone(), app.drain.clone());
    tasks.spawn("operator port", async move {
        serve_tls(operator_listener, tls, limits, drain, move |_: ConnectionInfo| operator.clone())
            .await;
        Ok::<_, io::Error>(())
    });
    let limits = HttpLimits {
        name: "agent",
        max_connections: app.config.agent_connections,
        max_body_bytes: protocol::limits::EXCHANGE_BYTES,
        slowest_link: u32::try_from(protocol::limits::SLOWEST_LINK).ok().and_then(NonZeroU32::new),
        ..HttpLimits::default()
    };
    let (tls, drain) = (listeners.agent.clone(), app.drain.clone());
    tasks.spawn("agent port", async move {
        serve_tls(agent_listener, tls, limits, drain, move |_: ConnectionInfo| agent.clone()).await;
        Ok::<_, io::Error>(())
    });
}

/// The routes for operators, with their gate.
fn operator_router(app: &App) -> axum::Router {
    let (routes, document) = openapi::operator_routes();
    let gate = axum::middleware::from_fn_with_state((app.clone(), Gate::new(&document)), guard);
    finish(app, routes.layer(gate))
}

/// What wraps every route of a listener.
fn finish(app: &App, router: axum::Router<App>) -> axum::Router {
    router
        .fallback(async || Problem::not_found("route"))
        .layer(axum::middleware::from_fn_with_state(app.clone(), layers::wrap))
        .with_state(app.clone())
}

fn run_jobs(app: &App, tasks: &mut Tasks, listeners: Arc<Listeners>) {
    let period = app.config.job_period;
    tasks.spawn("urgent orders", commands::write_orders(app.clone(), Lane::Urgent));
    tasks.spawn("bulk orders", commands::write_orders(app.clone(), Lane::Bulk));
    tasks.spawn("urgent dispatch", commands::dispatch(app.clone(), Lane::Urgent));
    tasks.spawn("bulk dispatch", commands::dispatch(app.clone(), Lane::Bulk));
    tasks.spawn("sent", commands::write_sent(app.clone()));
    tasks.spawn("upstream", commands::read_upstream(app.clone()));
    let events = app.db.clone().follow_head(app.drain.clone(), app.entropy.clone());
    tasks.spawn("events of other nodes", events);
    tasks.spawn("claims on jobs", leases::keep(app.clone()));
    let redelivery = jobs::Job { name: "redelivery", period };
    tasks.spawn("redelivery", jobs::run_once(app.clone(), redelivery, commands::redeliver));
    let large = jobs::Job { name: "large orders", period };
    tasks.spawn("large orders", jobs::run_once(app.clone(), large, commands::prepare));
    let expiry = jobs::Job { name: "expiry", period };
    tasks.spawn("expiry", jobs::run_once(app.clone(), expiry, commands::expire));
    let waves = jobs::Job { name: "first waves", period };
    tasks.spawn("first waves", jobs::run_once(app.clone(), waves, commands::waves));
    let freeze = jobs::Job { name: commands::FREEZE_JOB, period };
    tasks.spawn("freeze", jobs::run_once(app.clone(), freeze, commands::freeze));
    let eviction = jobs::Job { name: "eviction", period: period * EVICTION_PERIODS };
    tasks.spawn("eviction", jobs::run_once(app.clone(), eviction, enrollment::evict));
    let forgetting = jobs::Job { name: collections::JOB, ..eviction };
    tasks.spawn("collections", jobs::run_once(app.clone(), forgetting, collections::forget));
    for sink in Sink::ALL.into_iter().filter(|sink| sink.is_configured(&app.config.sinks)) {
        tasks.spawn(sink.name(), sinks::feed(app.clone(), sink));
    }
    let marking = jobs::Job { name: "checkpoints", period: app.config.checkpoint_every };
    tasks.spawn("checkpoints", jobs::run_once(app.clone(), marking, checkpoints::sign));
    let learning = jobs::Job { name: "newest checkpoint", ..marking };
    tasks.spawn("newest checkpoint", jobs::run(app.clone(), learning, checkpoints::learn));
    let cluster = jobs::Job { name: "cluster", period: cluster::PERIOD };
    tasks.spawn("cluster", jobs::run(app.clone(), cluster, cluster::watch));
    let tidy = jobs::Job { name: "tidying", period: Duration::from_secs(3600) };
    tasks.spawn("tidying", jobs::run_once(app.clone(), tidy, housekeeping::tidy));
    let allowances = jobs::Job { name: "allowances", ..tidy };
    let tidy_limits = |app| std::future::ready(Ok(housekeeping::tidy_limits(&app)));
    tasks.spawn("allowances", jobs::run(app.clone(), allowances, tidy_limits));
    let sealing = jobs::Job { name: vault::JOB, period: period * VAULT_PERIODS };
    tasks.spawn("vault", jobs::run(app.clone(), sealing, vault::keep));
    let usage = jobs::Job { name: "use of tokens", period: USAGE_PERIOD };
    tasks.spawn("use of tokens", jobs::run(app.clone(), usage, housekeeping::write_usage));
    let renewal = jobs::Job { name: "renewal", period: SERVER_LASTS / 3 };
    let renew = move |app: App| {
        let outcome = listeners.renew(&app).map_err(|error| Problem::internal(&error));
        std::future::ready(outcome.map(|()| jobs::Found::Nothing))
    };
    tasks.spawn("renewal", jobs::run(app.clone(), renewal, renew));
}
