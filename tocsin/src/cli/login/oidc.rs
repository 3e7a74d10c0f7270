//! Sign-in by OpenID Connect from the command line (RFC 8252): a browser somewhere, the code here.
//!
//! Owns the walk to the provider and back: PKCE, state and nonce, which are made here and never leave
//! but as hashes. The id token is judged by the control plane, not here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::operators::CreatedApiToken;
use api::sign_in::{CreateSignIn, SignInView};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use clap::Args;
use runtime::{Entropy, tls};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::cli::{Context, Failure};
use crate::client::{Client, encode_pairs};

/// Where common systems keep the authorities that they trust.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How long somebody may take in the browser.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// For one request to the provider, and for a browser to send its own.
const REQUEST: Duration = Duration::from_secs(30);
/// Bytes of a browser's request that are read.
const MAX_HEAD: usize = 16 * 1024;
/// Between two questions whether the device was allowed, unless the provider says (RFC 8628, 3.2).
const INTERVAL: u64 = 5;
const PAGE: &str = "You may close this window: what there is to say is in the terminal.\n";

/// Arguments of a sign-in by the provider.
#[derive(Debug, Args)]
pub struct OidcArgs {
    /// Sign in by the provider that the control plane names, in place of an API token
    #[arg(long, conflicts_with = "token_file")]
    pub oidc: bool,
    /// With --oidc: in a browser on another machine, with a code to compare
    #[arg(long, requires = "oidc")]
    pub device: bool,
    /// With --oidc: port of the redirect, for providers that compare it [default: any]
    #[arg(long, requires = "oidc", value_name = "PORT", default_value_t = 0)]
    pub redirect_port: u16,
    /// With --oidc: authorities (PEM) of the provider's certificate [default: the system's]
    #[arg(long, requires = "oidc", value_name = "FILE")]
    pub idp_ca: Option<PathBuf>,
}

/// What is drawn for one sign-in.
struct Drawn {
    verifier: String,
    state: String,
    nonce_secret: String,
}

impl Drawn {
    fn new(entropy: &Entropy) -> Self {
        let draw = || BASE64.encode(entropy.bytes::<32>());
        Self { verifier: draw(), state: draw(), nonce_secret: draw() }
    }
}

