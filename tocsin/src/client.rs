//! The operator API as a value: typed requests, bounded retries, problems as errors.
//!
//! Owns the connection and the idempotency of creates: a key is drawn per request and kept on its
//! retries, so that a lost answer, or a code that is asked for, never makes a second order. Prints
//! nothing.

use std::time::Duration;

use api::http::Paged;
use api::http::problem::ProblemBody;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use runtime::{Backoff, Entropy, tls};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use zeroize::Zeroizing;

use crate::profile::{Profile, ServerTrust};

/// Asks a person for a code of their second factor; `true`: the former one was not taken. `None`
/// when nobody is there to be asked.
pub type AskCode = fn(bool) -> Option<Zeroizing<String>>;

pub use self::error::ClientError;

mod error;
pub mod sse;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A stream says that it lives every 15 seconds.
const STREAM_SILENCE: Duration = Duration::from_secs(45);
/// How often a request is made at most.
const ATTEMPTS: u32 = 4;
const RETRY_BASE: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(2);
/// Codes that are asked for within one request.
const CODES: u32 = 3;
/// Items of a page that is asked for.
const PAGE: usize = 500;
/// Items of a whole list at most: the memory of whoever runs the command has an end.
const MAX_ITEMS: usize = 100_000;
/// Bytes of one answer that is read whole.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A connection to one control plane.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
    entropy: Entropy,
    ask_code: Option<AskCode>,
}

impl Client {
    /// A client of the control plane that the profile names. Connects on the first request.
    pub fn new(profile: &Profile, entropy: Entropy) -> Result<Self, ClientError> {
        tls::install_provider();
        let alpn: &[&[u8]] = &[b"http/1.1"];
        let config = match &profile.trust {
            ServerTrust::Ca(pem) => {
                let authorities = CertificateDer::pem_slice_iter(pem.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|_| ClientError::Authority)?;
                tls::client_config(&authorities, None, alpn)
            }
            ServerTrust::Pin(pin) => {
                let pin = pin.parse().map_err(|_| ClientError::Authority)?;
                tls::pinned_client_config(pin, alpn)
            }
        };
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config.map_err(ClientError::Tls)?)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("tocsin/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ClientError::Transport { base: profile.url.clone(), source: error })?;
        let base = profile.url.trim_end_matches('/').to_owned();
        Ok(Self { http, base, token: profile.token.clone(), entropy, ask_code: None })
    }

    /// The same, asking so for a code where the control plane demands one.
    pub fn asking(self, ask_code: AskCode) -> Self {
        Self { ask_code: Some(ask_code), ..self }
    }

