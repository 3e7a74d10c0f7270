//! The hub's own identity in files, exchanged while the hub runs, and with it the secret of tickets.
//!
//! Owns looking at the files, and the judgement whether agents would believe what they hold. What
//! they would not is refused, and the former identity stays. Must not write the files.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use runtime::files::read_bounded;
use runtime::tls::{self, Leaf, PemError, Tickets, TlsError, UnreadableLeaf};
use runtime::{Clock, Drain};
use rustls::ServerConfig;
use serde::Deserialize;

use crate::hub::agent_tls;
use crate::metrics;

#[cfg(test)]
mod tests;

/// Before its end, a certificate is warned of for so long.
const WARN_AHEAD: Duration = Duration::from_secs(14 * 86_400);
/// How often.
const WARN_EVERY: Duration = Duration::from_secs(86_400);
/// The largest file that is looked at, in bytes; what is larger is no identity.
const MAX_BYTES: usize = 256 * 1024;

/// Where the identity is: PEM files, as `tocsin issue-hub` makes them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityFiles {
    /// The hub's certificate, and after it those that agents may lack;
    /// `/etc/tocsin/hub.crt` by default.
    pub certificate: PathBuf,
    /// Its key; `/etc/tocsin/hub.key` by default.
    pub key: PathBuf,
    /// The authorities that devices, and this hub, have their certificates from;
    /// `/etc/tocsin/authority.pem` by default.
    pub authorities: PathBuf,
    /// How often the files are looked at; 10 s by default.
    #[serde(with = "runtime::config::duration")]
    pub reload_every: Duration,
}

impl Default for IdentityFiles {
    fn default() -> Self {
        Self {
            certificate: PathBuf::from("/etc/tocsin/hub.crt"),
            key: PathBuf::from("/etc/tocsin/hub.key"),
            authorities: PathBuf::from("/etc/tocsin/authority.pem"),
            reload_every: Duration::from_secs(10),
        }
    }
}

/// Why the files hold no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("a file of the hub's identity is not usable")]
    Files(#[from] PemError),
    /// Key and certificate do not fit, or agents would not believe them.
    #[error("the hub's identity does not serve")]
    Tls(#[from] TlsError),
    /// The certificate cannot be read.
    #[error("the hub's certificate cannot be read")]
    Unreadable(#[from] UnreadableLeaf),
    /// The certificate has no name by which agents could know the hub.
    #[error("the hub's certificate names no host")]
    Nameless,
}

/// What the files held.
struct Loaded {
    tls: ServerConfig,
    end_secs: u64,
}

impl IdentityFiles {
    fn load(&self, tickets: &Tickets, unix_secs: u64) -> Result<Loaded, IdentityError> {
        let identity = tls::read_identity(&self.certificate, &self.key)?;
        let authorities = tls::read_certificates(&self.authorities)?;
        let leaf = identity.chain.first().ok_or(UnreadableLeaf)?;
        let Leaf { hosts, validity, .. } = Leaf::read(leaf)?;
        let name = hosts.first().ok_or(IdentityError::Nameless)?;
        tls::check_server(&identity, &authorities, name, unix_secs)?;
        let end_secs = validity.not_after_secs;
        Ok(Loaded { tls: agent_tls(&identity, authorities, tickets)?, end_secs })
    }

    /// Changes whenever a file or the secret of tickets does, or ceases to be readable.
    fn fingerprint(&self, tickets: &Tickets) -> u64 {
        let mut hasher = DefaultHasher::new();
        match tickets.read() {
            Ok(secret) => secret.as_deref().hash(&mut hasher),
            Err(error) => error.to_string().hash(&mut hasher),
        }
        for path in [&self.certificate, &self.key, &self.authorities] {
            match read_bounded(path, MAX_BYTES) {
                Ok(bytes) => bytes.hash(&mut hasher),
                Err(error) => error.to_string().hash(&mut hasher),
            }
        }
        hasher.finish()
    }
}

/// The identity in use, and the look at its files.
#[derive(Debug)]
pub struct Watch {
    files: IdentityFiles,
    tickets: Tickets,
    clock: Clock,
    tls: Arc<ArcSwap<ServerConfig>>,
    fingerprint: u64,
    end_secs: u64,
    warned_at: Option<Instant>,
}

impl Watch {
    /// Reads the identity for the first time. Blocking, and small.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn start(
        files: IdentityFiles,
        tickets: Tickets,
        clock: Clock,
    ) -> Result<Self, IdentityError> {
        let fingerprint = files.fingerprint(&tickets);
        let Loaded { tls, end_secs } = files.load(&tickets, clock.unix_secs())?;
        let tls = Arc::new(ArcSwap::from_pointee(tls));
        metrics::certificate_end(end_secs);
        Ok(Self { files, tickets, clock, tls, fingerprint, end_secs, warned_at: None })
    }

    /// The TLS side of the agent port, for [`Deps`](crate::Deps); this keeps it up to date.
    #[must_use]
    pub fn tls(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.tls.clone()
    }

    /// Looks until the drain begins. Sessions stay whatever it finds.
    ///
    /// # Errors
    /// None.
    pub async fn run(mut self, drain: Drain) -> Result<(), Infallible> {
        loop {
            self.warn();
            tokio::select! {
                biased;
                () = drain.soft().cancelled() => return Ok(()),
                () = tokio::time::sleep(self.files.reload_every) => self.look().await,
            }
        }
    }

    async fn look(&mut self) {
        let (files, tickets) = (self.files.clone(), self.tickets.clone());
        let (known, now) = (self.fingerprint, self.clock.unix_secs());
        let looking = tokio::task::spawn_blocking(move || {
            let fingerprint = files.fingerprint(&tickets);
            // Whoever replaces a file between this and the loading is seen the next time.
            (fingerprint != known).then(|| (fingerprint, files.load(&tickets, now)))
        });
        let Ok(Some((fingerprint, loaded))) = looking.await else { return };
        self.fingerprint = fingerprint;
        metrics::identity_loaded(loaded.is_ok());
        match loaded {
            Ok(Loaded { tls, end_secs }) => {
                self.tls.store(Arc::new(tls));
                (self.end_secs, self.warned_at) = (end_secs, None);
                metrics::certificate_end(end_secs);
                tracing::info!(certificate.end_secs = end_secs, "hub has a new identity");
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "new identity is refused, the former one stays"
            ),
        }
    }

    fn warn(&mut self) {
        let now = self.clock.now();
        let left = Duration::from_secs(self.end_secs.saturating_sub(self.clock.unix_secs()));
        if left > WARN_AHEAD || self.warned_at.is_some_and(|at| now < at + WARN_EVERY) {
            return;
        }
        self.warned_at = Some(now);
        tracing::warn!(left_secs = left.as_secs(), "certificate of the hub ends soon");
    }
}
