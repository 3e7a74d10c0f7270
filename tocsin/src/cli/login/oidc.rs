//! Sign-in by OpenID Connect from the command line (RFC 8252): a browser somewhere, the code here.
//!
//! Owns the walk to the provider and back: PKCE, state and nonce, which are made here and never leave
//! but as hashes, and which provider is believed to be the one. The id token is judged by the control plane,
//! not here.

use std::path::PathBuf;
use std::time::Duration;

use api::operators::CreatedApiToken;
use api::sign_in::{CreateSignIn, SignInView};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use clap::Args;
use runtime::Entropy;
use serde::Deserialize;

use super::loopback::{Expected, Loopback};
use super::provider::Provider;
use crate::cli::{Context, Failure};
use crate::client::{Client, encode_pairs};
use crate::output::text::clean;
use crate::profile::KnownProvider;

/// How long somebody may take in the browser.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// Between two questions whether the device was allowed, unless the provider says (RFC 8628, 3.2).
const INTERVAL: u64 = 5;

/// Arguments of a sign-in by the provider.
#[derive(Debug, Args)]
pub struct OidcArgs {
    /// Sign in by the provider that the control plane names, in place of an API token
    #[arg(long, conflicts_with = "token_file")]
    pub oidc: bool,
    /// With --oidc: in a browser on another machine, with a code to compare
    #[arg(long, requires = "oidc")]
    pub device: bool,
    /// With --oidc: the provider that it has to be [default: that of the profile, which keeps the first]
    #[arg(long, requires = "oidc", value_name = "URL")]
    pub issuer: Option<String>,
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

/// RFC 8628, 3.2.
#[derive(Deserialize)]
struct DeviceCode {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    interval: Option<u64>,
}

/// Signs in, and answers the token and whose word it was.
pub async fn token(
    context: &Context,
    client: &Client,
    args: &OidcArgs,
    known: Option<KnownProvider>,
) -> Result<(CreatedApiToken, KnownProvider), Failure> {
    let about: SignInView = client.get("/v1/sign-ins/provider").await?;
    let named = KnownProvider { issuer: about.issuer.clone(), client_id: about.client_id.clone() };
    if is_first(&named, args.issuer.as_deref(), known.as_ref())? {
        let issuer = clean(&named.issuer);
        context.out.note(&format!("provider: {issuer}; your profile keeps it"));
    }
    let provider = Provider::discover(&about.issuer, args.idp_ca.as_deref()).await?;
    let drawn = Drawn::new(&context.entropy);
    let signing = SigningIn { about, provider };
    let id_token = if args.device {
        signing.by_device(context).await?
    } else {
        signing.by_browser(context, &drawn, args.redirect_port).await?
    };
    let body = CreateSignIn { id_token, nonce_secret: drawn.nonce_secret };
    Ok((client.post("/v1/sign-ins", &body).await?, named))
}

/// Whether that is the first provider to be known. Another than the known one is refused: a control plane in
/// wrong hands must not send people to a page that only looks like theirs, nor to another application.
fn is_first(
    named: &KnownProvider,
    issuer: Option<&str>,
    known: Option<&KnownProvider>,
) -> Result<bool, Failure> {
    let refuse = |what: &str, expected: &str, given: &str| {
        let (expected, given) = (clean(expected), clean(given));
        let text = format!("the control plane names the {what} {given}, and not {expected}");
        let next = "ask whoever runs it, on another way. If that is right: give --issuer URL";
        Err(Failure::new(text).next(next))
    };
    let pinned = issuer.or(known.map(|known| known.issuer.as_str()));
    match (pinned, known) {
        (Some(pinned), _) if pinned != named.issuer => refuse("provider", pinned, &named.issuer),
        (_, Some(known)) if issuer.is_none() && known.client_id != named.client_id => {
            refuse("client", &known.client_id, &named.client_id)
        }
        _ => Ok(pinned.is_none()),
    }
}

struct SigningIn {
    about: SignInView,
    provider: Provider,
}

impl SigningIn {
    async fn by_browser(
        &self,
        context: &Context,
        drawn: &Drawn,
        port: u16,
    ) -> Result<String, Failure> {
        let loopback = Loopback::bind(port).await?;
        let redirect = loopback.redirect()?;
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
        let endpoint = &self.provider.endpoints.authorization_endpoint;
        let joint = if endpoint.contains('?') { '&' } else { '?' };
        context.out.note("Sign in with a browser on this machine, at:\n");
        context.out.note(&format!("  {endpoint}{joint}{query}\n"));
        let expected = Expected {
            state: &drawn.state,
            issuer: &self.about.issuer,
            names_itself: self.provider.endpoints.authorization_response_iss_parameter_supported,
        };
        let waiting = tokio::time::timeout(PATIENCE, loopback.code(expected));
        let code =
            waiting.await.map_err(|_| Failure::new("nobody signed in within 5 minutes"))??;
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", &self.about.client_id),
            ("code", &code),
            ("redirect_uri", &redirect),
            ("code_verifier", &drawn.verifier),
        ];
        self.provider
            .exchange(&form)
            .await?
            .map_err(|error| Failure::new(format!("the provider refused the code: {error}")))
    }

    async fn by_device(&self, context: &Context) -> Result<String, Failure> {
        let endpoint = self.provider.endpoints.device_authorization_endpoint.as_ref();
        let Some(endpoint) = endpoint.filter(|_| self.about.device_flow) else {
            return Err(Failure::new("control plane and provider do not both offer a device flow")
                .next("leave --device away, or see device_flow in [api.oidc]"));
        };
        let scopes = self.about.scopes.join(" ");
        let form = [("client_id", self.about.client_id.as_str()), ("scope", scopes.as_str())];
        let begun: DeviceCode =
            serde_json::from_slice(&self.provider.post(endpoint, &form).await?.1)
                .map_err(|_| Failure::new("the provider began no device flow"))?;
        let place = begun.verification_uri_complete.as_ref().unwrap_or(&begun.verification_uri);
        context.out.note(&format!(
            "Sign in with a browser on any machine, at:\n\n  {}\n\nand compare the code: {}\n",
            clean(place),
            clean(&begun.user_code)
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
                match self.provider.exchange(&form).await? {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(issuer: &str, client_id: &str) -> KnownProvider {
        KnownProvider { issuer: issuer.to_owned(), client_id: client_id.to_owned() }
    }

    #[test]
    fn hostile_control_plane_leads_nobody_to_another_provider_or_client() {
        let (ours, theirs) =
            (provider("https://idp", "tocsin"), provider("https://evil", "tocsin"));
        let payroll = provider("https://idp", "payroll");
        for (named, issuer, known, outcome) in [
            (&ours, None, None, Some(true)),
            (&ours, None, Some(&ours), Some(false)),
            (&theirs, None, Some(&ours), None),
            (&payroll, None, Some(&ours), None),
            (&theirs, Some("https://idp"), None, None),
            (&ours, Some("https://idp"), Some(&theirs), Some(false)),
            (&ours, Some("https://evil"), Some(&ours), None),
            (&payroll, Some("https://idp"), Some(&ours), Some(false)),
        ] {
            let found = is_first(named, issuer, known);
            assert_eq!(found.ok(), outcome, "{named:?} {issuer:?} {known:?}");
        }
    }
}
