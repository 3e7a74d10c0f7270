//! The sandbox of the demo's real device: two network namespaces with a cable between them.
//!
//! ```text
//!  device                     router and "the internet"            the machine
//!  10.77.0.2 ── eth0══lan0 ── 10.77.0.1:7443 ─ api.sock ─────────── control plane
//!     agent, prober           10.77.0.1:7444 ─ hub.sock ─────────── hub
//!                             203.0.113.7:443  a server to talk to
//! ```
//! Owns the namespaces: they die with their processes, each process with its parent, and the
//! machine's own network is never touched. The verbs are this program run again, because a namespace
//! is left before threads are started.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use tokio::net::{TcpListener, TcpStream};

use super::relay;
use super::stage::{API_PORT, HUB_PORT, ROUTER};

const DEVICE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// A stand-in for the internet, from a range that is for documentation (RFC 5737).
const SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), 443);
/// Variable with the id of the process that starts a part of the demo.
const PARENT: &str = "TOCSIN_DEMO_PARENT";
/// How often the prober looks.
const LOOK: Duration = Duration::from_millis(20);
/// How often a child that is to end is looked at, at most: for five seconds.
const GOODBYES: u32 = 250;
/// How long the prober waits for an answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Arguments of the two hidden verbs.
#[derive(Debug, Clone, Args)]
pub struct SandboxArgs {
    /// The demo's folder
    pub folder: PathBuf,
}

/// The router: makes the namespaces, connects them, and relays until its standard input ends.
///
/// # Errors
/// When the kernel or `ip` refuses.
pub fn run_router(args: &SandboxArgs) -> anyhow::Result<()> {
    end_with_parent()?;
    enter_namespace(!Uid::effective().is_root())?;
    ip(&["link", "set", "lo", "up"])?;
    let mut device = spawn_device(&args.folder)?;
    let pid = device.id().to_string();
    ip(&["link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
    ip(&["addr", "add", &format!("{ROUTER}/24"), "dev", "lan0"])?;
    ip(&["addr", "add", &format!("{}/32", SERVER.ip()), "dev", "lo"])?;
    ip(&["link", "set", "lan0", "up"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(&args.folder, &mut device));
    // The device's namespace ends with its processes.
    runtime.block_on(see_off(&mut device));
    outcome
}

fn spawn_device(folder: &Path) -> anyhow::Result<Child> {
    let mut device =
        part("demo-device")?.arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    wait_for_byte(&mut device).context("the device's namespace was not made")?;
    Ok(device)
}

/// One byte from the child says that it is in its namespace.
pub(super) fn wait_for_byte(child: &mut Child) -> anyhow::Result<()> {
    let output = child.stdout.as_mut().context("the child has no output")?;
    let mut byte = [0];
    output.read_exact(&mut byte)?;
    Ok(())
}

/// Waits until a child whose standard input ended is gone, with all of its own, and not for ever.
pub(super) async fn see_off(child: &mut Child) {
    drop(child.stdin.take());
    for _ in 0..GOODBYES {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
    let _ = child.kill();
    let _ = child.wait();
}

async fn serve(folder: &Path, device: &mut Child) -> anyhow::Result<()> {
    let api = TcpListener::bind((ROUTER, API_PORT)).await?;
    let hub = TcpListener::bind((ROUTER, HUB_PORT)).await?;
    let server = TcpListener::bind(SERVER).await?;
    // Everything stands: the device may configure its end. Holding its input keeps it alive.
    let mut input = device.stdin.take().context("the device has no input")?;
    input.write_all(b"\n")?;
    say_ready()?;
    tokio::select! {
        outcome = relay::to_unix(api, folder.join("api.sock")) => outcome?,
        outcome = relay::to_unix(hub, folder.join("hub.sock")) => outcome?,
        outcome = echo(server) => outcome?,
        () = parent_gone() => {}
    }
    Ok(())
}

fn say_ready() -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(b"\n").and_then(|()| out.flush())
}

/// The parent holds the other end of standard input for as long as it lives.
async fn parent_gone() {
    let mut sink = tokio::io::sink();
    drop(tokio::io::copy(&mut tokio::io::stdin(), &mut sink).await);
}

async fn echo(server: TcpListener) -> std::io::Result<()> {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (mut stream, _) = server.accept().await?;
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let (mut read, mut write) = stream.split();
            drop(tokio::io::copy(&mut read, &mut write).await);
        });
    }
}

