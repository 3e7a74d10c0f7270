//! One process that the harness starts: a role of Tocsin, a Redis, or a peer.
//!
//! Owns the child, kills it when it is dropped, and has it end with the harness ([`leash`]). Signals
//! nobody else.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, ChildStdout};
use tokio::time::{sleep, timeout};

use super::leash::{self, End};

/// How long a process may take to come up.
const START: Duration = Duration::from_secs(60);
/// How long one may take to drain.
const DRAIN: Duration = Duration::from_secs(60);
/// How long its metrics may take.
const METRICS: Duration = Duration::from_secs(10);
/// Bytes of them at most.
const METRICS_BYTES: u64 = 4 * 1024 * 1024;
/// Between two looks whether something is there.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a process cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It does not start at all.
    #[error("the program does not start")]
    Start(#[source] io::Error),
    /// It ended instead of coming up.
    #[error("it ended at once: {0}")]
    Ended(String),
    /// It does not come up or down.
    #[error("nothing within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It cannot be signalled.
    #[error("it cannot be signalled")]
    Signal(#[from] Errno),
    /// It does not say what it counts.
    #[error("its metrics cannot be read")]
    Metrics(#[source] io::Error),
    /// No port is free.
    #[error("no port is free")]
    Port(#[source] io::Error),
}

/// How to know that it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// It prints one line of JSON.
    Line,
    /// It accepts connections on its port.
    Port,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    role: String,
    program: OsString,
    args: Vec<OsString>,
    sign: Sign,
    /// Whether it ends by SIGQUIT when it is not needed any more.
    quits: bool,
    /// Where its standard error goes.
    log: PathBuf,
    child: Option<Child>,
    /// Kept open: a process that prints more must not meet a closed pipe.
    output: Option<BufReader<ChildStdout>>,
    /// What it said of itself when it came up.
    said: Value,
    /// The port of a server: its own, also while it is down.
    port: Option<HeldPort>,
}

impl Process {
    /// A role of Tocsin, with a configuration file.
    pub(crate) fn role_of(program: &Path, verb: &str, role: &str, config: &Path) -> Self {
        let args = [verb.into(), "--json".into(), "--config".into(), config.into()];
        let log = config.with_extension("log");
        Self {
            role: role.to_owned(),
            program: program.into(),
            args: args.into(),
            sign: Sign::Line,
            quits: false,
            log,
            child: None,
            output: None,
            said: Value::Null,
            port: None,
        }
    }

    /// A Redis that keeps nothing on disk. It gets a free port with its first start.
    pub(crate) fn redis(folder: &Path) -> Self {
        let words = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir"];
        let mut args: Vec<OsString> = words.map(OsString::from).into();
        args.push(folder.into());
        args.push("--port".into());
        Self::server("redis", "redis-server", args, folder)
    }

    /// Some server that accepts connections when it is up. Its last argument is to be a port: a
    /// free one is put there with the first start.
    pub(crate) fn server(role: &str, program: &str, args: Vec<OsString>, folder: &Path) -> Self {
        Self {
            role: role.to_owned(),
            program: program.into(),
            args,
            sign: Sign::Port,
            quits: false,
            log: folder.join(format!("{role}.log")),
            child: None,
            output: None,
            said: Value::Null,
            port: None,
        }
    }

    /// The same, which has processes of its own to end and is told so in the end (SIGQUIT).
    pub(crate) const fn that_quits(mut self) -> Self {
        self.quits = true;
        self
    }

    /// The same, on that port, which its arguments name already.
    pub(crate) fn at(mut self, port: HeldPort) -> Self {
        self.said = json!({ "address": port.address });
        self.port = Some(port);
        self
    }

    /// Its role.
    pub(crate) fn role(&self) -> &str {
        &self.role
    }

    /// What it said under that key.
    pub(crate) fn said(&self, key: &str) -> Option<String> {
        self.said.get(key)?.as_str().map(str::to_owned)
    }

    /// Its process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// Starts it, and waits until it is up. One that runs is left alone.
    pub(crate) async fn start(&mut self) -> Result<(), ProcessError> {
        if self.child.is_some() {
            return Ok(());
        }
        match self.sign {
            Sign::Line => self.start_and_listen().await,
            Sign::Port if self.port.is_none() => self.start_on_free_port().await,
            Sign::Port => self.start_on_port().await,
        }
    }

    async fn start_and_listen(&mut self) -> Result<(), ProcessError> {
        let mut child = self.spawn()?;
        let output = child.stdout.take().ok_or_else(|| self.ended())?;
        let (mut output, mut line) = (BufReader::new(output), String::new());
        let read = timeout(START, output.read_line(&mut line)).await;
        read.map_err(|_| ProcessError::TimedOut(START))?.map_err(ProcessError::Start)?;
        self.said = serde_json::from_str(&line).map_err(|_| self.ended())?;
        (self.child, self.output) = (Some(child), Some(output));
        Ok(())
    }

    async fn start_on_free_port(&mut self) -> Result<(), ProcessError> {
        let port = HeldPort::new()?;
        self.args.push(port.address.port().to_string().into());
        self.said = json!({ "address": port.address });
        self.port = Some(port);
        self.start_on_port().await
    }

    async fn start_on_port(&mut self) -> Result<(), ProcessError> {
        let mut child = self.spawn()?;
        let address = self.said("address").unwrap_or_default();
        let coming_up = async {
            while TcpStream::connect(&address).await.is_err() {
                if !matches!(child.try_wait(), Ok(None)) {
                    return Err(self.ended());
                }
                sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        timeout(START, coming_up).await.map_err(|_| ProcessError::TimedOut(START))??;
        self.child = Some(child);
        Ok(())
    }

    fn spawn(&self) -> Result<Child, ProcessError> {
        let log = File::create(&self.log).map_err(ProcessError::Start)?;
        // A peer may have processes of its own, which only it can end.
        let end = match self.sign {
            Sign::Line => End::Kill,
            Sign::Port => End::Ask,
        };
        let mut command = leash::command(&self.program, &self.args, end);
        let command = command.stdin(Stdio::null()).stderr(log);
        // Ctrl-C is for whoever tidies up.
        let command = command.kill_on_drop(true).process_group(0);
        // A client of PostgreSQL would send them along.
        let command = command.env_remove("PGOPTIONS");
        let command = match self.sign {
            Sign::Line => command.stdout(Stdio::piped()),
            Sign::Port => command.stdout(Stdio::null()),
        };
        command.spawn().map_err(ProcessError::Start)
    }

    /// That it ended, with the last it said.
    fn ended(&self) -> ProcessError {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        ProcessError::Ended(log.lines().last().unwrap_or("without a word").to_owned())
    }

    /// kill -9, and waits until it is dead.
    pub(crate) async fn kill(&mut self) -> Result<(), ProcessError> {
        self.output = None;
        match self.child.take() {
            Some(mut child) => child.kill().await.map_err(ProcessError::Start),
            None => Ok(()),
        }
    }

    /// Ends it for good.
    pub(crate) async fn end(&mut self) -> Result<(), ProcessError> {
        // One that was stopped hears nothing.
        self.thaw()?;
        if self.quits { self.end_by(Signal::SIGQUIT).await } else { self.kill().await }
    }

    /// SIGTERM, and waits until it has drained. A server with processes of its own would wait for its clients then, and
    /// those of a pool stay: SIGINT.
    pub(crate) async fn drain(&mut self) -> Result<(), ProcessError> {
        self.end_by(if self.quits { Signal::SIGINT } else { Signal::SIGTERM }).await
    }

    async fn end_by(&mut self, signal: Signal) -> Result<(), ProcessError> {
        self.signal(signal)?;
        if let Some(mut child) = self.child.take() {
            let waited = timeout(DRAIN, child.wait()).await;
            waited.map_err(|_| ProcessError::TimedOut(DRAIN))?.map_err(ProcessError::Start)?;
        }
        self.output = None;
        Ok(())
    }

    /// Stops it in its tracks; its sockets stay.
    pub(crate) fn freeze(&self) -> Result<(), ProcessError> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> Result<(), ProcessError> {
        self.signal(Signal::SIGCONT)
    }

    /// One that does not run needs no signal.
    fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// What its admin port says of its metrics.
    pub(crate) async fn metrics(&self) -> Result<String, ProcessError> {
        let asking = timeout(METRICS, page(self.admin()));
        let page = asking.await.map_err(|_| ProcessError::TimedOut(METRICS))?;
        page.map_err(ProcessError::Metrics)
    }

    fn admin(&self) -> String {
        self.said("admin_url").unwrap_or_default().replace("http://", "")
    }

    /// Waits until its admin port says that it is ready.
    pub(crate) async fn ready(&self, within: Duration) -> Result<(), ProcessError> {
        let address = self.admin();
        let asking = async {
            while !is_ready(&address).await.unwrap_or(false) {
                sleep(LOOK_AGAIN).await;
            }
        };
        timeout(within, asking).await.map_err(|_| ProcessError::TimedOut(within))
    }
}

async fn is_ready(address: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(head.ends_with(b"200"))
}

async fn page(address: String) -> io::Result<String> {
    let mut stream = TcpStream::connect(&address).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(METRICS_BYTES).read_to_string(&mut answer).await?;
    let page = answer.split_once("\r\n\r\n").filter(|(head, _)| head.contains(" 200 "));
    let page = page.ok_or_else(|| io::Error::other("no page of metrics"))?;
    Ok(page.1.to_owned())
}

/// A port of loopback that the kernel gives to nobody else: it is bound, and nobody listens on this socket. A server
/// listens beside it, however often it is started (`SO_REUSEADDR`, socket(7)); whoever accepts there is that server.
#[derive(Debug)]
pub(crate) struct HeldPort {
    pub(crate) address: SocketAddr,
    _socket: TcpSocket,
}

impl HeldPort {
    pub(crate) fn new() -> Result<Self, ProcessError> {
        let hold = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            Ok(Self { address: socket.local_addr()?, _socket: socket })
        };
        hold().map_err(ProcessError::Port)
    }
}
