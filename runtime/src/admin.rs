//! The admin port: is the process alive, is it ready, what does it count.
//!
//! Owns `/healthz`, `/readyz` and `/metrics` over plain HTTP, for loopback. Must not offer
//! anything that changes state.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::http::{HttpLimits, serve_plain};
use crate::lifecycle::Drain;
use crate::observability::PrometheusHandle;

#[cfg(test)]
mod tests;

/// How often the recorder folds its samples; without it histograms grow until the next scrape.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// Named conditions that must all hold for the process to be ready. Cloning is cheap, and clones
/// are the same conditions.
#[derive(Clone, Debug)]
pub struct Readiness {
    conditions: Arc<watch::Sender<BTreeMap<&'static str, bool>>>,
}

impl Readiness {
    /// Conditions that do not hold yet.
    #[must_use]
    pub fn new(conditions: &[&'static str]) -> Self {
        let initial = conditions.iter().map(|name| (*name, false)).collect();
        Self { conditions: Arc::new(watch::Sender::new(initial)) }
    }

    /// Says whether a condition holds; a new name adds a condition.
    pub fn set(&self, name: &'static str, holds: bool) {
        self.conditions.send_if_modified(|conditions| {
            conditions.insert(name, holds).is_none_or(|held| held != holds)
        });
    }

    /// Whether every condition holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        all_hold(&self.conditions.borrow())
    }

    /// The conditions that do not hold, by name.
    #[must_use]
    pub fn unmet(&self) -> Vec<&'static str> {
        let conditions = self.conditions.borrow();
        conditions.iter().filter(|(_, holds)| !**holds).map(|(name, _)| *name).collect()
    }

    /// Waits until every condition holds.
    pub async fn ready(&self) {
        let mut changes = self.conditions.subscribe();
        changes.wait_for(all_hold).await.expect("self keeps the sender alive");
    }
}

fn all_hold(conditions: &BTreeMap<&'static str, bool>) -> bool {
    conditions.values().all(|holds| *holds)
}

/// The running admin port. Dropping it closes the port.
#[derive(Debug)]
pub struct Admin {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    readiness: Readiness,
    metrics: PrometheusHandle,
    drain: Drain,
}

impl Admin {
    /// Serves on `listener` until the hard token of `drain`: during the drain it answers that the
    /// process is draining. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(
        listener: TcpListener,
        readiness: Readiness,
        metrics: PrometheusHandle,
        drain: Drain,
    ) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let limits = HttpLimits { name: "admin", max_connections: 32, ..HttpLimits::default() };
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_up(metrics.clone(), drain.clone()));
        let last = drain.last();
        let router = router(Shared { readiness, metrics, drain });
        tasks.spawn(serve_plain(listener, limits, last, move |_| router.clone()));
        Ok(Self { addr, _tasks: tasks })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(shared)
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    if shared.drain.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    match shared.readiness.unmet().as_slice() {
        [] => (StatusCode::OK, "ready\n".to_owned()),
        unmet => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", unmet.join(", "))),
    }
}

async fn render(State(shared): State<Shared>) -> String {
    shared.metrics.render()
}

async fn keep_up(metrics: PrometheusHandle, drain: Drain) {
    while tokio::time::timeout(UPKEEP_PERIOD, drain.hard().cancelled()).await.is_err() {
        metrics.run_upkeep();
    }
}
