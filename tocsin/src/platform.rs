//! The whole platform in one process: control plane, one hub and the bus between them.
//!
//! Owns the wiring and nothing else: every role is started by the constructor that it has on its
//! own, and none of them knows that it is embedded.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::app::App;
use api::pki::SERVER_LASTS;
use api::{Api, FirstStart};
use arc_swap::ArcSwap;
use broker::{Broker, MemoryBroker};
use protocol::id::HubId;
use push_hub::Hub;
use runtime::admin::{Admin, Readiness};
use runtime::lifecycle::{TaskError, Tasks};
use runtime::observability::ObservabilityConfig;
use runtime::tls::{self, Tickets, TlsError};
use runtime::{Clock, Drain, Entropy};
use rustls::ServerConfig;
use serde::Deserialize;

use self::reload::Reload;
use crate::roles::{ADMIN, AdminError, FAILURE_GRACE, start_admin};

pub mod reload;

/// How the platform runs. Every setting has a default that suits one machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What to log.
    pub log: ObservabilityConfig,
    /// Where `/healthz`, `/readyz` and `/metrics` are served, without TLS.
    pub admin_listen: SocketAddr,
    /// The control plane. Its `data_dir` is that of the platform.
    pub api: api::Config,
    /// The hub.
    pub hub: push_hub::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: ObservabilityConfig::default(),
            admin_listen: ADMIN,
            api: api::Config { data_dir: PathBuf::from(".tocsin"), ..api::Config::default() },
            hub: push_hub::Config::default(),
        }
    }
}

/// Why the platform did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The control plane did not.
    #[error("the control plane did not start")]
    Api(#[from] api::StartError),
    /// The hub did not.
    #[error("the hub did not start")]
    Hub(#[from] push_hub::StartError),
    /// The hub has no certificate.
    #[error("the hub has no certificate")]
    Certificate(#[from] api::pki::PkiError),
    /// The hub's TLS side cannot be made.
    #[error("the hub's TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// The admin port cannot be bound.
    #[error("the admin port is not there")]
    Admin(#[from] AdminError),
}

/// A running platform.
#[derive(Debug)]
pub struct Platform {
    /// Where operators connect.
    pub operator_addr: SocketAddr,
    /// Where agents enroll and check in.
    pub api_agent_addr: SocketAddr,
    /// Where agents hold their sessions.
    pub hub_agent_addr: SocketAddr,
    /// Where it can be observed.
    pub admin_addr: SocketAddr,
    /// The authority of all certificates, and the one before or after it if there is, PEM.
    pub authority_pem: String,
    /// What only the first start knows.
    pub first_start: Option<FirstStart>,
    reload: Reload,
    drain: Drain,
    tasks: Tasks,
    _admin: Admin,
}

impl Platform {
    /// Starts the control plane, then the hub with a certificate from its authority.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing keeps running then.
    pub async fn start(config: Config, drain: Drain) -> Result<Self, StartError> {
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new(clock.clone()));
        let readiness = Readiness::new(&["control_plane"]);
        let admin = start_admin(config.admin_listen, &readiness, &drain).await?;

        let server_names = config.api.server_names.clone();
        let advertised = config.api.hub_urls.clone();
        let deps = api::Deps {
            broker: broker.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            drain: drain.child(),
        };
        let mut api = Api::start(config.api.clone(), deps).await?;

        let tickets = Tickets::new(config.hub.tickets.clone(), clock.clone(), entropy.clone());
        let hub = config.hub.name.clone();
        let certificates = HubCertificates::new(api.app().clone(), server_names, (hub, tickets))?;
        let deps = push_hub::Deps {
            broker,
            clock,
            entropy,
            tls: certificates.tls.clone(),
            readiness: readiness.clone(),
            drain: drain.child(),
        };
        let hub = Hub::start(config.hub.clone(), deps).await?;
        if advertised.is_empty() {
            api.advertise_hubs(vec![url(&certificates.names, hub.agent_addr())]);
        }
        readiness.set("control_plane", true);

        let (operator_addr, api_agent_addr) = (api.operator_addr, api.agent_addr);
        let (authority_pem, first_start) = (api.authority().trusted_pem(), api.first_start.take());
        let hub_agent_addr = hub.agent_addr();
        let mut tasks = Tasks::new(drain.clone(), FAILURE_GRACE);
        let certificates = Arc::new(certificates);
        let reload = Reload::new(config, (api.reload(), hub.reload()), certificates.clone());
        tasks.spawn("certificates", renew(certificates, drain.clone()));
        tasks.spawn("control plane", api.wait());
        tasks.spawn("hub", async move {
            hub.finished().await;
            Ok::<(), std::convert::Infallible>(())
        });
        Ok(Self {
            operator_addr,
            api_agent_addr,
            hub_agent_addr,
            admin_addr: admin.addr(),
            authority_pem,
            first_start,
            reload,
            drain,
            tasks,
            _admin: admin,
        })
    }

    /// For reading configuration and authority again while it runs.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Runs until the drain, and then until everything has ended.
    ///
    /// # Errors
    /// The first failure of a role.
    pub async fn wait(self) -> Result<(), TaskError> {
        self.tasks.wait().await
    }

    /// Begins the drain and waits for its end.
    ///
    /// # Errors
    /// The first failure of a role.
    pub async fn drain(self, grace: Duration) -> Result<(), TaskError> {
        self.drain.begin(grace);
        self.wait().await
    }
}

/// The first server name, with the port that was bound.
fn url(names: &[String], bound: SocketAddr) -> String {
    let name = names.first().map_or("localhost", String::as_str);
    let host = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    format!("https://{host}:{}", bound.port())
}

/// The hub's certificates: for the platform's names, from the platform's authority.
#[derive(Debug)]
struct HubCertificates {
    app: App,
    names: Vec<String>,
    hub: HubId,
    tickets: Tickets,
    tls: Arc<ArcSwap<ServerConfig>>,
    /// One replaces them at a time: the last word is the newest authority's.
    replacing: Mutex<()>,
}

impl HubCertificates {
    fn new(
        app: App,
        names: Vec<String>,
        (hub, tickets): (HubId, Tickets),
    ) -> Result<Self, StartError> {
        let tls = Arc::new(ArcSwap::from_pointee(issue(&app, &names, (&hub, &tickets))?));
        Ok(Self { app, names, hub, tickets, tls, replacing: Mutex::default() })
    }

    /// Puts a fresh one in for new connections; sessions stay.
    fn replace(&self) -> Result<(), StartError> {
        let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let config = issue(&self.app, &self.names, (&self.hub, &self.tickets))?;
        self.tls.store(Arc::new(config));
        Ok(())
    }
}

fn issue(
    app: &App,
    names: &[String],
    (hub, tickets): (&HubId, &Tickets),
) -> Result<ServerConfig, StartError> {
    let (authority, times) = (app.authority(), (app.now(), SERVER_LASTS));
    let identity = api::pki::issue_hub_identity(&authority, hub, names, times)?;
    Ok(push_hub::agent_tls(&identity, authority.trusted(), tickets)?)
}

/// Replaces the hub's certificate long before its end.
async fn renew(certificates: Arc<HubCertificates>, drain: Drain) -> Result<(), StartError> {
    loop {
        tokio::select! {
            () = drain.soft().cancelled() => return Ok(()),
            () = tokio::time::sleep(SERVER_LASTS / 3) => {}
        }
        certificates.replace()?;
    }
}

/// Installs the one TLS provider, for the libraries that ask the process for it.
pub fn install_tls() {
    tls::install_provider();
}
