//! Sign-in of people by OpenID Connect: an id token of the configured provider for an API token.
//!
//! Owns the judgement of id tokens, who a subject of the provider is here, and which roles its groups
//! are. That token lasts hours and is revoked like others. The provider is the
//! configuration's alone: nothing that a client sends leads anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::auth::RoleGrant;
use crate::dial::{Trusting, Url};

mod about;
mod create;
mod id_token;
mod provider;
mod store;

pub use self::provider::Provider;

/// What the secret of a sign-in's token begins with.
pub use crate::auth::SIGN_IN_PREFIX;

/// The longest time that its token lasts.
const MAX_LASTS: Duration = Duration::from_secs(24 * 60 * 60);

/// The routes.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(about::about)).routes(routes!(create::create))
}

/// The provider by which people sign in, and what its groups are here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Oidc {
    /// The issuer, exactly as its id tokens name it: `https://…`. Empty: nobody signs in so.
    pub issuer: String,
    /// The id of the public client there.
    pub client_id: String,
    /// The scopes that are asked for.
    pub scopes: Vec<String>,
    /// The claim with the groups of a person.
    pub groups_claim: String,
    /// The claim by which a person is called here, from the first sign-in on.
    pub name_claim: String,
    /// Whether id tokens without a nonce are taken: those of the device flow (RFC 8628) have none, so
    /// that whoever gets hold of one within its ten minutes can use it first.
    pub device_flow: bool,
    /// How long the token of a sign-in lasts; a day at most.
    #[serde(with = "runtime::config::duration")]
    pub lasts: Duration,
    /// Private addresses at which the provider may be; without it only public ones.
    pub allow: BTreeSet<IpAddr>,
    /// Authorities (PEM) of the provider's certificate. None: those of the system.
    pub ca_file: Option<PathBuf>,
    /// What the groups of the provider are here, such as `sec-ops = "responder@*"`.
    pub roles: BTreeMap<String, RoleGrant>,
}

impl Default for Oidc {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            client_id: String::new(),
            scopes: ["openid", "profile", "groups"].map(str::to_owned).into(),
            groups_claim: "groups".to_owned(),
            name_claim: "preferred_username".to_owned(),
            device_flow: false,
            lasts: Duration::from_secs(4 * 60 * 60),
            allow: BTreeSet::new(),
            ca_file: None,
            roles: BTreeMap::new(),
        }
    }
}

impl Oidc {
    /// What cannot be meant.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        if self.issuer.is_empty() {
            return None;
        }
        if Url::parse(&self.issuer).is_none() || self.issuer.contains('?') {
            return Some(("oidc.issuer", "must be https://host[:port][/path]"));
        }
        if self.client_id.is_empty() {
            return Some(("oidc.client_id", "is needed with an issuer"));
        }
        if !self.scopes.iter().any(|scope| scope == "openid") {
            return Some(("oidc.scopes", "must have openid"));
        }
        if self.lasts.is_zero() || self.lasts > MAX_LASTS {
            return Some(("oidc.lasts", "must be at most a day"));
        }
        None
    }

    fn trusting(&self) -> Trusting<'_> {
        Trusting { allow: &self.allow, ca_file: self.ca_file.as_deref() }
    }

    /// The roles of somebody in these groups.
    fn roles_of(&self, groups: &[String]) -> BTreeSet<&RoleGrant> {
        groups.iter().filter_map(|group| self.roles.get(group)).collect()
    }

    /// When the token of a sign-in of now ends.
    fn ends(&self, now: Timestamp) -> Timestamp {
        now.plus(self.lasts)
    }
}

/// How to sign in here. Where the provider is asked says the provider itself (OpenID Connect Discovery 1.0):
/// a control plane in wrong hands leads nobody elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SignInView {
    /// The provider.
    pub issuer: String,
    /// The public client to be there.
    pub client_id: String,
    /// The scopes to ask for.
    pub scopes: Vec<String>,
    /// Whether the device flow (RFC 8628) may be used.
    pub device_flow: bool,
}

/// An id token to be exchanged for an API token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSignIn {
    /// The id token, as the provider gave it.
    pub id_token: String,
    /// What the `nonce` of the id token is the SHA-256 of, as base64url: whoever only has the id
    /// token does not know it.
    pub nonce_secret: String,
}

impl std::fmt::Debug for CreateSignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateSignIn").finish_non_exhaustive()
    }
}
