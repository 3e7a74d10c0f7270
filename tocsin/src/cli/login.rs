//! `tocsin login`: writing the profile.
//!
//! Owns trying it out before it is written: a profile that does not work is not kept.

use std::path::{Path, PathBuf};

use api::http::Paged;
use api::operators::ApiTokenView;
use clap::Args;
use serde_json::json;

use super::{Context, Exit, Failure, ask};
use crate::client::Client;
use crate::output::{Tone, time};
use crate::profile::{Overrides, Profile};

mod loopback;
pub mod oidc;
mod provider;

/// Arguments of `tocsin login`; address, authority and token are global options.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// File with the API token, `-` for standard input; without it, and without --token, it is
    /// asked for or read from a pipe
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Signing in by a provider.
    #[command(flatten)]
    pub oidc: oidc::OidcArgs,
}

/// Writes the profile, if it works.
pub async fn run(context: &Context, args: LoginArgs) -> Result<Exit, Failure> {
    let mut given = context.overrides.clone();
    let path = given.path()?;
    let missing =
        |what: &str, next: &str| Err(Failure::usage(format!("{what} is missing")).next(next));
    if given.url.is_none() {
        return missing("--url", "give the address of the operator port, https://HOST:7442");
    }
    if given.ca.is_none() && given.pin.is_none() {
        let next = "give --ca FILE: `tocsin up` writes authority.pem into its data folder; or \
                    --ca-pin HEX";
        return missing("--ca", next);
    }
    if args.oidc.oidc {
        return by_provider(context, given, &args.oidc).await;
    }
    if let Some(file) = &args.token_file {
        let is_piped = file.as_os_str() == "-";
        let token = if is_piped { ask::piped_token()? } else { ask::secret_file(file)? };
        given.token = Some(token.trim().to_owned());
    }
    if given.token.is_none() {
        given.token = Some(ask::token()?.trim().to_owned());
    }
    let mut profile = given.over(None)?;
    // A profile that cannot be read is replaced: nothing in it matters to a token that works.
    profile.provider = given.former(&profile).ok().flatten().and_then(|former| former.provider);
    let client = Client::new(&profile, context.entropy.clone())?;
    let _known: Paged<ApiTokenView> = client.get("/v1/tokens?limit=1").await?;
    keep(context, &profile, &path)
}

/// A token, for as long as the control plane gives it.
async fn by_provider(
    context: &Context,
    mut given: Overrides,
    args: &oidc::OidcArgs,
) -> Result<Exit, Failure> {
    let path = given.path()?;
    // Nothing that is asked before there is one looks at it.
    given.token = Some(String::new());
    let profile = given.over(None)?;
    let known = given.former(&profile)?.and_then(|former| former.provider);
    let client = Client::new(&profile, context.entropy.clone())?;
    let (made, provider) = oidc::token(context, &client, args, known).await?;
    given.token = made.secret;
    let until = time::clock(made.token.expires_at.0, context.now());
    context.out.note(&format!("signed in as {}, until {until}", made.token.operator));
    let profile = Profile { provider: Some(provider), ..given.over(None)? };
    keep(context, &profile, &path)
}

fn keep(context: &Context, profile: &Profile, path: &Path) -> Result<Exit, Failure> {
    profile.write(path)?;
    let out = context.out;
    out.object(&json!({ "url": profile.url, "profile": path }));
    let done = out.paint(Tone::Good, "logged in");
    out.line(&format!("{done} to {}; profile written to {}", profile.url, path.display()));
    Ok(Exit::Success)
}
