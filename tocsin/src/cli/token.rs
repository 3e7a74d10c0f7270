//! `tocsin token`: API tokens, with a role or with scopes.
//!
//! Owns nothing of what a token may do: the control plane refuses more than one's own.

use std::num::NonZeroU32;
use std::time::Duration;

use api::auth::{RoleGrant, Scope};
use api::operators::{ApiTokenView, CreateApiToken, CreatedApiToken};
use clap::{Args, Subcommand};
use protocol::id::PersonName;
use protocol::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::{Context, Exit, Failure};
use crate::output::{Table, Tone, text, time};

/// The verbs of `tocsin token`.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token; it is printed once, alone on standard output
    Create(CreateArgs),
    /// List tokens: your own, or everybody's with `tokens@*`
    List {
        /// Also those that are revoked or over
        #[arg(long)]
        all: bool,
    },
    /// End a token at once
    Revoke {
        /// Its id, as `list` shows it
        id: Uuid,
    },
}

/// Arguments of `tocsin token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub label: String,
    /// viewer, responder, approver, administrator or auditor; `responder@lab` for one group
    #[arg(long, value_name = "ROLE[@GROUP]", required_unless_present = "scopes")]
    pub role: Option<RoleGrant>,
    /// What it may do, such as read@* or order:lock@lab; may be repeated
    #[arg(long = "scope", value_name = "SCOPE", conflicts_with = "role")]
    pub scopes: Vec<Scope>,
    /// For whom [default: yourself]
    #[arg(long, value_name = "NAME")]
    pub operator: Option<PersonName>,
    /// How long it lasts, such as 8h or 30d; a year at most
    #[arg(long, value_parser = super::order::duration, default_value = "30d")]
    pub ttl: Duration,
    /// Requests per minute [default: that of the role]
    #[arg(long, value_name = "N")]
    pub rate: Option<NonZeroU32>,
    /// Of a program and no person: it is asked for no second factor, and `list` says so
    #[arg(long)]
    pub service: bool,
}

/// Carries out a verb on tokens.
pub async fn run(context: &Context, verb: TokenVerb) -> Result<Exit, Failure> {
    match verb {
        TokenVerb::Create(args) => create(context, args).await,
        TokenVerb::List { all } => list(context, all).await,
        TokenVerb::Revoke { id } => {
            context.client()?.delete(&format!("/v1/tokens/{id}")).await?;
            context.out.object(&json!({ "id": id, "revoked": true }));
            context.out.line(&format!("token {id} revoked"));
            Ok(Exit::Success)
        }
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<Exit, Failure> {
    let body = CreateApiToken {
        operator: args.operator,
        label: args.label,
        scopes: args.scopes,
        role: args.role,
        rate_per_min: args.rate,
        ttl_secs: Some(args.ttl.as_secs()),
        service: args.service,
    };
    let made: CreatedApiToken = context.client()?.create("/v1/tokens", &body).await?;
    let out = context.out;
    out.object(&made);
    let Some(secret) = &made.secret else {
        // The first answer was lost, and a secret is never told twice.
        return Err(Failure::new("the token was made, but the answer with it was lost").next(
            format!("end it with `tocsin token revoke {}`, and make another", made.token.id),
        ));
    };
    out.line(secret);
    let until = time::clock(made.token.expires_at.0, context.now());
    let (whose, what) = (&made.token.operator, may(&made.token));
    out.note(&format!("\nFor {whose}, until {until}: {what}. It is shown this once."));
    Ok(Exit::Success)
}

async fn list(context: &Context, is_all: bool) -> Result<Exit, Failure> {
    let mut tokens: Vec<ApiTokenView> = context.client()?.all("/v1/tokens", &[], None).await?;
    let now = context.now();
    tokens.retain(|token| is_all || standing(token, now).0 != Tone::Faint);
    let out = context.out;
    out.object(&json!({ "items": tokens }));
    let mut table = Table::new(&["operator", "label", "of", "may", "rate", "used", "ends", "id"]);
    for token in &tokens {
        let (tone, ends) = standing(token, now);
        let used = token.last_used_at.map(|at| time::ago(at.0, now));
        let rate = token.rate_per_min.map(|rate| format!("{rate}/min"));
        table.row([
            (token.operator.to_string(), Tone::Strong),
            (token.label.clone(), Tone::Plain),
            match token.service {
                true => ("no person".to_owned(), Tone::Waiting),
                false => ("a person".to_owned(), Tone::Faint),
            },
            (may(token), Tone::Plain),
            (rate.unwrap_or_default(), Tone::Faint),
            (used.unwrap_or_else(|| "never".to_owned()), Tone::Plain),
            (ends, tone),
            (token.id.to_string(), Tone::Faint),
        ]);
    }
    out.table(&table);
    Ok(Exit::Success)
}

/// What a token may do, shortly.
fn may(token: &ApiTokenView) -> String {
    if let Some(role) = &token.role {
        return role.to_string();
    }
    let scopes: Vec<_> = token.scopes.iter().map(ToString::to_string).collect();
    text::clean(&scopes.join(" "))
}

/// Whether a token is still good, in words.
fn standing(token: &ApiTokenView, now: Timestamp) -> (Tone, String) {
    if token.revoked_at.is_some() {
        (Tone::Faint, "revoked".to_owned())
    } else if token.expires_at.0 <= now {
        (Tone::Faint, "over".to_owned())
    } else {
        let left = token.expires_at.0.since(now);
        let is_soon = left < Duration::from_secs(7 * 24 * 60 * 60);
        (if is_soon { Tone::Waiting } else { Tone::Plain }, format!("in {}", time::duration(left)))
    }
}
