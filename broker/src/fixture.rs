//! Real Redis servers for tests: spawned on free ports, killed with the thread that started them.
//!
//! Owns processes that it started, and nothing else. A helper panics when what it was asked for
//! cannot be had within [`GUARD`]: it is a part of tests.

mod client;
mod cluster;
mod parrot;
mod sentinels;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::Clock;
use tempfile::TempDir;

pub use self::client::Reply;
pub use self::cluster::RedisCluster;
pub use self::parrot::Parrot;
pub use self::sentinels::Sentinels;

/// After this a test has failed; nothing is asserted about how long things take.
pub const GUARD: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(3);
/// How often a free port may turn out to be taken before it is used.
const ATTEMPTS: usize = 20;

/// How a server is to be.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Further arguments of `redis-server`, such as `--aclfile`.
    pub args: Vec<String>,
    /// The TLS port's certificate, key and authority, and whether clients need a certificate too.
    pub tls: Option<TlsFiles>,
}

/// The files of a server with TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The authority of clients.
    pub ca: PathBuf,
    /// The server's chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whether clients need a certificate.
    pub clients: bool,
}

/// A server without anything on disk. Dropping it kills it.
#[derive(Debug)]
pub struct RedisServer {
    setup: Setup,
    folder: TempDir,
    port: u16,
    tls_port: u16,
    child: Option<Child>,
}

impl RedisServer {
    /// An empty server.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    /// An empty server of that kind.
    #[must_use]
    pub fn with(setup: Setup) -> Self {
        let mut setup = setup;
        for _ in 0..ATTEMPTS {
            match Self::try_with(setup) {
                Ok(server) => return server,
                Err(again) => setup = again,
            }
        }
        panic!("redis-server does not start; is the package redis-server installed?");
    }

    /// The same at the first attempt, or not: a port may be taken before the server has it.
    fn try_with(setup: Setup) -> Result<Self, Setup> {
        let folder = tempfile::tempdir().expect("a folder");
        let (port, tls_port) = free_ports();
        match spawn(folder.path(), &arguments(&setup, port, tls_port)) {
            Some(child) => Ok(Self { setup, folder, port, tls_port, child: Some(child) }),
            None => Err(setup),
        }
    }

    /// The port without TLS.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where it is, as a configuration spells it: with TLS if it has TLS.
    #[must_use]
    pub fn url(&self) -> String {
        match self.setup.tls {
            Some(_) => format!("rediss://127.0.0.1:{}", self.tls_port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Kills it at once, and waits until it is dead.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            child.wait().expect("it is our child");
        }
    }

    /// Starts it again on its port, empty.
    pub fn restart(&mut self) {
        self.kill();
        let arguments = arguments(&self.setup, self.port, self.tls_port);
        let began = Clock::system().now();
        while self.child.is_none() {
            assert!(began.elapsed() < GUARD, "redis-server does not start again");
            self.child = spawn(self.folder.path(), &arguments);
        }
    }

    /// Stops it in the middle of whatever it does; its sockets stay.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Makes it a replica of another.
    pub fn follow(&self, primary: &Self) {
        self.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    }

    /// Makes it a primary.
    pub fn promote(&self) {
        self.ask(&["REPLICAOF", "NO", "ONE"]);
    }

    /// Asks it one thing, as its administrator.
    ///
    /// # Panics
    /// When it says no.
    pub fn ask(&self, command: &[&str]) -> Reply {
        let reply = self.try_ask(command);
        if let Reply::Error(error) = &reply {
            panic!("{command:?}: {error}");
        }
        reply
    }

    /// The same; a no is a reply.
    pub fn try_ask(&self, command: &[&str]) -> Reply {
        client::ask(self.port, command)
    }

    /// The same, as that account with that password.
    pub fn ask_as(&self, (account, password): (&str, &str), command: &[&str]) -> Reply {
        client::ask_as(self.port, Some(["AUTH", account, password]), command)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        assert!(pid > 0, "the server is not running");
        kill(Pid::from_raw(pid), signal).expect("it is our child");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for a condition that a server fulfils by itself.
///
/// # Panics
/// When it does not.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Clock::system().now();
    while !holds() {
        assert!(began.elapsed() < GUARD, "in vain: {what}");
        std::thread::park_timeout(PAUSE);
    }
}

/// Two ports that are free at this moment.
fn free_ports() -> (u16, u16) {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let (first, second) = (listen(), listen());
    let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
    (port(&first), port(&second))
}

fn arguments(setup: &Setup, port: u16, tls_port: u16) -> Vec<String> {
    let mut arguments: Vec<String> = [
        ["--port", &port.to_string()],
        ["--bind", "127.0.0.1"],
        ["--save", ""],
        ["--appendonly", "no"],
        ["--repl-diskless-sync-delay", "0"],
        ["--repl-diskless-load", "swapdb"],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect();
    if let Some(tls) = &setup.tls {
        let path = |path: &Path| path.display().to_string();
        let clients = if tls.clients { "yes" } else { "no" };
        let more = [
            ("--tls-port", tls_port.to_string()),
            ("--tls-cert-file", path(&tls.certificate)),
            ("--tls-key-file", path(&tls.key)),
            ("--tls-ca-cert-file", path(&tls.ca)),
            ("--tls-auth-clients", clients.to_owned()),
        ];
        arguments.extend(more.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    }
    arguments.extend(setup.args.iter().cloned());
    arguments
}

/// Starts a server and waits until it serves; `None` when it ends instead.
fn spawn(folder: &Path, arguments: &[String]) -> Option<Child> {
    spawn_until(folder, arguments, "Ready to accept connections")
}

/// Starts a server and waits for a line in its log.
fn spawn_until(folder: &Path, arguments: &[String], line: &str) -> Option<Child> {
    fs::create_dir_all(folder).expect("a folder");
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig=KILL", "--", "redis-server"])
        .args(arguments)
        .arg("--dir")
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the package util-linux is installed");
    let mut log = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    if log.by_ref().map_while(Result::ok).any(|said| said.contains(line)) {
        // A log that nobody reads would stop the server once the pipe is full.
        std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
        return Some(child);
    }
    child.wait().expect("it is our child");
    None
}
