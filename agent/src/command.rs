//! The verbs of the command line, carried out.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use protocol::enrollment::EnrollmentToken;
use runtime::{Clock, Drain, Entropy};
use zeroize::Zeroizing;

use crate::cli::{HELP, Invocation, Verb};
use crate::enroll::EnrollError;
use crate::execute::rotate::{Manage, ManagedVolumes};
use crate::execute::script::supervise;
use crate::execute::wipe::managed::Managed;
use crate::identity::KeyPair;
use crate::offline::{self, Answer, Effect};
use crate::state::StateDir;
use crate::{Agent, Config, Deps, console, enroll, notify, standing, status};

/// Where the configuration lies unless it is named.
const CONFIG: &str = "/etc/tocsin/agent.toml";
/// Bytes of a passphrase that are read.
const MAX_PASSPHRASE: u64 = 4096;
/// How long a drain may take.
const GRACE: Duration = Duration::from_secs(30);

/// Carries out what was asked for.
///
/// # Errors
/// Whatever went wrong, for a person.
pub async fn carry_out(invocation: Invocation) -> anyhow::Result<()> {
    match invocation.verb.clone() {
        Verb::Help => print(HELP),
        Verb::Version => print(concat!("tocsin-agent ", env!("CARGO_PKG_VERSION"), "\n")),
        Verb::Status { json } => show_status(&config(&invocation)?, json),
        Verb::Enroll { token, name, force } => {
            enroll_here(&config(&invocation)?, token, name, force).await
        }
        Verb::EndOffline { effect, code } => end_offline(&config(&invocation)?, effect, code).await,
        Verb::Console { terminals } => show_lock(config(&invocation)?, terminals).await,
        Verb::Manage { paths } => manage(&config(&invocation)?, paths),
        Verb::ManageVolume(manage) => manage_volume(&config(&invocation)?, &manage),
        Verb::Supervise { folder, root } => supervise(&folder, &root),
        Verb::Run => run(config(&invocation)?).await,
        Verb::Reassert => reassert(config(&invocation)?).await,
    }
}

fn config(invocation: &Invocation) -> anyhow::Result<Config> {
    let usual = Path::new(CONFIG);
    let path = match &invocation.config {
        Some(path) => Some(path.as_path()),
        None => Some(usual).filter(|path| path.exists()),
    };
    let mut config: Config = runtime::config::load(path, std::env::vars(), "TOCSIN_AGENT_")?;
    if let Some(state) = &invocation.state {
        config.state_dir.clone_from(state);
    }
    if config.host.dbus.is_none() {
        config.host.dbus = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
    }
    if config.host.scripts.supervisor.is_none() {
        config.host.scripts.supervisor = std::env::current_exe().ok();
    }
    config.check().context("the configuration cannot be meant")?;
    Ok(config)
}

async fn run(config: Config) -> anyhow::Result<()> {
    runtime::observability::init(&config.log)?;
    let drain = Drain::on_signals(GRACE)?;
    let deps = Deps { clock: Clock::system(), entropy: Entropy::system(), drain: drain.clone() };
    let agent = Agent::start(config, deps).context("the agent does not start")?;
    notify::tell("READY=1");
    let stop = drain.soft().clone();
    let outcome = tokio::select! {
        outcome = agent.wait() => outcome,
        // Ends early only where there is no watchdog to feed, which is no reason to stop.
        () = async { notify::watchdog(stop).await; std::future::pending().await } => Ok(()),
    };
    notify::tell("STOPPING=1");
    Ok(outcome?)
}

/// Fails when something that should stand does not, so that the unit which calls it fails too.
async fn reassert(config: Config) -> anyhow::Result<()> {
    runtime::observability::init(&config.log)?;
    if !config.acts() {
        return Ok(());
    }
    // An agent that runs already has done this, and its executors must be alone.
    let state = StateDir::open(&config.state_dir)?;
    let putting_up = move || {
        let host = config.host();
        // Before any door is closed again for it.
        let given_back = standing::open_after_wipe(&host).err();
        let failures: Vec<_> = given_back.into_iter().chain(standing::put_up(&host)).collect();
        (failures, standing::go_on_wiping(&host, &state))
    };
    let (failures, wiped) = tokio::task::spawn_blocking(putting_up).await?;
    wiped.context("a wipe that was cut off does not go on")?;
    match failures.into_iter().next() {
        Some(failure) => bail!("not everything stands again: {}", failure.detail),
        None => Ok(()),
    }
}

