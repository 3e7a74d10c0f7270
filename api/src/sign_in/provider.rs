//! The keys with which the provider signs.
//!
//! Owns reading them and how long they are believed. A key that is not known has them read again, at most
//! every few seconds: whoever makes up key ids does not make this node ask the provider for each. Of those
//! whose key is known one at a time asks again, once an hour, and waits for a provider that hangs a moment only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtime::Clock;
use serde::Deserialize;
use serde_json::Value;

use super::Oidc;
use super::id_token::Jwk;
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
/// The same, while there are keys that suffice.
const SHORT: Duration = Duration::from_secs(2);
/// How long they are believed without being read again.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// How long they are believed while the provider does not answer.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two readings.
const PAUSE: Duration = Duration::from_secs(10);

/// The provider as it was read last.
#[derive(Debug, Default)]
pub struct Provider {
    state: Mutex<State>,
    /// Held by whoever reads: one at a time, and nobody who has what they need waits for it.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    known: Option<(Arc<Vec<Jwk>>, Instant)>,
    tried: Option<Instant>,
}

/// The part of the discovery document that is used.
#[derive(Debug, Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

impl Provider {
    /// The keys with which it signs, in which `suffices` finds what it needs if it is there at all.
    pub(super) async fn keys(
        &self,
        (oidc, clock): (&Oidc, &Clock),
        suffices: impl Fn(&[Jwk]) -> bool + Send,
    ) -> Result<Arc<Vec<Jwk>>, Problem> {
        if let Some(keys) = self.known(clock, FRESH).filter(|keys| suffices(keys)) {
            return Ok(keys);
        }
        let _reading = match self.reading.try_lock() {
            Ok(reading) => reading,
            Err(_) => match self.known(clock, STALE).filter(|keys| suffices(keys)) {
                Some(keys) => return Ok(keys),
                None => self.reading.lock().await,
            },
        };
        // Whoever waited finds what was read meanwhile, and does not ask for it again.
        let known = self.known(clock, STALE);
        if !self.may_ask(clock) {
            return known.ok_or_else(unavailable);
        }
        let has_enough = known.as_ref().is_some_and(|keys| suffices(keys));
        let deadline = if has_enough { SHORT } else { DEADLINE };
        let read = tokio::time::timeout(deadline, read(oidc)).await;
        match read.unwrap_or(Err(DialError::Late)) {
            Ok(keys) => {
                let keys = Arc::new(keys);
                self.lock().known = Some((keys.clone(), clock.now()));
                Ok(keys)
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "provider unread");
                known.ok_or_else(unavailable)
            }
        }
    }

    /// What was read, unless that is so long ago.
    fn known(&self, clock: &Clock, within: Duration) -> Option<Arc<Vec<Jwk>>> {
        let state = self.lock();
        let (keys, at) = state.known.as_ref()?;
        (clock.now().saturating_duration_since(*at) < within).then(|| keys.clone())
    }

    /// Whether the provider may be asked now; whoever is told so asks.
    fn may_ask(&self, clock: &Clock) -> bool {
        let (mut state, now) = (self.lock(), clock.now());
        let may = state.tried.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE);
        if may {
            state.tried = Some(now);
        }
        may
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable() -> Problem {
    Problem::new(ProblemKind::Unavailable, "the sign-in provider does not answer")
}

async fn read(oidc: &Oidc) -> Result<Vec<Jwk>, DialError> {
    let wrong = |what: &str| DialError::Answer(what.to_owned());
    let url = |text: &str| Url::parse(text).ok_or_else(|| wrong("an address that is not https"));
    let place = format!("{}{DISCOVERY}", oidc.issuer.trim_end_matches('/'));
    let document = dial::get(oidc.trusting(), &url(&place)?, MAX_BYTES).await?;
    let discovery: Discovery =
        serde_json::from_slice(&document).map_err(|_| wrong("no discovery document"))?;
    if discovery.issuer != oidc.issuer {
        return Err(wrong("in the name of another issuer"));
    }
    let keys = dial::get(oidc.trusting(), &url(&discovery.jwks_uri)?, MAX_BYTES).await?;
    let keys: Jwks = serde_json::from_slice(&keys).map_err(|_| wrong("no set of keys"))?;
    let keys = keys.keys.into_iter().take(MAX_KEYS);
    Ok(keys.filter_map(|key| serde_json::from_value(key).ok()).collect())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn whoever_has_a_known_key_does_not_wait_for_a_provider_that_hangs() {
        let (clock, hand) = Clock::manual();
        let (provider, oidc) = (Provider::default(), Oidc::default());
        provider.lock().known = Some((Arc::default(), clock.now()));
        let _hangs = provider.reading.try_lock().unwrap();
        let keys = |suffices: bool| {
            provider
                .keys((&oidc, &clock), move |_| suffices)
                .now_or_never()
                .map(|keys| keys.is_ok())
        };
        assert_eq!(keys(true), Some(true));
        assert_eq!(keys(false), None, "another key may be in what is read now");
        hand.advance(FRESH);
        assert_eq!(keys(true), Some(true), "also when it is time to read them again");
        hand.advance(STALE);
        assert_eq!(keys(true), None, "but not for ever");
    }
}
