//! `tocsin up`: the whole platform in one process, with nothing to configure.
//!
//! Owns the reading of its configuration and what a person sees of the start. The platform itself
//! is [`crate::platform`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use runtime::Drain;
use runtime::files::{PUBLIC, write_atomic};
use runtime::lifecycle::Hangups;
use serde::Serialize;

use crate::output::Out;
use crate::platform::{Config, Platform};
use crate::roles::{AUTHORITY, DRAIN, FirstWords, follow_hangups};

/// Prefix of the environment variables that override the configuration file.
const ENVIRONMENT: &str = "TOCSIN_UP_";

/// Arguments of `tocsin up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Configuration file; without one, every setting has its default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the store, the authority and the keys
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address on which operators connect
    #[arg(long, value_name = "IP:PORT")]
    pub operator_listen: Option<SocketAddr>,
    /// Name or address by which agents and operators reach this machine; may be repeated
    #[arg(long = "server-name", value_name = "NAME")]
    pub server_names: Vec<String>,
}

impl UpArgs {
    /// The configuration: defaults, then the file, then the environment, then the arguments.
    fn config(&self) -> anyhow::Result<Config> {
        let mut config: Config =
            runtime::config::load(self.config.as_deref(), std::env::vars(), ENVIRONMENT)?;
        if let Some(data) = &self.data {
            config.api.data_dir.clone_from(data);
        }
        if let Some(address) = self.operator_listen {
            config.api.operator_listen = address;
        }
        if !self.server_names.is_empty() {
            // The first name is the one that agents are told; loopback stays usable.
            let local = std::mem::take(&mut config.api.server_names);
            config.api.server_names = self.server_names.iter().cloned().chain(local).collect();
        }
        Ok(config)
    }
}

/// Starts the platform, says how to reach it, and runs until SIGTERM or Ctrl-C.
///
/// # Errors
/// When the configuration is wrong, or a role fails.
pub async fn run(args: UpArgs, out: &Out) -> anyhow::Result<()> {
    let config = args.config()?;
    runtime::observability::init(&config.log)?;
    let data = config.api.data_dir.clone();
    let drain = Drain::on_signals(DRAIN)?;
    let hangups = Hangups::listen()?;
    let mut platform = Platform::start(config, drain).await?;
    let authority = data.join(AUTHORITY);
    write_atomic(&authority, platform.authority_pem.as_bytes(), PUBLIC)?;
    let first = platform.first_start.take();
    let first = first.map(|first| FirstWords::write(&first, &data)).transpose()?;
    let started = Started::new(&platform, &data, authority, first);
    out.object_line(&started);
    for line in started.welcome() {
        out.line(&line);
    }
    let reload = platform.reload();
    let follow = async || -> anyhow::Result<_> {
        reload.follow_authority().await;
        Ok(reload.follow(&args.config()?)?)
    };
    tokio::select! {
        outcome = platform.wait() => outcome.context("the platform failed"),
        never = follow_hangups(hangups, follow) => match never {},
    }
}

/// What there is to know after a start; with `--json` it is printed as one line.
#[derive(Debug, Serialize)]
struct Started {
    /// Where operators connect.
    operator_url: String,
    /// Where agents enroll and check in.
    agent_addr: SocketAddr,
    /// Where agents hold their sessions.
    hub_addr: SocketAddr,
    /// Where metrics and readiness are served.
    admin_url: String,
    /// The folder of the store.
    data_dir: PathBuf,
    /// The authority's certificate, for `login --ca`.
    authority: PathBuf,
    /// What only the first start knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_start: Option<FirstWords>,
}

impl Started {
    fn new(
        platform: &Platform,
        data: &Path,
        authority: PathBuf,
        first_start: Option<FirstWords>,
    ) -> Self {
        Self {
            operator_url: format!("https://{}", platform.operator_addr),
            agent_addr: platform.api_agent_addr,
            hub_addr: platform.hub_agent_addr,
            admin_url: format!("http://{}", platform.admin_addr),
            data_dir: data.to_owned(),
            authority,
            first_start,
        }
    }

    fn welcome(&self) -> Vec<String> {
        let mut lines = vec![
            format!("operators   {}", self.operator_url),
            format!("agents      enrollment and check-in on port {}", self.agent_addr.port()),
            format!("            sessions on port {}", self.hub_addr.port()),
            format!("observe     {}/metrics", self.admin_url),
            format!("data        {}", self.data_dir.display()),
        ];
        if let Some(first) = &self.first_start {
            lines.extend(first.lines(&self.operator_url, &self.authority));
        }
        lines
    }
}
