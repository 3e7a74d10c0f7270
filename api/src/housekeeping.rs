//! Tidying: old idempotency answers go, server certificates are renewed in time.
//!
//! Owns no feature's data; wakes by period alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use runtime::tls::{self, ClientAuth};
use rustls::ServerConfig;

use crate::app::App;
use crate::auth;
use crate::budgets;
use crate::http::{Problem, idempotency};
use crate::jobs::Found;
use crate::leases::Lease;
use crate::pki::{Authority, PkiError};

/// How long an answer is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// The TLS settings of the two listeners, replaced when the certificate is renewed.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) operator: Arc<ArcSwap<ServerConfig>>,
    pub(crate) agent: Arc<ArcSwap<ServerConfig>>,
    /// One replaces them at a time: the last word is the newest authority's.
    replacing: Mutex<()>,
}

/// Why the listeners' settings could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The certificate could not be made.
    #[error("no server certificate")]
    Certificate(#[from] PkiError),
    /// It is not usable.
    #[error("no usable tls settings")]
    Tls(#[from] tls::TlsError),
}

impl Listeners {
    /// Settings with a fresh certificate.
    pub(crate) fn new(app: &App) -> Result<Self, ListenerError> {
        let (operator, agent) = configs(app, &app.authority())?;
        let swap = |config| Arc::new(ArcSwap::from_pointee(config));
        let replacing = Mutex::default();
        Ok(Self { operator: swap(operator), agent: swap(agent), replacing })
    }

    /// Puts a fresh certificate in for new connections.
    pub(crate) fn renew(&self, app: &App) -> Result<(), ListenerError> {
        let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.replace(configs(app, &app.authority())?);
        Ok(())
    }

    /// Puts another authority in the place of the present one, for whoever is issued a certificate from
    /// now on and for new connections; those that stand stay.
    pub(crate) fn follow(&self, app: &App, next: Authority) -> Result<(), ListenerError> {
        let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let configs = configs(app, &next)?;
        app.authority.store(Arc::new(next));
        self.replace(configs);
        Ok(())
    }

    /// Whether another authority serves.
    pub(crate) fn try_out(&self, app: &App, next: &Authority) -> Result<(), ListenerError> {
        configs(app, next).map(drop)
    }

    fn replace(&self, (operator, agent): (ServerConfig, ServerConfig)) {
        self.operator.store(Arc::new(operator));
        self.agent.store(Arc::new(agent));
    }
}

fn configs(
    app: &App,
    authority: &Authority,
) -> Result<(ServerConfig, ServerConfig), ListenerError> {
    let identity = authority.issue_server(&app.config.server_names, app.now())?;
    let authorities = authority.trusted();
    let operator = tls::server_config(&identity, ClientAuth::None, &[b"http/1.1"])?;
    // Every handler judges the time of a certificate; the one that renews has a grace time.
    let agent_auth = ClientAuth::OptionalPastEnd(authorities);
    let agent = tls::server_config(&identity, agent_auth, &[b"http/1.1"])?;
    Ok((operator, agent))
}

/// Forgets allowances that are full again: each node has its own.
pub(crate) fn tidy_limits(app: &App) -> Found {
    app.limits.tidy();
    Found::Nothing
}

/// Writes down when tokens were used last: each node knows of its own requests.
pub(crate) async fn write_usage(app: App) -> Result<Found, Problem> {
    auth::write_down(&app).await?;
    Ok(Found::Nothing)
}

/// Forgets answers that nobody repeats any more.
pub(crate) async fn tidy(app: App, lease: Lease) -> Result<Found, Problem> {
    let Some(mut tx) = lease.write(&app, app.now()).await? else { return Ok(Found::Nothing) };
    let before = tx.now().minus(REMEMBERED);
    idempotency::forget(&mut tx, before).await?;
    budgets::forget(&mut tx).await?;
    tx.commit().await?;
    Ok(Found::Nothing)
}