/// Ends a lock or a quarantine with its offline code, and waits where somebody tried too often.
async fn end_offline(config: &Config, effect: Effect, code: String) -> anyhow::Result<()> {
    if !config.acts() {
        bail!("nothing is locked or quarantined by an agent that is not armed");
    }
    let mut code = code;
    if code == "-" {
        code.clear();
        std::io::stdin().take(1024).read_to_string(&mut code)?;
    }
    let (host, mut since) = (config.host(), Clock::system().now());
    let answer = loop {
        let (its, code) = (host.clone(), code.clone());
        let judging = move || {
            let answer = offline::carry_out(&its, effect, &code, &mut since);
            (answer, since)
        };
        let (answer, tried) = tokio::task::spawn_blocking(judging).await?;
        since = tried;
        let answer = answer.context("the code was not judged")?;
        let Answer::Wait { wait_secs } = answer else { break answer };
        // Nobody has to type it again; and it waits here also when no agent counts.
        let _ = writeln!(std::io::stderr(), "after a wrong code: waiting {wait_secs} s");
        tokio::time::sleep(Duration::from_secs(wait_secs)).await;
    };
    match answer {
        Answer::Ended { command_id } => print(&format!("the code ended command {command_id}\n")),
        Answer::Absent => bail!("no such order stands on this device"),
        Answer::NoCode => bail!("the order that stands has no offline code"),
        Answer::Used => bail!("the code of this order was used before"),
        Answer::Wrong { wait_secs, .. } => {
            bail!("this is not the code of the order that stands; the next try waits {wait_secs} s")
        }
        Answer::Mistyped { detail } => bail!("the code is mistyped: {detail}"),
        Answer::Wait { wait_secs } => bail!("too early; {wait_secs} s are to be waited"),
        Answer::Busy => bail!("the agent carries out an order; try again"),
        Answer::Failed { detail } => bail!("the code was not carried out: {detail}"),
    }
}

/// Shows a lock on the consoles until it is gone.
async fn show_lock(config: Config, terminals: Vec<PathBuf>) -> anyhow::Result<()> {
    runtime::observability::init(&config.log)?;
    if !config.acts() {
        return Ok(());
    }
    let showing = move || console::show(&config.host(), &terminals);
    tokio::task::spawn_blocking(showing).await?.context("the lock is not shown")
}

async fn enroll_here(
    config: &Config,
    token: String,
    name: Option<String>,
    force: bool,
) -> anyhow::Result<()> {
    let mut text = token;
    if text == "-" {
        text.clear();
        std::io::stdin().take(64 * 1024).read_to_string(&mut text)?;
    }
    let mut token: EnrollmentToken = text.parse().context("the token cannot be read")?;
    if !config.addresses.api.is_empty() {
        token.api.clone_from(&config.addresses.api);
    }
    let name = name.or_else(host_name).context("no host name; give one with --name")?;
    let state = StateDir::open(&config.state_dir)?;
    // Before a key is made that would not be that of the enrollment.
    if state.enrollment()?.is_some() && !force {
        return Err(EnrollError::Enrolled(state.path().to_owned()).into());
    }
    runtime::observability::init(&config.log)?;
    let key = KeyPair::load_or_make(&state.key_path(), &config.key_place())?;
    let enrollment = enroll::enroll(&state, &key, &token, name, force).await?;
    print(&format!(
        "enrolled as device {} (generation {}) in {}, its key in {}\n",
        enrollment.device_id,
        enrollment.generation,
        config.state_dir.display(),
        if key.is_in_tpm() { "the tpm" } else { "a file" }
    ))
}

/// The process that watches over one script: started by the agent, and outlives it.
fn supervise(folder: &Path, root: &Path) -> anyhow::Result<()> {
    supervise::run(folder, root).context("the script was not watched over to its end")
}

fn manage(config: &Config, paths: Vec<PathBuf>) -> anyhow::Result<()> {
    let listed = Managed::add(&config.host(), paths);
    listed.map_err(|failure| anyhow::anyhow!("the list was not written: {}", failure.detail))
}

/// Begins to manage a volume, on the authority of the passphrase on standard input.
fn manage_volume(config: &Config, manage: &Manage) -> anyhow::Result<()> {
    let mut passphrase = Zeroizing::new(Vec::new());
    std::io::stdin().take(MAX_PASSPHRASE).read_to_end(&mut passphrase)?;
    let typed = passphrase.strip_suffix(b"\n").unwrap_or(&passphrase);
    ManagedVolumes::add(&config.host(), manage, typed, &Entropy::system())
        .map_err(|failure| anyhow::anyhow!("the volume is not managed: {}", failure.detail))
}

fn show_status(config: &Config, json: bool) -> anyhow::Result<()> {
    let status = status::read(&config.host())?;
    if json {
        return print(&(serde_json::to_string_pretty(&status)? + "\n"));
    }
    let word = |value: serde_json::Value| {
        let text = value.as_str().or_else(|| value.get("state").and_then(|state| state.as_str()));
        text.unwrap_or("unknown").to_owned()
    };
    let lines = [
        ("device", status.device_id.to_string()),
        ("rung", word(serde_json::to_value(status.ladder.rung)?)),
        ("address", status.ladder.address.unwrap_or_default()),
        ("session", status.ladder.session_id.map(|id| id.to_string()).unwrap_or_default()),
        ("lock", word(serde_json::to_value(&status.lock)?)),
        ("quarantine", word(serde_json::to_value(&status.quarantine)?)),
        ("arming", status.arming),
        ("trust root", status.commands.trust_version.to_string()),
        ("journal", format!("{} records", status.commands.journal_records)),
        ("unconfirmed", status.commands.unconfirmed.to_string()),
        ("last error", status.commands.last_error.or(status.ladder.last_error).unwrap_or_default()),
    ];
    let text: String = lines.iter().map(|(name, text)| format!("{name:12} {text}\n")).collect();
    print(&text)
}

fn host_name() -> Option<String> {
    let path = PathBuf::from("/proc/sys/kernel/hostname");
    let name = std::fs::read_to_string(path).ok()?.trim().to_owned();
    Some(name).filter(|name| !name.is_empty())
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
