//! `tocsin operator`: who there is, and their second factors.
//!
//! Owns no judgement of codes. Secrets, invitations and codes are read from the terminal without
//! showing them, or from standard input, and never from the command line.

use std::path::PathBuf;

use api::db::Db;
use api::factors::invitation::{self, InvitationView};
use api::factors::{AddFactor, AddedFactor, Code, FactorView};
use api::operators::OperatorView;
use clap::{Args, Subcommand};
use protocol::id::PersonName;
use serde_json::json;

use super::store::{self, PlaceArgs};
use super::{Context, Exit, Failure, ask};
use crate::output::{Table, Tone, time};

/// The verbs of `tocsin operator`.
#[derive(Debug, Subcommand)]
pub enum OperatorVerb {
    /// List operators, and who has a second factor
    List,
    /// Give a code beforehand: for a while, what takes one is not asked for it again
    StepUp,
    /// Add, confirm, remove or reset a second factor: codes of an app
    #[command(subcommand)]
    Totp(TotpVerb),
}

/// The verbs of `tocsin operator totp`.
#[derive(Debug, Subcommand)]
pub enum TotpVerb {
    /// Show your second factor and the step-up of your token
    Show,
    /// Add a second factor with an invitation, or one in place of the one that you have
    Add,
    /// Have it count, by a code of it
    Confirm,
    /// Remove your own
    Remove,
    /// Let an operator who has none add one: prints the invitation to hand over
    Invite(OfArgs),
    /// Take away the one of somebody who lost it
    Reset(OfArgs),
}

/// Whose, and where.
#[derive(Debug, Args)]
pub struct OfArgs {
    /// The operator
    pub name: PersonName,
    /// On the server's console: configuration file of the control plane or of the platform
    #[arg(long, value_name = "FILE", group = "console")]
    pub config: Option<PathBuf>,
    /// On the server's console: address of a PostgreSQL database
    #[arg(long, value_name = "URL", group = "console")]
    pub database: Option<String>,
    /// On the server's console: data folder with an SQLite file
    #[arg(long, value_name = "DIR", group = "console")]
    pub data: Option<PathBuf>,
}

impl OfArgs {
    /// The store itself, if it is named.
    fn place(&self) -> Option<PlaceArgs> {
        let Self { config, database, data, .. } = self;
        let is_named = config.is_some() || database.is_some() || data.is_some();
        let place =
            || PlaceArgs { config: config.clone(), database: database.clone(), data: data.clone() };
        is_named.then(place)
    }
}

/// Carries out a verb on operators.
pub async fn run(context: &Context, verb: OperatorVerb) -> Result<Exit, Failure> {
    match verb {
        OperatorVerb::List => list(context).await,
        OperatorVerb::StepUp => {
            if !context.client()?.step_up().await? {
                return Err(Failure::usage("a code is needed, and there is none"));
            }
            show(context).await
        }
        OperatorVerb::Totp(TotpVerb::Show) => show(context).await,
        OperatorVerb::Totp(TotpVerb::Add) => add(context).await,
        OperatorVerb::Totp(TotpVerb::Confirm) => confirm(context).await,
        OperatorVerb::Totp(TotpVerb::Remove) => {
            context.client()?.delete("/v1/factor").await?;
            context.out.object(&json!({ "removed": true }));
            context.out.line("your second factor is removed: what takes one is refused now");
            Ok(Exit::Success)
        }
        OperatorVerb::Totp(TotpVerb::Invite(args)) => invite(context, args).await,
        OperatorVerb::Totp(TotpVerb::Reset(args)) => reset(context, args).await,
    }
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let operators: Vec<OperatorView> = context.client()?.all("/v1/operators", &[], None).await?;
    let (out, now) = (context.out, context.now());
    out.object(&json!({ "items": operators }));
    let mut table = Table::new(&["operator", "second factor", "since"]);
    for operator in &operators {
        let (factor, tone) =
            if operator.has_factor { ("yes", Tone::Good) } else { ("none", Tone::Waiting) };
        table.row([
            (operator.name.to_string(), Tone::Strong),
            (factor.to_owned(), tone),
            (time::ago(operator.created_at.0, now), Tone::Faint),
        ]);
    }
    out.table(&table);
    Ok(Exit::Success)
}