/// The device: enters its namespace, then runs the agent and the prober until it is killed.
///
/// # Errors
/// When the kernel or `ip` refuses, or the agent ends.
pub fn run_device(args: &SandboxArgs) -> anyhow::Result<()> {
    end_with_parent()?;
    enter_namespace(false)?;
    say_ready()?;
    std::io::stdin().read_exact(&mut [0]).context("the router went away")?;
    ip(&["link", "set", "lo", "up"])?;
    ip(&["addr", "add", &format!("{DEVICE}/24"), "dev", "eth0"])?;
    ip(&["link", "set", "eth0", "up"])?;
    ip(&["route", "add", "default", "via", &ROUTER.to_string()])?;
    let config = args.folder.join("device/agent.toml");
    enroll(&args.folder, &config)?;
    let mut agent = agent_command()?;
    let mut agent = agent.arg("run").arg("--config").arg(&config).spawn()?;
    let outcome = observe(&args.folder.join("device/reach.log"));
    let _ = agent.kill();
    let _ = agent.wait();
    outcome
}

/// Writes down what the device reaches, for as long as the router lives.
fn observe(log: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = probe(log) => outcome,
            () = parent_gone() => Ok(()),
        }
    })
}

fn enroll(folder: &Path, config: &Path) -> anyhow::Result<()> {
    let token = fs::read_to_string(folder.join("device/token"))?;
    let mut command = agent_command()?;
    command.args(["enroll", token.trim(), "--name", "web-17", "--config"]).arg(config);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "the sandboxed device did not enroll");
    Ok(())
}

/// This program as an agent.
pub(super) fn agent_command() -> anyhow::Result<Command> {
    let mut command = part("demo-agent")?;
    command.stdin(Stdio::null());
    Ok(command)
}

/// Talks to the server all the time, over one open connection and over new ones, and writes down
/// whenever that changes: milliseconds since the epoch, then `open` or `cut`.
async fn probe(log: &Path) -> anyhow::Result<()> {
    let clock = runtime::Clock::system();
    let mut file = fs::File::create(log)?;
    let mut held: Option<TcpStream> = None;
    let mut was_open = None;
    loop {
        let is_open = match &mut held {
            Some(stream) => talks(stream).await,
            None => false,
        };
        if !is_open {
            held = connect().await;
        }
        let now_open = is_open || held.is_some();
        if was_open != Some(now_open) {
            let word = if now_open { "open" } else { "cut" };
            writeln!(file, "{} {word}", clock.unix_millis())?;
            was_open = Some(now_open);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn connect() -> Option<TcpStream> {
    tokio::time::timeout(PATIENCE, TcpStream::connect(SERVER)).await.ok()?.ok()
}

async fn talks(stream: &mut TcpStream) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let round_trip = async {
        stream.write_all(b"?").await?;
        stream.read_exact(&mut [0]).await
    };
    matches!(tokio::time::timeout(PATIENCE, round_trip).await, Ok(Ok(_)))
}

/// However the parent ends: killed by a person, or by the kernel. Its namespace ends with this.
///
/// # Errors
/// When the kernel refuses.
pub fn end_with_parent() -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // It may have ended before the kernel knew.
    let parent = std::os::unix::process::parent_id().to_string();
    ensure!(std::env::var(PARENT).is_ok_and(|named| named == parent), "the demo is over");
    Ok(())
}

/// This program again, as a part of the demo that ends with whoever starts it.
pub(super) fn part(verb: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(verb).env(PARENT, std::process::id().to_string());
    Ok(command)
}

/// A network namespace of its own; for ordinary users also a user namespace, in which this
/// process is root and nothing outside changes.
fn enter_namespace(as_user: bool) -> anyhow::Result<()> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    if as_user {
        unshare(CloneFlags::CLONE_NEWUSER).context("the kernel makes no user namespaces")?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    unshare(CloneFlags::CLONE_NEWNET).context("the kernel makes no network namespaces")
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let path = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"];
    let program = path.into_iter().find(|path| Path::new(path).exists());
    let program = program.context("`ip` is not installed (apt install iproute2)")?;
    let output = Command::new(program).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
