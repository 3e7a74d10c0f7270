//! `tocsin check`: a configuration file, judged before a role is restarted with it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Context, Exit, Failure};
use crate::output::Tone;
use crate::platform;
use crate::roles::{BrokerConfig, api_role, hub_role};

/// Arguments of `tocsin check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The file, such as /etc/tocsin/agent.toml
    pub file: PathBuf,
    /// The role it is for [default: as the file's name says]
    #[arg(long, value_enum)]
    pub role: Option<Role>,
}

/// The roles that have a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// A push hub
    Hub,
    /// A control plane
    Api,
    /// An agent
    Agent,
    /// Everything in one process
    Up,
}

impl Role {
    /// The role that a file's name says: `agent.toml`, `hub-2.toml`, `tocsin.toml`.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_stem()?.to_str()?.to_ascii_lowercase();
        let roles = [
            ("agent", Self::Agent),
            ("hub", Self::Hub),
            ("api", Self::Api),
            ("up", Self::Up),
            ("tocsin", Self::Up),
        ];
        let parts: Vec<_> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        roles.into_iter().find(|(word, _)| parts.contains(word)).map(|(_, role)| role)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Api => "api",
            Self::Agent => "agent",
            Self::Up => "up",
        }
    }
}

/// Judges a file.
pub fn run(context: &Context, args: &CheckArgs) -> Result<Exit, Failure> {
    let role = args.role.or_else(|| Role::of(&args.file)).ok_or_else(|| {
        Failure::usage(format!("the name of {} says no role", args.file.display()))
            .next("add --role hub, api, agent or up")
    })?;
    judge(&args.file, role).map_err(|failure| {
        failure.next("config/ of the distribution has a commented sample for every role")
    })?;
    let out = context.out;
    out.object(&json!({ "file": args.file, "role": role.as_str(), "valid": true }));
    let fine = out.paint(Tone::Good, "fine");
    out.line(&format!("{fine}: {} is a configuration of `{}`", args.file.display(), role.as_str()));
    Ok(Exit::Success)
}

/// Reads a file as its role does, and judges it as its role does.
pub fn judge(path: &Path, role: Role) -> Result<(), Failure> {
    match role {
        Role::Hub => {
            let config = load::<hub_role::Config>(path)?;
            config.check().map_err(|e| wrong(path, &e))?;
            judge_broker(path, &config.broker)
        }
        Role::Api => {
            let config = load::<api_role::Config>(path)?;
            config.check().map_err(|e| wrong(path, &e))?;
            judge_broker(path, &config.broker)
        }
        Role::Agent => load::<agent::Config>(path)?.check().map_err(|e| wrong(path, &e)),
        Role::Up => {
            let config = load::<platform::Config>(path)?;
            config.api.check().map_err(|e| wrong(path, &e))?;
            config.hub.validate().map_err(|e| wrong(path, &e))
        }
    }
}

fn judge_broker(path: &Path, config: &BrokerConfig) -> Result<(), Failure> {
    let outcome = config.redis.validate();
    outcome.map_err(|e| Failure::new(format!("{}: broker.redis.{e}", path.display())))
}

pub(super) fn load<T: DeserializeOwned + Default>(path: &Path) -> Result<T, Failure> {
    // The environment is left out: it is that of whoever checks, not that of the role.
    runtime::config::load(Some(path), std::iter::empty(), "").map_err(Failure::of)
}

fn wrong(path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}
