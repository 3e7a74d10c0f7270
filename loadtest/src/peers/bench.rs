//! One peer on the bench: its process, its clients, and what is measured of both.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::limits::HEARTBEAT;
use runtime::Drain;
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wire::{Door, EVERYBODY, Link, Wire, channel};
use super::{PeersError, authority};
use crate::evaluate::float;
use crate::latency::{Durations, Latency};
use crate::moment::{Moment, Timeline};
use crate::pacer::Pacer;
use crate::probe::{self, Usage};
use crate::rate::{Rate, Schedule};
use crate::site::process::{HeldPort, Process};

/// Connections that are being opened at a time.
pub(super) const AT_ONCE: usize = 128;
/// Bytes of a message, as in the numbers that are published elsewhere.
const PAYLOAD: usize = 256;
/// How long clients and messages may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Publishers that share the messages.
const PUBLISHERS: usize = 16;
/// From the last preparation to the first message.
const BREATH: Duration = Duration::from_millis(200);

/// What a quiet session takes.
pub(super) struct Idle {
    /// Memory, in KiB.
    pub(super) kib: Option<f64>,
    /// Processor time in a second, in microseconds, if they were watched for long enough.
    pub(super) cpu_us: Option<f64>,
}

/// What connecting came to.
pub(super) struct Connects {
    pub(super) per_sec: f64,
    pub(super) cpu_us: Option<f64>,
}

/// What messages came to.
pub(super) struct Messages {
    pub(super) latency: Latency,
    pub(super) cpu_us: Option<f64>,
    pub(super) client_cpu_us: Option<f64>,
}

/// Microseconds of processor time between two looks.
fn used(before: Option<Duration>, after: Option<Duration>) -> Option<f64> {
    Some(after?.saturating_sub(before?).as_secs_f64() * 1e6)
}

/// What arrived so far.
#[derive(Debug, Default)]
struct Inbox {
    latencies: Mutex<Durations>,
    count: watch::Sender<u64>,
}

impl Inbox {
    fn take_in(&self, latency: Duration) {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).record(latency);
        self.count.send_modify(|count| *count += 1);
    }

    fn clear(&self) {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.count.send_replace(0);
    }

    fn latency(&self) -> Latency {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).latency()
    }

    async fn has(&self, wanted: u64) -> bool {
        let mut count = self.count.subscribe();
        // The sender lives in self: waiting cannot fail but by its time.
        timeout(PATIENCE, count.wait_for(|count| *count >= wanted)).await.is_ok()
    }
}

/// The bench.
pub(super) struct Stand {
    process: tokio::sync::Mutex<Process>,
    pid: u32,
    before: Usage,
    door: Door,
    connections: u32,
    timeline: Timeline,
    inbox: Arc<Inbox>,
    _folder: TempDir,
}

impl Stand {
    /// Starts the peer with its committed configuration.
    pub(super) async fn start(
        wire: Wire,
        connections: u32,
        timeline: Timeline,
    ) -> Result<Self, PeersError> {
        let folder = tempfile::Builder::new().prefix("tocsin-loadtest-").tempdir();
        let folder = folder.map_err(PeersError::Files)?;
        let tls = authority::make(folder.path())?;
        let start = |source| PeersError::Start { server: wire.as_str(), source };
        let port = HeldPort::new().map_err(start)?;
        let address = port.address;
        let (program, template, option) = match wire {
            Wire::Nats => ("nats-server", include_str!("../../peers/nats.conf"), "-c"),
            Wire::Nchan => ("nginx", include_str!("../../peers/nginx.conf"), "-c"),
            Wire::Mqtt => ("mosquitto", include_str!("../../peers/mosquitto.conf"), "-c"),
        };
        let file = folder.path().join("peer.conf");
        let text = filled(template, wire, address.port(), &folder.path().display().to_string());
        std::fs::write(&file, text).map_err(PeersError::Files)?;
        let args = vec![option.into(), file.into()];
        let mut process =
            Process::server(wire.as_str(), &program_path(program), args, folder.path()).at(port);
        process.start().await.map_err(start)?;
        let pid = process.pid().unwrap_or_default();
        let before = probe::family(pid).unwrap_or_default();
        let door = Door { wire, address, tls };
        let (process, inbox) = (tokio::sync::Mutex::new(process), Arc::default());
        Ok(Self { process, pid, before, door, connections, timeline, inbox, _folder: folder })
    }

    fn failed(&self, why: impl ToString) -> PeersError {
        PeersError::Client { server: self.door.wire.as_str(), why: why.to_string() }
    }

    /// The present moment.
    pub(super) fn now(&self) -> Moment {
        self.timeline.now()
    }

    fn usage(&self) -> Usage {
        probe::family(self.pid).unwrap_or_default()
    }

    /// Connects everybody as fast as they come to stand. Their readers end with what is answered.
    pub(super) async fn connect_all(
        &self,
    ) -> Result<(JoinSet<io::Result<()>>, Connects), PeersError> {
        let (began, before) = (self.timeline.now(), self.usage());
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut opening = JoinSet::new();
        for number in 0..self.connections {
            let (door, slots) = (self.door.clone(), slots.clone());
            opening.spawn(async move {
                let slot = slots.acquire_owned().await.map_err(io::Error::other)?;
                let link = timeout(PATIENCE, door.subscriber(number)).await;
                drop(slot);
                link.map_err(io::Error::other)?
            });
        }
        let mut readers = JoinSet::new();
        while let Some(link) = opening.join_next().await {
            let link = link.map_err(|error| self.failed(error))?;
            let link = link.map_err(|error| self.failed(error))?;
            readers.spawn(read(link, self.inbox.clone(), self.timeline.clone()));
        }
        let secs = self.timeline.now().since(began).as_secs_f64();
        let each = f64::from(self.connections.max(1));
        let per_sec = each / secs.max(1e-6);
        let cpu_us = used(before.cpu, self.usage().cpu).map(|used| used / each);
        Ok((readers, Connects { per_sec, cpu_us }))
    }

