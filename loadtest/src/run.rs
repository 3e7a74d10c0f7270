//! A whole run: what there must be before the first phase, and what must be tidied up after the
//! last, however the middle went.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::id::DeviceId;
use runtime::{Clock, Drain, Entropy};
use tokio::sync::watch;

use crate::book::Book;
use crate::conductor::{Bench, ConductError, Played};
use crate::crew::wire::{Ask, Muster};
use crate::crew::{Crew, CrewError};
use crate::evaluate;
use crate::fleet::{self, Groups, Kinds};
use crate::layout::{Layout, LayoutError, Limits, Wanted};
use crate::live::Live;
use crate::meters::{HARNESS, Meters};
use crate::moment::Timeline;
use crate::open_files::OpenFilesError;
use crate::operator::{Access, Operator, OperatorError};
use crate::plan::{Plan, Start};
use crate::probe;
use crate::report::{Machine, Report};
use crate::site::{Site, SiteError};
use crate::swarm::Kind;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system has no monotonic clock.
    #[error("the machine's clock cannot be read")]
    Clock(#[from] nix::errno::Errno),
    /// The limit of open files.
    #[error("there are not enough open files")]
    OpenFiles(#[from] OpenFilesError),
    /// The swarm does not fit.
    #[error("the swarm does not fit on this machine")]
    Layout(#[from] LayoutError),
    /// The platform did not start.
    #[error("the platform did not start")]
    Site(#[from] SiteError),
    /// A platform that is only told of must be named.
    #[error("the platform runs already: name it with --api, --ca and TOCSIN_TOKEN")]
    NoAccess,
    /// The operator's port.
    #[error("the operator's port cannot be used")]
    Operator(#[from] OperatorError),
    /// A worker.
    #[error("the swarm cannot be used")]
    Crew(#[from] CrewError),
    /// A phase could not be played.
    #[error("the scenario could not be played")]
    Conduct(#[from] ConductError),
    /// Ctrl-C before anything was measured.
    #[error("interrupted before anything was measured")]
    Interrupted,
}

/// What a run takes besides its plan.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name of the scenario.
    pub scenario: String,
    /// What the run is called in comparisons.
    pub label: String,
    /// A platform that runs already.
    pub access: Option<Access>,
    /// The program that the harness starts, if not the one beside it.
    pub program: Option<PathBuf>,
    /// Processes of workers; `None`: as many as are needed.
    pub workers: Option<u64>,
    /// Source addresses; empty: the harness decides.
    pub sources: Vec<IpAddr>,
    /// Processes that are only looked at, by role.
    pub watched: Vec<(String, u32)>,
    /// How long to wait for what must come.
    pub patience: Duration,
    /// Whether the devices stay enrolled.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scenario: String::new(),
            label: String::new(),
            access: None,
            program: None,
            workers: None,
            sources: Vec::new(),
            watched: Vec::new(),
            patience: Duration::from_secs(60),
            keep: false,
        }
    }
}

/// Makes a run, from the platform's start to the last revocation. How it goes is shown in `live`.
///
/// # Errors
/// [`RunError`] when nothing could be measured. What was enrolled is revoked then as well.
pub async fn run(
    plan: &Plan,
    options: &Options,
    live: &watch::Sender<Live>,
    drain: &Drain,
) -> Result<Report, RunError> {
    let (clock, entropy) = (Clock::system(), Entropy::system());
    let timeline = Timeline::new(clock)?;
    let limits = Limits::of_machine()?;
    let started_at_ms = timeline.clock().unix_millis();
    let load_before = probe::load();
    let mut notes = Vec::new();
    let site = match plan.platform.start {
        Start::Given => None,
        Start::Up | Start::Split => {
            say(live, "starting the platform".to_owned());
            Some(Site::start(&plan.platform, options.program.as_deref()).await?)
        }
    };
    let own = site.as_ref().map(|site| site.access().clone());
    let access = own.or_else(|| options.access.clone()).ok_or(RunError::NoAccess)?;
    let operator = Operator::new(&access, entropy.clone())?.with_patience(options.patience);
    let layout = Layout::plan(&wanted(plan, options, &access), limits)?;
    if let Some(site) = &site {
        let roles: Vec<_> = site.pids().into_iter().map(|(role, _)| role).collect();
        notes.push(format!("started by the harness: {}", roles.join(", ")));
    }
    notes.push(layout.to_string());
    notes.iter().for_each(|note| say(live, note.clone()));

    let meters = Arc::new(Meters::default());
    meters.follow(options.watched.clone());
    meters.follow(site.iter().flat_map(Site::pids));
    let book = Arc::new(Book::default());
    let crew = Crew::start(layout.shares.len(), &book)?;
    let workers = (1..).map(|number| format!("{HARNESS}-worker-{number}"));
    meters.follow(workers.zip(crew.pids()));
    meters.follow([(HARNESS.to_owned(), std::process::id())]);
    let groups = Groups::draw(&entropy);
    let bench = Bench {
        plan,
        patience: options.patience,
        drain,
        timeline,
        operator: operator.clone(),
        book,
        meters,
        live,
        groups,
        site: tokio::sync::Mutex::new(site),
        crew,
        sources: layout.sources.clone(),
    };
    let (played, ids, site) = Box::pin(play(bench, &access, &layout)).await;
    // A platform that ends with the run forgets its devices by itself.
    if site.is_none() && !options.keep && !ids.is_empty() {
        say(live, format!("revoking {} devices", ids.len()));
        let left = fleet::revoke(&operator, &ids, drain).await;
        if left > 0 {
            notes.push(format!("{left} devices were not revoked"));
        }
    }
    if let Some(site) = site {
        site.stop().await;
    }
    let machine = Machine {
        processors: probe::processors(),
        kernel: probe::kernel_version(),
        load_before,
        load_after: probe::load(),
        steal_ms: None,
    };
    let about = evaluate::About { plan, options, layout: &layout, started_at_ms, machine, notes };
    Ok(evaluate::report(about, played?, drain.is_draining()))
}

/// Enrolls, plays every phase, and lets the swarm go. Answers what is to be revoked as well.
async fn play(
    mut bench: Bench<'_>,
    access: &Access,
    layout: &Layout,
) -> (Result<Played, RunError>, Vec<DeviceId>, Option<Site>) {
    let devices = match enroll(&mut bench, access, layout).await {
        Ok(devices) => devices,
        Err((error, ids)) => {
            let Bench { crew, site, .. } = bench;
            crew.stop().await;
            return (Err(error), ids, site.into_inner());
        }
    };
    let ids = devices.values().flatten().copied().collect();
    let played = if bench.drain.is_draining() {
        Err(RunError::Interrupted)
    } else {
        Box::pin(bench.play(&devices)).await.map_err(RunError::from)
    };
    let Bench { crew, site, live, .. } = bench;
    say(live, "letting the swarm go".to_owned());
    crew.stop().await;
    (played, ids, site.into_inner())
}

type ByKind = BTreeMap<Kind, Vec<DeviceId>>;

async fn enroll(
    bench: &mut Bench<'_>,
    access: &Access,
    layout: &Layout,
) -> Result<ByKind, (RunError, Vec<DeviceId>)> {
    let population = &bench.plan.population;
    let kinds = Kinds {
        push: population.connections,
        stalled: population.stalled,
        polling: population.polling,
    };
    say(bench.live, format!("enrolling {} devices into {}", kinds.total(), bench.groups.all));
    let mut first = 0;
    let groups = &bench.groups;
    let asked = bench.crew.ask(|worker| {
        let count = layout.shares[worker];
        let muster = Muster { access: access.clone(), first, count, kinds, groups: groups.clone() };
        first += count;
        Ask::Enroll(Box::new(muster))
    });
    asked.await.map_err(|error| (error.into(), Vec::new()))?;
    let soft = bench.drain.soft().clone();
    let (devices, error) = tokio::select! {
        biased;
        enrolled = bench.crew.enrolled() => enrolled,
        () = soft.cancelled() => {
            // Workers that are asked to stop say what they have by then.
            let _ = bench.crew.ask(|_| Ask::Stop).await;
            bench.crew.enrolled().await
        }
    };
    let mut by_kind = ByKind::new();
    for (kind, id) in devices {
        by_kind.entry(kind).or_default().push(id);
    }
    match error {
        None => Ok(by_kind),
        Some(error) => Err((error.into(), by_kind.into_values().flatten().collect())),
    }
}

fn wanted(plan: &Plan, options: &Options, access: &Access) -> Wanted {
    let address = access.api.trim_start_matches("https://").trim_end_matches('/');
    // A name that means nothing is found out by whoever connects.
    let addresses = address.to_socket_addrs().into_iter().flatten();
    let addresses: Vec<_> = addresses.map(|address| address.ip()).collect();
    Wanted {
        connections: plan.population.total(),
        workers: options.workers,
        sources: options.sources.clone(),
        is_loopback: !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback),
    }
}

/// Says what goes on, on the dashboard and in the log.
pub(crate) fn say(live: &watch::Sender<Live>, what: String) {
    tracing::info!("{what}");
    live.send_modify(|live| live.say(what));
}
