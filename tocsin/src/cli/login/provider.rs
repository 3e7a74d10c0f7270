//! The provider of a sign-in, as it describes itself.
//!
//! Owns what is asked of it: where its endpoints are it says itself, below the address that it is known by.

use std::path::Path;
use std::time::Duration;

use runtime::tls;
use serde::Deserialize;

use crate::cli::Failure;
use crate::client::encode_pairs;
use crate::output::text::clean;

/// Where common systems keep the authorities that they trust.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where a provider describes itself (OpenID Connect Discovery 1.0, 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// For one request.
const REQUEST: Duration = Duration::from_secs(30);
/// Bytes of an answer.
const MAX_BYTES: usize = 256 * 1024;

/// A provider.
pub(super) struct Provider {
    pub(super) endpoints: Endpoints,
    http: reqwest::Client,
}

/// What is used of its description.
#[derive(Debug, Deserialize)]
pub(super) struct Endpoints {
    issuer: String,
    pub(super) authorization_endpoint: String,
    token_endpoint: String,
    #[serde(default)]
    pub(super) device_authorization_endpoint: Option<String>,
    /// RFC 9207, 3.
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
}

/// RFC 6749, 5.2.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Provider {
    /// The provider of that name, with the authorities of its certificate.
    pub(super) async fn discover(issuer: &str, ca: Option<&Path>) -> Result<Self, Failure> {
        check(issuer)?;
        let authorities = tls::read_certificates(ca.unwrap_or(Path::new(SYSTEM)));
        let authorities = authorities.map_err(Failure::of)?;
        let config = tls::client_config(&authorities, None, &[b"http/1.1"]);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config.map_err(Failure::of)?)
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true)
            .timeout(REQUEST)
            .build()
            .map_err(Failure::of)?;
        let place = format!("{}{DISCOVERY}", issuer.trim_end_matches('/'));
        let (is_good, bytes) = send(http.get(place)).await?;
        let unknown = || Failure::new(format!("the provider {issuer} does not describe itself"));
        let endpoints: Endpoints = serde_json::from_slice(&bytes).map_err(|_| unknown())?;
        if !is_good {
            return Err(unknown());
        }
        if endpoints.issuer != issuer {
            let says = clean(&endpoints.issuer);
            return Err(Failure::new(format!("the provider {issuer} says that it is {says}")));
        }
        check(&endpoints.authorization_endpoint)?;
        check(&endpoints.token_endpoint)?;
        endpoints.device_authorization_endpoint.as_deref().map(check).transpose()?;
        Ok(Self { endpoints, http })
    }

    /// The id token, or what the provider calls the reason that there is none.
    pub(super) async fn exchange(
        &self,
        form: &[(&str, &str)],
    ) -> Result<Result<String, String>, Failure> {
        let (is_good, bytes) = self.post(&self.endpoints.token_endpoint, form).await?;
        if !is_good {
            let refusal: Result<Refusal, _> = serde_json::from_slice(&bytes);
            let error = refusal.map_or_else(|_| "no reason given".to_owned(), |said| said.error);
            return Ok(Err(clean(&error)));
        }
        let tokens: Tokens = serde_json::from_slice(&bytes)
            .map_err(|_| Failure::new("the answer of the provider is not understood"))?;
        let none = || Failure::new("the provider gave no id token");
        tokens.id_token.map(Ok).ok_or_else(none)
    }

    pub(super) async fn post(
        &self,
        url: &str,
        form: &[(&str, &str)],
    ) -> Result<(bool, Vec<u8>), Failure> {
        let form = encode_pairs(form);
        let kind = ("content-type", "application/x-www-form-urlencoded");
        send(self.http.post(url).header(kind.0, kind.1).body(form)).await
    }
}

/// An address that may be shown and asked: whoever names it must not write to the terminal.
fn check(address: &str) -> Result<(), Failure> {
    let is_plain = address.starts_with("https://") && address.chars().all(|c| c.is_ascii_graphic());
    let none = || Failure::new("the provider's address is none: it is not https, or not plain");
    is_plain.then_some(()).ok_or_else(none)
}

async fn send(request: reqwest::RequestBuilder) -> Result<(bool, Vec<u8>), Failure> {
    let failed = |error: reqwest::Error| Failure::of(error.without_url());
    let mut response = request.send().await.map_err(failed)?;
    let (is_good, mut bytes) = (response.status().is_success(), Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_BYTES {
            return Err(Failure::new("the answer of the provider is too long"));
        }
    }
    Ok((is_good, bytes))
}