    /// What quiet sessions take.
    pub(super) async fn idle(&self, rest: Duration, drain: &Drain) -> Idle {
        // As long as with Tocsin nothing is measured, and then as long as with Tocsin.
        let settling = rest.min(HEARTBEAT);
        let _ = timeout(settling, drain.soft().cancelled()).await;
        let (since, before) = (self.timeline.now(), self.usage());
        let _ = timeout(rest.saturating_sub(settling), drain.soft().cancelled()).await;
        let (secs, after) = (self.timeline.now().since(since).as_secs_f64(), self.usage());
        let each = f64::from(self.connections.max(1));
        let more = after.pss_kib.zip(self.before.pss_kib);
        let more = more.map(|(after, before)| float(after) - float(before));
        let cpu_us = used(before.cpu, after.cpu).filter(|_| rest >= HEARTBEAT * 2);
        Idle { kib: more.map(|more| more / each), cpu_us: cpu_us.map(|used| used / each / secs) }
    }

    /// Messages of one client each, at a constant intended rate.
    pub(super) async fn unicast(&self, rate: Rate, count: u32) -> Result<Messages, PeersError> {
        self.inbox.clear();
        let clock = self.timeline.clock().clone();
        let own = || probe::alone(std::process::id()).unwrap_or_default().cpu;
        let mut links = Vec::new();
        for _ in 0..PUBLISHERS {
            links.push(self.door.publisher().await.map_err(|error| self.failed(error))?);
        }
        let (server_before, client_before) = (self.usage().cpu, own());
        let schedule = Schedule::new(clock.now() + BREATH, rate);
        let pacer = Arc::new(Pacer::start(schedule, count.into(), clock));
        let mut tasks = JoinSet::new();
        for mut link in links {
            let (pacer, timeline, connections) =
                (pacer.clone(), self.timeline.clone(), self.connections);
            tasks.spawn(async move {
                while let Some(index) = pacer.next().await {
                    let to = u32::try_from(index % u64::from(connections.max(1))).unwrap_or(0);
                    let payload = payload(timeline.of(schedule.at(index)));
                    link.publish(&channel(to), &payload).await?;
                }
                Ok::<(), io::Error>(())
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            outcome.map_err(|error| self.failed(error))?.map_err(|error| self.failed(error))?;
        }
        self.arrived(count.into()).await?;
        let each = f64::from(count.max(1));
        Ok(Messages {
            latency: self.inbox.latency(),
            cpu_us: used(server_before, self.usage().cpu).map(|used| used / each),
            client_cpu_us: used(client_before, own()).map(|used| used / each),
        })
    }

    /// One message to everybody: how long until the last one has it.
    pub(super) async fn broadcast(&self) -> Result<Duration, PeersError> {
        self.inbox.clear();
        let mut link = self.door.publisher().await.map_err(|error| self.failed(error))?;
        let began = self.timeline.now();
        let sent = link.publish(EVERYBODY, &payload(began)).await;
        sent.map_err(|error| self.failed(error))?;
        self.arrived(self.connections.into()).await?;
        Ok(self.timeline.now().since(began))
    }

    async fn arrived(&self, wanted: u64) -> Result<(), PeersError> {
        if self.inbox.has(wanted).await {
            return Ok(());
        }
        let came = *self.inbox.count.borrow();
        Err(PeersError::Lost { server: self.door.wire.as_str(), came, wanted })
    }

    /// Ends the process.
    pub(super) async fn stop(self) {
        let ended = self.process.lock().await.drain().await;
        if let Err(error) = ended {
            tracing::warn!(error = &error as &dyn std::error::Error, "a peer did not end");
        }
    }
}

/// Reads until the connection is over. What is not ours is not counted.
async fn read(mut link: Link, inbox: Arc<Inbox>, timeline: Timeline) -> io::Result<()> {
    loop {
        let payload = link.next().await?;
        let now = timeline.now();
        let text = std::str::from_utf8(&payload).unwrap_or_default();
        if let Ok(intended) = serde_json::from_str::<Moment>(text.trim_end_matches('.')) {
            inbox.take_in(now.since(intended));
        }
    }
}

/// A message that says when it was meant to leave.
pub(super) fn payload(intended: Moment) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&intended).unwrap_or_default();
    bytes.resize(PAYLOAD, b'.');
    bytes
}

/// The committed configuration with what a run decides. As root, a peer stays root: its files are
/// readable for nobody else.
fn filled(template: &str, wire: Wire, port: u16, folder: &str) -> String {
    let user = match (nix::unistd::geteuid().is_root(), wire) {
        (false, _) | (true, Wire::Nats) => "",
        (true, Wire::Nchan) => "user root;",
        (true, Wire::Mqtt) => "user root",
    };
    let text = template.replace("@PORT@", &port.to_string());
    text.replace("@FOLDER@", folder).replace("@USER@", user)
}

/// Servers lie where only root's `PATH` looks.
fn program_path(program: &str) -> String {
    let folders = ["/usr/sbin", "/usr/local/sbin"];
    let paths = folders.map(|folder| format!("{folder}/{program}"));
    let found = paths.into_iter().find(|path| std::path::Path::new(path).is_file());
    found.unwrap_or_else(|| program.to_owned())
}
