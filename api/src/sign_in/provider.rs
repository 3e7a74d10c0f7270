//! What the provider publishes: where it is asked, and with which keys it signs.
//!
//! Owns reading it and how long it is believed. A key that is not known has it read again, at most
//! every few seconds: whoever makes up key ids does not make this node ask the provider for each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::Oidc;
use super::id_token::Jwk;
use crate::app::App;
use crate::dial::{self, DialError, Url};
use crate::http::{Problem, ProblemKind};

/// Where a provider describes itself (OpenID Connect Discovery 1.0, 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Bytes of either document.
const MAX_BYTES: usize = 256 * 1024;
/// Keys that are looked at.
const MAX_KEYS: usize = 64;
/// For both documents together.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long they are believed without being read again.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// How long they are believed while the provider does not answer.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two readings.
const PAUSE: Duration = Duration::from_secs(10);

/// The provider as it was read last.
#[derive(Debug, Default)]
pub struct Provider(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: Option<(Arc<Published>, Instant)>,
    tried: Option<Instant>,
}

/// What a provider publishes.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) endpoints: Endpoints,
    pub(super) keys: Vec<Jwk>,
}

/// The part of the discovery document that is used.
#[derive(Debug, Deserialize)]
pub(super) struct Endpoints {
    issuer: String,
    pub(super) authorization_endpoint: String,
    pub(super) token_endpoint: String,
    #[serde(default)]
    pub(super) device_authorization_endpoint: Option<String>,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

impl Provider {
    /// What it publishes, in which `suffices` finds what it needs if it is there at all.
    pub(super) async fn published(
        &self,
        app: &App,
        suffices: impl Fn(&Published) -> bool + Send,
    ) -> Result<Arc<Published>, Problem> {
        let mut state = self.0.lock().await;
        let now = app.clock.now();
        let age = |at: &Instant| now.saturating_duration_since(*at);
        let known = state.known.as_ref().filter(|(_, at)| age(at) < STALE).cloned();
        let is_good =
            |(published, at): &(Arc<Published>, Instant)| age(at) < FRESH && suffices(published);
        let may_ask = state.tried.as_ref().is_none_or(|at| age(at) >= PAUSE);
        match known {
            Some(known) if is_good(&known) || !may_ask => Ok(known.0),
            None if !may_ask => Err(unavailable()),
            known => {
                state.tried = Some(now);
                let reading = tokio::time::timeout(DEADLINE, read(&app.config.oidc));
                match reading.await.unwrap_or(Err(DialError::Late)) {
                    Ok(published) => {
                        let published = Arc::new(published);
                        state.known = Some((published.clone(), now));
                        Ok(published)
                    }
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "provider unread");
                        known.map(|known| known.0).ok_or_else(unavailable)
                    }
                }
            }
        }
    }
}

fn unavailable() -> Problem {
    Problem::new(ProblemKind::Unavailable, "the sign-in provider does not answer")
}

async fn read(oidc: &Oidc) -> Result<Published, DialError> {
    let wrong = |what: &str| DialError::Answer(what.to_owned());
    let url = |text: &str| Url::parse(text).ok_or_else(|| wrong("an address that is not https"));
    let place = format!("{}{DISCOVERY}", oidc.issuer.trim_end_matches('/'));
    let document = dial::get(oidc.trusting(), &url(&place)?, MAX_BYTES).await?;
    let endpoints: Endpoints =
        serde_json::from_slice(&document).map_err(|_| wrong("no discovery document"))?;
    if endpoints.issuer != oidc.issuer {
        return Err(wrong("in the name of another issuer"));
    }
    url(&endpoints.authorization_endpoint)?;
    url(&endpoints.token_endpoint)?;
    endpoints.device_authorization_endpoint.as_deref().map(url).transpose()?;
    let keys = dial::get(oidc.trusting(), &url(&endpoints.jwks_uri)?, MAX_BYTES).await?;
    let keys: Jwks = serde_json::from_slice(&keys).map_err(|_| wrong("no set of keys"))?;
    let keys = keys.keys.into_iter().take(MAX_KEYS);
    let keys = keys.filter_map(|key| serde_json::from_value(key).ok()).collect();
    Ok(Published { endpoints, keys })
}