    /// The address that requests go to.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Reads one thing.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.send(|| self.request(Method::GET, path)).await?;
        self.decode(response).await
    }

    /// Reads a whole list, page by page. `query` is what follows the `?`, without a cursor.
    pub async fn all<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        first_after: Option<String>,
    ) -> Result<Vec<T>, ClientError> {
        let mut items = Vec::new();
        let mut after = first_after;
        loop {
            let page: Paged<T> = self.page(path, query, after.as_deref()).await?;
            items.extend(page.items);
            match page.next {
                Some(next) if items.len() < MAX_ITEMS => after = Some(next),
                Some(_) | None => return Ok(items),
            }
        }
    }

    async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        after: Option<&str>,
    ) -> Result<Paged<T>, ClientError> {
        let mut pairs: Vec<(&str, &str)> =
            query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let limit = PAGE.to_string();
        pairs.push(("limit", &limit));
        pairs.extend(after.map(|after| ("after", after)));
        let path = format!("{path}?{}", encode_pairs(&pairs));
        self.get(&path).await
    }

    /// Makes something, at most once however often it is retried.
    pub async fn create<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let key: String = self.entropy.bytes::<16>().iter().map(|b| format!("{b:02x}")).collect();
        let response = self
            .send(|| self.request(Method::POST, path).header("idempotency-key", &key).json(body))
            .await?;
        self.decode(response).await
    }

    /// Does something that may be repeated without harm, such as to withdraw.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let response = self.send(|| self.request(Method::POST, path).json(body)).await?;
        self.decode(response).await
    }

    /// As [`post`](Self::post), without body either way.
    pub async fn post_empty(&self, path: &str) -> Result<(), ClientError> {
        self.send(|| self.request(Method::POST, path)).await.map(drop)
    }

    /// Takes something away.
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(|| self.request(Method::DELETE, path)).await.map(drop)
    }

    /// Reads bytes.
    pub async fn bytes(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let response = self.send(|| self.request(Method::GET, path)).await?;
        self.read(response).await
    }

    /// Reads an answer of any length, piece by piece.
    pub async fn download(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), ClientError> {
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token);
        let mut response = self.judge(request.send().await).await?;
        while let Some(bytes) = self.transport(response.chunk().await)? {
            each(&bytes);
        }
        Ok(())
    }

    /// Opens a stream of events, after the one of that number.
    pub async fn stream(
        &self,
        path: &str,
        after: Option<&str>,
    ) -> Result<sse::Stream, ClientError> {
        let mut request = self
            .http
            .get(format!("{}{path}", self.base))
            .bearer_auth(&self.token)
            .header("accept", "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let response = self.judge(request.send().await).await?;
        Ok(sse::Stream::new(response, STREAM_SILENCE))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&self.token)
            .timeout(REQUEST_TIMEOUT)
    }

    /// Sends, and once more as it was when a second factor is demanded and given.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, ClientError> {
        match self.send_patiently(&request).await {
            Err(demand) if demand.problem_kind() == Some("step-up-required") => {
                if self.step_up().await? {
                    self.send_patiently(&request).await
                } else {
                    Err(demand)
                }
            }
            outcome => outcome,
        }
    }

    /// Asks for a code and hands it in; `false` when nobody is there to be asked.
    pub async fn step_up(&self) -> Result<bool, ClientError> {
        let Some(ask) = self.ask_code else { return Ok(false) };
        let mut refusal = None;
        for _ in 0..CODES {
            let Some(code) = ask(refusal.is_some()) else { break };
            let body = json!({ "code": code.trim() });
            let request = || self.request(Method::POST, "/v1/step-ups").json(&body);
            match self.send_patiently(&request).await {
                Ok(_) => return Ok(true),
                Err(error) if error.problem_kind() == Some("invalid") => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        refusal.map_or(Ok(false), Err)
    }

    /// Sends until there is an answer that stands, a bounded number of times.
    async fn send_patiently(
        &self,
        request: &impl Fn() -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        loop {
            match self.judge(request().send().await).await {
                Err(error) if error.is_transient() && backoff.attempts() + 1 < ATTEMPTS => {
                    let pause = backoff.next(self.entropy.next_u64());
                    tracing::debug!(error = &error as &dyn std::error::Error, "request repeated");
                    tokio::time::sleep(pause).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn judge(
        &self,
        outcome: Result<Response, reqwest::Error>,
    ) -> Result<Response, ClientError> {
        let response = self.transport(outcome)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.read(response).await.unwrap_or_default();
        Err(match serde_json::from_slice::<ProblemBody>(&bytes) {
            Ok(problem) => ClientError::Problem(Box::new(problem)),
            Err(_) => ClientError::Status(status.as_u16()),
        })
    }

    async fn decode<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        if response.status() == StatusCode::NO_CONTENT {
            return serde_json::from_str("null").map_err(ClientError::Answer);
        }
        let bytes = self.read(response).await?;
        serde_json::from_slice(&bytes).map_err(ClientError::Answer)
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.transport(response.chunk().await)? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(ClientError::TooLong);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn transport<T>(&self, outcome: Result<T, reqwest::Error>) -> Result<T, ClientError> {
        outcome.map_err(|source| ClientError::Transport {
            base: self.base.clone(),
            source: source.without_url(),
        })
    }
}

/// A query string (RFC 3986): everything but unreserved characters is escaped.
pub fn encode_pairs(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        text.bytes().fold(String::new(), |mut encoded, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                encoded.push_str(&format!("%{byte:02X}"));
            }
            encoded
        })
    };
    let pairs: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}
