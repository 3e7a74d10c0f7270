//! The platform of a run: processes that the harness starts, on free ports of loopback and in a
//! folder that goes away with it, or one that runs already.
//!
//! Owns those processes and nothing else: what was only told of is never touched. It runs the
//! programs that people run, with files that people could have written. They end with the harness,
//! however it ends.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::ages::{Ages, ByHub};
use crate::meters::is_hub;
use crate::operator::Access;
use crate::plan::{FaultKind, Platform, Start, Store};

use self::files::Files;
use self::postgres::Postgres;
use self::process::{Process, ProcessError};

mod files;
pub(crate) mod leash;
mod postgres;
pub(crate) mod process;

/// Name of the program of every role.
const PROGRAM: &str = "tocsin";
/// The sessions of a hub among its metrics.
const SESSIONS: &str = "tocsin_push_hub_sessions{rung=\"push\"} ";
/// How long a hub may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// Why there is no platform.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The folder or a file in it.
    #[error("{0} cannot be written")]
    File(PathBuf, #[source] io::Error),
    /// A process.
    #[error("{0} cannot be used")]
    Process(String, #[source] ProcessError),
    /// The program is nowhere.
    #[error("there is no program `tocsin` beside this one or in PATH; name it with --tocsin")]
    NoProgram,
    /// There is no PostgreSQL.
    #[error("there is no PostgreSQL: the Debian package `postgresql` is needed, and its account")]
    NoPostgres,
    /// A file of the platform that cannot be read.
    #[error("{0} cannot be read")]
    Unreadable(PathBuf, #[source] io::Error),
    /// A setting of the scenario that has no TOML.
    #[error("the settings of the scenario cannot be written down")]
    Settings(#[from] toml::ser::Error),
    /// A fault of a process that the harness did not start.
    #[error("{0} was not started by this run")]
    NotOurs(String),
}

/// A platform that the harness started. Dropping it kills every process.
#[derive(Debug)]
pub struct Site {
    // In the order in which they may go: the folder last.
    processes: Vec<Process>,
    access: Access,
    _folder: TempDir,
    _database: Option<TempDir>,
}

impl Site {
    /// Starts what the scenario wants.
    ///
    /// # Errors
    /// [`SiteError`]. Nothing keeps running then.
    pub async fn start(platform: &Platform, program: Option<&Path>) -> Result<Self, SiteError> {
        let program = program.map_or_else(find_program, |given| Ok(given.to_owned()))?;
        let folder = tempfile::Builder::new().prefix("tocsin-loadtest-").tempdir();
        let folder = folder.map_err(|error| SiteError::File(std::env::temp_dir(), error))?;
        let (database, kept, url) = match (platform.start, platform.store) {
            (Start::Up | Start::Split, Store::Postgres) => {
                let Postgres { process, url, folder } = postgres::start().await?;
                (Some(process), Some(folder), Some(url))
            }
            (Start::Given, _) | (_, Store::Sqlite) => (None, None, None),
        };
        let files = Files { folder: folder.path(), platform, database: url.as_deref() };
        let processes = match platform.start {
            Start::Up => up(&files, &program).await?,
            Start::Split => split(&files, &program).await?,
            Start::Given => Vec::new(),
        };
        let url = processes.iter().find_map(|process| process.said("operator_url"));
        let read = |path: PathBuf| {
            fs::read_to_string(&path).map_err(|error| SiteError::Unreadable(path, error))
        };
        let access = Access {
            api: url.unwrap_or_default(),
            ca_pem: read(files.data().join("authority.pem"))?,
            token: read(files.data().join("owner.token"))?.trim().to_owned(),
        };
        let processes = database.into_iter().chain(processes).collect();
        Ok(Self { processes, access, _folder: folder, _database: kept })
    }

    /// How to speak with it.
    pub const fn access(&self) -> &Access {
        &self.access
    }

    /// Its processes that run now, by role.
    pub fn pids(&self) -> Vec<(String, u32)> {
        let running = |process: &Process| Some((process.role().to_owned(), process.pid()?));
        self.processes.iter().filter_map(running).collect()
    }

    /// What its hubs have counted of commands; `None`: one of them does not say.
    pub(crate) async fn ages(&self) -> Option<ByHub> {
        let pages = self.hub_pages().await?;
        Some(pages.into_iter().map(|(hub, page)| (hub, Ages::read(&page))).collect())
    }

    /// Sessions over a WebSocket that its hubs have; `None`: one of them does not say.
    pub(crate) async fn sessions(&self) -> Option<u64> {
        let pages = self.hub_pages().await?;
        let of = |page: &String| {
            let line = page.lines().find_map(|line| line.strip_prefix(SESSIONS));
            line?.trim().parse::<u64>().ok()
        };
        pages.values().map(of).sum()
    }

    /// The metrics of its hubs that run, by role and process.
    async fn hub_pages(&self) -> Option<BTreeMap<(String, u32), String>> {
        let mut pages = BTreeMap::new();
        for process in self.processes.iter().filter(|process| is_hub(process.role())) {
            let Some(pid) = process.pid() else { continue };
            pages.insert((process.role().to_owned(), pid), process.metrics().await.ok()?);
        }
        Some(pages)
    }

    /// Does that to one of its processes.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn fault(&mut self, role: &str, what: FaultKind) -> Result<(), SiteError> {
        let process = self.processes.iter_mut().find(|process| process.role() == role);
        let process = process.ok_or_else(|| SiteError::NotOurs(role.to_owned()))?;
        let done = match what {
            FaultKind::Kill => process.kill().await,
            FaultKind::Drain => process.drain().await,
            FaultKind::Stop => process.freeze(),
            FaultKind::Continue => process.thaw(),
            FaultKind::Start => process.start().await,
        };
        done.map_err(|error| SiteError::Process(role.to_owned(), error))
    }

    /// Ends every process, and says whether all of them ended as they should.
    pub async fn stop(mut self) {
        for process in self.processes.iter_mut().rev() {
            if let Err(error) = process.end().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a process did not end");
            }
        }
    }
}

/// Starts a process and keeps it if it came up.
async fn started(process: Process) -> Result<Process, SiteError> {
    let mut process = process;
    let outcome = process.start().await;
    outcome.map_err(|error| SiteError::Process(process.role().to_owned(), error))?;
    Ok(process)
}

async fn up(files: &Files<'_>, program: &Path) -> Result<Vec<Process>, SiteError> {
    let config = files.up()?;
    Ok(vec![started(Process::role_of(program, "up", "up", &config)).await?])
}

async fn split(files: &Files<'_>, program: &Path) -> Result<Vec<Process>, SiteError> {
    let redis = started(Process::redis(files.folder)).await?;
    let redis_url = format!("redis://{}", redis.said("address").unwrap_or_default());
    // The first start makes the authority, without which no hub has an identity.
    let config = files.api(&redis_url, ["127.0.0.1:0", "127.0.0.1:0"], &[])?;
    let mut api = started(Process::role_of(program, "api", "api", &config)).await?;
    let said = |process: &Process, key: &str| process.said(key).unwrap_or_default();
    let operators = said(&api, "operator_url").replace("https://", "");
    let agents = said(&api, "agent_addr");
    let stopped = api.kill().await;
    stopped.map_err(|error| SiteError::Process("api".to_owned(), error))?;
    let (mut hubs, mut urls) = (Vec::new(), Vec::new());
    for number in 1..=files.platform.hubs {
        let name = format!("hub-{number}");
        files.issue(program, &name).await?;
        let config = files.hub(&redis_url, &name, "127.0.0.1:0")?;
        let hub = started(Process::role_of(program, "hub", &name, &config)).await?;
        let address = said(&hub, "hub_addr");
        // From now on it keeps that port, also when it is started again.
        files.hub(&redis_url, &name, &address)?;
        urls.push(format!("https://{address}"));
        hubs.push(hub);
    }
    files.api(&redis_url, [&operators, &agents], &urls)?;
    let again = api.start().await;
    again.map_err(|error| SiteError::Process("api".to_owned(), error))?;
    for hub in &hubs {
        let ready = hub.ready(READY).await;
        ready.map_err(|error| SiteError::Process(hub.role().to_owned(), error))?;
    }
    Ok([redis, api].into_iter().chain(hubs).collect())
}

/// The program beside this one, else in `PATH`.
fn find_program() -> Result<PathBuf, SiteError> {
    let own = std::env::current_exe().ok();
    // Test programs lie one folder below.
    let beside = own.iter().flat_map(|own| own.ancestors().skip(1).take(2));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.map(Path::to_owned).chain(std::env::split_paths(&path));
    let mut programs = folders.map(|folder| folder.join(PROGRAM));
    programs.find(|program| program.is_file()).ok_or(SiteError::NoProgram)
}