async fn show(context: &Context) -> Result<Exit, Failure> {
    let factor: FactorView = context.client()?.get("/v1/factor").await?;
    let (out, now) = (context.out, context.now());
    out.object(&factor);
    if factor.service {
        out.line("this token is of no person: it is asked for no second factor");
        return Ok(Exit::Success);
    }
    out.line(&match factor.confirmed_at {
        Some(since) => {
            format!("{} has a second factor, {}", factor.operator, time::ago(since.0, now))
        }
        None => format!("{} has no second factor", factor.operator),
    });
    if factor.is_pending {
        out.line("one was added, and waits for `tocsin operator totp confirm`");
    }
    if let Some(until) = factor.stepped_up_until {
        out.line(&format!(
            "this token is asked for no code for {}",
            time::duration(until.0.since(now))
        ));
    }
    Ok(Exit::Success)
}

async fn add(context: &Context) -> Result<Exit, Failure> {
    let (out, client) = (context.out, context.client()?);
    let known: FactorView = client.get("/v1/factor").await?;
    let invitation = match known.confirmed_at {
        Some(_) => None,
        None => Some(ask::secret("Invitation")?.trim().to_owned()),
    };
    let added: AddedFactor = client.post("/v1/factor", &AddFactor { invitation }).await?;
    out.object(&added);
    out.line(&added.uri);
    out.note("\nGive this address, or its secret, to an app for one-time passwords. It is shown this once.");
    if !ask::is_possible() {
        out.note("Then `tocsin operator totp confirm` takes a code of it on standard input.");
        return Ok(Exit::Success);
    }
    confirm(context).await
}

async fn confirm(context: &Context) -> Result<Exit, Failure> {
    let missing = || Failure::usage("a code is needed, and there is none");
    let code = ask::code(false).ok_or_else(missing)?.trim().to_owned();
    let () = context.client()?.post("/v1/factor/confirm", &Code { code }).await?;
    context.out.note("your second factor counts from now on");
    Ok(Exit::Success)
}

async fn invite(context: &Context, args: OfArgs) -> Result<Exit, Failure> {
    let made: InvitationView = match args.place() {
        None => {
            let path = format!("/v1/operators/{}/factor-invitations", args.name);
            context.client()?.post(&path, &json!({})).await?
        }
        Some(place) => {
            let db = open(&place).await?;
            let (now, name) = (context.now(), args.name);
            let made = invitation::invite_on_console(&db, name, now, &context.entropy).await;
            db.close().await;
            made.map_err(store::failed)?
        }
    };
    let out = context.out;
    out.object(&made);
    out.line(&made.invitation);
    let until = time::clock(made.expires_at.0, context.now());
    out.note(&format!(
        "\nFor {}, until {until}, with `tocsin operator totp add`. Hand it over another way than by \
         the account that it is for. It is shown this once.",
        made.operator
    ));
    Ok(Exit::Success)
}

async fn reset(context: &Context, args: OfArgs) -> Result<Exit, Failure> {
    match args.place() {
        None => {
            let path = format!("/v1/operators/{}/factor", args.name);
            context.client()?.delete(&path).await?;
        }
        Some(place) => {
            let db = open(&place).await?;
            let done = invitation::reset_on_console(&db, &args.name, context.now()).await;
            db.close().await;
            done.map_err(store::failed)?;
        }
    }
    context.out.object(&json!({ "operator": args.name, "reset": true }));
    context.out.line(&format!("{} has no second factor any more", args.name));
    Ok(Exit::Success)
}

async fn open(place: &PlaceArgs) -> Result<Db, Failure> {
    let location = store::location(place)?;
    Db::open(&location.database, &location.data_dir).await.map_err(store::failed)
}
