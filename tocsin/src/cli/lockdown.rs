//! `tocsin lockdown`: the switch that no token turns. It works on the store itself.

use api::commands::halt;
use api::db::Db;
use api::lockdown::Level;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::store::{self, PlaceArgs};
use super::{Context, Exit, Failure};
use crate::output::{Tone, text};

/// The verbs of `tocsin lockdown`.
#[derive(Debug, Subcommand)]
pub enum LockdownVerb {
    /// Stop orders, and withdraw what destroys and is on no device yet
    On(OnArgs),
    /// End it
    Off(PlaceArgs),
    /// Show whether one is in force
    Show(PlaceArgs),
}

/// Arguments of `tocsin lockdown on`.
#[derive(Debug, Args)]
pub struct OnArgs {
    /// What is stopped
    #[arg(long, value_enum, default_value_t = What::Everything)]
    pub level: What,
    /// Why; everybody who is refused sees it
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Where the store is.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// What a lockdown stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Orders that destroy
    Destructive,
    /// Every change but stopping, withdrawing and revoking tokens
    Everything,
}

/// Turns the switch.
pub async fn run(context: &Context, verb: LockdownVerb) -> Result<Exit, Failure> {
    let place = match &verb {
        LockdownVerb::On(args) => &args.place,
        LockdownVerb::Off(place) | LockdownVerb::Show(place) => place,
    };
    let location = store::location(place)?;
    let db = Db::open(&location.database, &location.data_dir).await.map_err(store::failed)?;
    let outcome = turn(context, &db, verb).await;
    db.close().await;
    outcome
}

async fn turn(context: &Context, db: &Db, verb: LockdownVerb) -> Result<Exit, Failure> {
    let (out, now) = (context.out, context.now());
    match verb {
        LockdownVerb::On(args) => {
            let level = match args.level {
                What::Destructive => Level::Destructive,
                What::Everything => Level::Everything,
            };
            if !protocol::action::is_printable(&args.reason) {
                return Err(Failure::usage("the reason is too long or has hidden characters"));
            }
            let withdrawn = halt::halt(db, now, level, &args.reason).await;
            match withdrawn.map_err(store::failed)? {
                Some(withdrawn) => {
                    let count = text::count(withdrawn, "command");
                    out.note(&format!("{count} that destroy and were on no device are withdrawn"));
                }
                None => out.note("it was in force already"),
            }
        }
        LockdownVerb::Off(_) => {
            halt::resume(db, now).await.map_err(store::failed)?;
            out.note("what was withdrawn has to be ordered again");
        }
        LockdownVerb::Show(_) => {}
    }
    let lockdowns = halt::lockdowns(db).await.map_err(store::failed)?;
    let shown = |lockdown: &api::lockdown::Lockdown| {
        json!({
            "level": lockdown.level.as_str(),
            "since": api::time::Time(lockdown.since).to_string(),
            "reason": lockdown.reason,
        })
    };
    out.object(&json!({ "items": lockdowns.iter().map(shown).collect::<Vec<_>>() }));
    for lockdown in &lockdowns {
        let since = api::time::Time(lockdown.since);
        let line = format!("lockdown of {} since {since}", lockdown.level.as_str());
        out.line(&format!("{}: {}", out.paint(Tone::Bad, &line), text::clean(&lockdown.reason)));
    }
    if lockdowns.is_empty() {
        out.line("no lockdown");
    }
    Ok(Exit::Success)
}