fn sha256(text: &str) -> String {
    BASE64.encode(digest(&SHA256, text.as_bytes()))
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

/// An address to be shown: a control plane must not write to the terminal.
fn address(text: &str) -> Result<&str, Failure> {
    let is_plain = text.starts_with("https://") && text.chars().all(|c| c.is_ascii_graphic());
    let no_address =
        || Failure::new("the provider's address is none: it is not https, or not plain");
    is_plain.then_some(text).ok_or_else(no_address)
}

/// RFC 8628, 3.2.
#[derive(Deserialize)]
struct DeviceCode {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    interval: Option<u64>,
}

/// Signs in, and answers the token.
pub async fn token(
    context: &Context,
    client: &Client,
    args: &OidcArgs,
) -> Result<CreatedApiToken, Failure> {
    let about: SignInView = client.get("/v1/sign-ins/provider").await?;
    let provider = Provider::new(about, args.idp_ca.as_deref())?;
    let drawn = Drawn::new(&context.entropy);
    let id_token = if args.device {
        provider.by_device(context).await?
    } else {
        provider.by_browser(context, &drawn, args.redirect_port).await?
    };
    let body = CreateSignIn { id_token, nonce_secret: drawn.nonce_secret };
    Ok(client.post("/v1/sign-ins", &body).await?)
}

struct Provider {
    about: SignInView,
    http: reqwest::Client,
}

impl Provider {
    fn new(about: SignInView, ca: Option<&Path>) -> Result<Self, Failure> {
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
        Ok(Self { about, http })
    }

    async fn by_browser(
        &self,
        context: &Context,
        drawn: &Drawn,
        port: u16,
    ) -> Result<String, Failure> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let redirect = format!("http://127.0.0.1:{}/", listener.local_addr()?.port());
        let (challenge, nonce) = (sha256(&drawn.verifier), sha256(&drawn.nonce_secret));
        let query = encode_pairs(&[
            ("response_type", "code"),
            ("client_id", &self.about.client_id),
            ("redirect_uri", &redirect),
            ("scope", &self.about.scopes.join(" ")),
            ("state", &drawn.state),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let endpoint = address(&self.about.authorization_endpoint)?;
        let joint = if endpoint.contains('?') { '&' } else { '?' };
        context.out.note("Sign in with a browser on this machine, at:\n");
        context.out.note(&format!("  {endpoint}{joint}{query}\n"));
        let waiting = tokio::time::timeout(PATIENCE, wait_for_code(&listener, &drawn.state));
        let code =
            waiting.await.map_err(|_| Failure::new("nobody signed in within 5 minutes"))??;
        self.exchange(&[
            ("grant_type", "authorization_code"),
            ("client_id", &self.about.client_id),
            ("code", &code),
            ("redirect_uri", &redirect),
            ("code_verifier", &drawn.verifier),
        ])
        .await?
        .map_err(|error| Failure::new(format!("the provider refused the code: {error}")))
    }

    async fn by_device(&self, context: &Context) -> Result<String, Failure> {
        let Some(endpoint) = &self.about.device_authorization_endpoint else {
            return Err(Failure::new("neither control plane nor provider offer a device flow")
                .next("leave --device away, or see device_flow in [api.oidc]"));
        };
        let scopes = self.about.scopes.join(" ");
        let form = [("client_id", self.about.client_id.as_str()), ("scope", scopes.as_str())];
        let begun: DeviceCode = serde_json::from_slice(&self.post(endpoint, &form).await?.1)
            .map_err(|_| Failure::new("the provider began no device flow"))?;
        let place = begun.verification_uri_complete.as_ref().unwrap_or(&begun.verification_uri);
        context.out.note(&format!(
            "Sign in with a browser on any machine, at:\n\n  {}\n\nand compare the code: {}\n",
            crate::output::text::clean(place),
            crate::output::text::clean(&begun.user_code)
        ));
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("client_id", self.about.client_id.as_str()),
            ("device_code", begun.device_code.as_str()),
        ];
        let asking = async {
            let mut pause = begun.interval.unwrap_or(INTERVAL).clamp(1, 60);
            loop {
                tokio::time::sleep(Duration::from_secs(pause)).await;
                match self.exchange(&form).await? {
                    Ok(id_token) => return Ok(id_token),
                    Err(error) if error == "authorization_pending" => {}
                    Err(error) if error == "slow_down" => pause += INTERVAL,
                    Err(error) => {
                        return Err(Failure::new(format!("the provider refused: {error}")));
                    }
                }
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        asked.unwrap_or_else(|_| Err(Failure::new("nobody signed in within 5 minutes")))
    }

    /// The id token, or what the provider calls the reason that there is none.
    async fn exchange(&self, form: &[(&str, &str)]) -> Result<Result<String, String>, Failure> {
        let (is_good, bytes) = self.post(&self.about.token_endpoint, form).await?;
        if !is_good {
            let refusal: Result<Refusal, _> = serde_json::from_slice(&bytes);
            let error = refusal.map_or_else(|_| "no reason given".to_owned(), |said| said.error);
            return Ok(Err(crate::output::text::clean(&error)));
        }
        let tokens: Tokens = serde_json::from_slice(&bytes)
            .map_err(|_| Failure::new("the answer of the provider is not understood"))?;
        let none = || Failure::new("the provider gave no id token");
        tokens.id_token.map(Ok).ok_or_else(none)
    }

    async fn post(&self, url: &str, form: &[(&str, &str)]) -> Result<(bool, Vec<u8>), Failure> {
        let form = encode_pairs(form);
        let kind = ("content-type", "application/x-www-form-urlencoded");
        let request = self.http.post(url).header(kind.0, kind.1).body(form);
        let failed = |error: reqwest::Error| Failure::of(error.without_url());
        let mut response = request.send().await.map_err(failed)?;
        let (is_good, mut bytes) = (response.status().is_success(), Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_HEAD * 16 {
                return Err(Failure::new("the answer of the provider is too long"));
            }
        }
        Ok((is_good, bytes))
    }
}

/// Waits for the browser to come back. Whoever brings another state is sent away, and waited on.
async fn wait_for_code(listener: &TcpListener, state: &str) -> Result<String, Failure> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let Ok(Some(query)) = tokio::time::timeout(REQUEST, query_of(&mut stream)).await else {
            continue;
        };
        let value = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            { pairs }.find(|(known, _)| *known == name).map(|(_, value)| decoded(value))
        };
        let is_ours = value("state").is_some_and(|given| given == state);
        let status = if is_ours { "200 OK" } else { "400 Bad Request" };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{PAGE}",
            PAGE.len()
        );
        drop(stream.write_all(answer.as_bytes()).await);
        if !is_ours {
            continue;
        }
        if let Some(code) = value("code") {
            return Ok(code);
        }
        let error = value("error").unwrap_or_else(|| "no reason given".to_owned());
        let error = crate::output::text::clean(&error);
        return Err(Failure::new(format!("the provider refused: {error}")));
    }
}

/// The query of a browser's request for `/`.
async fn query_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let line = std::str::from_utf8(&head).ok()?.lines().next()?;
    let query = line.strip_prefix("GET /?")?.split(' ').next()?;
    Some(query.to_owned())
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        };
        match (first, tail.get(..2).and_then(hex)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_redirect_are_read_as_they_were_meant() {
        for (text, meant) in
            [("a%2Fb+c", "a/b c"), ("%", "%"), ("%2", "%2"), ("%zz", "%zz"), ("", "")]
        {
            assert_eq!(decoded(text), meant);
        }
    }

    async fn visit(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn hostile_redirect_with_another_state_neither_ends_nor_answers_the_sign_in() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let visits = async {
            for path in ["/?code=evil&state=other", "/?code=evil", "/favicon.ico?x=1"] {
                assert!(!visit(address, path).await.contains("200 OK"), "{path}");
            }
            assert!(visit(address, "/?code=good%2D1&state=s").await.contains("200 OK"));
        };
        let (code, ()) = tokio::join!(wait_for_code(&listener, "s"), visits);
        assert_eq!(code.unwrap(), "good-1");
        let refused = visit(address, "/?error=access_denied&state=s");
        let (code, _) = tokio::join!(wait_for_code(&listener, "s"), refused);
        assert!(code.unwrap_err().text().contains("access_denied"));
    }
}
