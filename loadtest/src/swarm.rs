//! A swarm: many simulated devices, each with a session of its own to a real hub.
//!
//! Owns their tasks, how many connect at a time, and the switches that end or cut them. What one
//! device does is the part of the modules below.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::close::Advice;
use protocol::id::BootId;
use protocol::time::Timestamp;
use runtime::lifecycle::CancellationToken;
use runtime::{Backoff, Clock, Entropy};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::fleet::Enrolled;
use crate::http::{HttpError, Peer, SocketSettings};
use crate::rate::{Rate, Schedule};
use crate::tally::Tally;

use self::device::Device;
use self::socket::{Ended, Session};

mod check_in;
mod device;
mod inbox;
mod opening;
mod socket;

/// The pause after a failed connection: the first ceiling and the last.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// What the kernel may hold for a device that does not read: the least that Linux gives.
const STALLED_BYTES: u32 = 2 * 1024;
/// How long the goodbyes of a swarm may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// How a device behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// As an agent with a session.
    Push,
    /// Opens a session and reads nothing from then on.
    Stalled,
    /// Has no session, and checks in with the control plane.
    Polling,
}

/// How a swarm connects.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Connections that are being opened at the same time; nothing: all of them.
    pub at_once: usize,
    /// The rate at which the first connections begin; `None`: as fast as they come to stand.
    pub rate: Option<Rate>,
    /// Addresses that connections are bound to in turn; empty: what the system picks.
    pub sources: Vec<IpAddr>,
    /// The interval of check-ins, give or take a fifth.
    pub check_in: Duration,
}

/// What the devices of a swarm share.
#[derive(Debug)]
pub(crate) struct Shared {
    clock: Clock,
    entropy: Entropy,
    tally: Arc<Tally>,
    connecting: Semaphore,
    stop: CancellationToken,
    connected: watch::Sender<usize>,
    dropped: watch::Sender<u64>,
    check_in: Duration,
}

impl Shared {
    /// An interval between check-ins: a fifth more or less than the usual one.
    fn interval(&self) -> Duration {
        let usual = u64::try_from(self.check_in.as_millis()).unwrap_or(u64::MAX / 8).max(5);
        Duration::from_millis(usual * 4 / 5 + self.entropy.below(usual * 2 / 5))
    }
}

/// A running swarm. Dropping it cuts every socket.
#[derive(Debug)]
pub struct Swarm {
    shared: Arc<Shared>,
    size: usize,
    /// One for each device: when its socket was meant to be cut last.
    cuts: Vec<Cuts>,
    tasks: JoinSet<()>,
}

impl Swarm {
    /// Lets every device connect. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`HttpError::Address`] when the address of a hub is none.
    pub fn start(
        devices: Vec<(Kind, Enrolled)>,
        settings: &Settings,
        tally: Arc<Tally>,
        (clock, entropy): (Clock, Entropy),
    ) -> Result<Self, HttpError> {
        let boot_id = BootId::new(Timestamp::from_millis(clock.unix_millis()), entropy.bytes());
        let schedule = settings.rate.map(|rate| Schedule::new(clock.now(), rate));
        let shared = Arc::new(Shared {
            clock,
            entropy,
            tally,
            connecting: Semaphore::new(slots(settings.at_once, devices.len())),
            stop: CancellationToken::new(),
            connected: watch::Sender::new(0),
            dropped: watch::Sender::new(0),
            check_in: settings.check_in,
        });
        let size = devices.len();
        let (mut tasks, mut cuts) = (JoinSet::new(), Vec::with_capacity(size));
        for (number, (kind, enrolled)) in (0..).zip(devices) {
            // Devices spread over the hubs, and over the addresses, by their number.
            let at = usize::try_from(number).unwrap_or(0);
            let source = at.checked_rem(settings.sources.len()).map(|at| settings.sources[at]);
            let receive_bytes = (kind == Kind::Stalled).then_some(STALLED_BYTES);
            let socket = SocketSettings { source, receive_bytes };
            let peers = |addresses: &[String]| {
                let peer = |url: &String| Peer::new(url, enrolled.tls.clone());
                let peers = addresses.iter().map(peer);
                let peers = peers.map(|peer| peer.map(|peer| peer.with_socket(socket)));
                peers.collect::<Result<Vec<_>, _>>()
            };
            let (hubs, api) = (peers(&enrolled.hubs)?, peers(&enrolled.api)?);
            let device = Device::new(enrolled, boot_id);
            let due = schedule.map(|schedule| schedule.at(number));
            let shared = shared.clone();
            let life = Life { hubs, api, at, device, shared, had_session: false, due };
            let cut = Cuts::new(None);
            tasks.spawn(life.run(kind, cut.subscribe()));
            cuts.push(cut);
        }
        Ok(Self { shared, size, cuts, tasks })
    }

    /// How many have a session now, or have checked in.
    pub fn connected(&self) -> usize {
        *self.shared.connected.borrow()
    }

    /// Sessions that ended without being asked to.
    pub fn dropped(&self) -> u64 {
        *self.shared.dropped.borrow()
    }

    /// Waits until every device has a session.
    pub async fn all_connected(&self) {
        let mut connected = self.shared.connected.subscribe();
        // The sender lives in self: waiting cannot fail.
        let _ = connected.wait_for(|connected| *connected == self.size).await;
    }

    /// Cuts every socket at once, without a word. Each device connects again immediately, and what that
    /// takes counts from the cut. Answers when all sockets are gone.
    pub async fn cut(&self) {
        let at = Some(self.shared.clock.now());
        let mut connected = self.shared.connected.subscribe();
        // Nobody connects again before the last one is gone.
        let slots = u32::try_from(self.shared.connecting.available_permits()).unwrap_or(u32::MAX);
        let held = self.shared.connecting.acquire_many(slots).await;
        for cut in &self.cuts {
            cut.send_replace(at);
        }
        let _ = connected.wait_for(|connected| *connected == 0).await;
        drop(held);
    }

    /// Cuts the socket of one device, in turn, which was to be done at that moment.
    pub fn cut_one(&self, turn: u64, due: Instant) {
        let count = u64::try_from(self.cuts.len()).unwrap_or(u64::MAX);
        let Some(at) = turn.checked_rem(count) else { return };
        self.cuts[usize::try_from(at).unwrap_or(0)].send_replace(Some(due));
    }

    /// Says goodbye on every session, and waits until all are gone.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// When a device's socket was meant to be cut last, for the device to hear of.
type Cuts = watch::Sender<Option<Instant>>;

/// So many connections of all of those are being opened at a time.
fn slots(at_once: usize, devices: usize) -> usize {
    if at_once == 0 { devices.max(1) } else { at_once.min(Semaphore::MAX_PERMITS) }
}

/// One device from its first connection to the end of the swarm.
struct Life {
    hubs: Vec<Peer>,
    api: Vec<Peer>,
    at: usize,
    device: Device,
    shared: Arc<Shared>,
    had_session: bool,
    /// When the next session was meant to begin, whenever its first packet leaves: the time that a
    /// device waits for its turn, or for another try, is time without a session. `None`: when it is
    /// its turn.
    due: Option<Instant>,
}

impl Life {
    async fn run(mut self, kind: Kind, mut cut: watch::Receiver<Option<Instant>>) {
        let stop = self.shared.stop.clone();
        let living = async {
            if let Some(begin) = self.due {
                self.rest(begin.saturating_duration_since(self.shared.clock.now())).await;
            }
            if kind == Kind::Polling {
                return Box::pin(check_in::live(&mut self.device, &self.api, &self.shared)).await;
            }
            let [base, cap] = BACKOFF;
            let mut backoff = Backoff::new(base, cap);
            while let Some(next) = Box::pin(self.session(kind, &mut cut)).await {
                match next {
                    Next::AtOnce => backoff.reset(),
                    Next::After(wait) => {
                        // Another hub was not asked to be left alone.
                        if let Some(wait) = wait.filter(|_| self.hubs.len() == 1) {
                            backoff.retry_after(wait);
                        }
                        self.rest(backoff.next(self.shared.entropy.next_u64())).await;
                    }
                }
            }
        };
        // A session ends by the same token, with a goodbye; this is for those who still try.
        tokio::select! {
            biased;
            () = living => {}
            () = async { stop.cancelled().await; tokio::time::sleep(GOODBYE).await } => {}
        }
    }

    /// Waits for so long, or until the swarm stops.
    async fn rest(&self, duration: Duration) {
        let _ = tokio::time::timeout(duration, self.shared.stop.cancelled()).await;
    }

    /// One session. `None`: no further one.
    async fn session(
        &mut self,
        kind: Kind,
        cut: &mut watch::Receiver<Option<Instant>>,
    ) -> Option<Next> {
        let shared = self.shared.clone();
        let slot = shared.connecting.acquire().await.ok()?;
        if shared.stop.is_cancelled() {
            return None;
        }
        // What was cut before this connection began is no cut of this one.
        cut.mark_unchanged();
        let due = *self.due.get_or_insert(shared.clock.now());
        let (hubs, at) = (&self.hubs, &mut self.at);
        let peer = hubs.get(at.checked_rem(hubs.len())?)?;
        let hello = self.device.hello(Timestamp::from_millis(shared.clock.unix_millis()));
        let opened = opening::open(peer, hello, &shared).await;
        drop(slot);
        let line = match opened {
            Ok(line) => line,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no session");
                shared.tally.error(&error);
                *at += 1;
                return Some(Next::After(error.retry_after()));
            }
        };
        shared.tally.opened(due, shared.clock.now(), self.had_session);
        self.had_session = true;
        shared.connected.send_modify(|connected| *connected += 1);
        let ended = match kind {
            Kind::Stalled => line.hold(cut, &shared).await,
            Kind::Push | Kind::Polling => {
                let session = Session::new(line, &mut self.device, &shared);
                let next = || {
                    *at += 1;
                    &hubs[*at % hubs.len()]
                };
                session.run(cut, next, &self.api).await
            }
        };
        shared.connected.send_modify(|connected| *connected -= 1);
        let was_cut = (*cut.borrow()).filter(|_| ended == Ended::Cut);
        self.due = Some(was_cut.unwrap_or_else(|| shared.clock.now()));
        match ended {
            Ended::Stopped => None,
            Ended::Cut => Some(Next::AtOnce),
            Ended::Closed(code) => {
                shared.dropped.send_modify(|dropped| *dropped += 1);
                let name = code.map_or("lost", protocol::close::CloseCode::as_str);
                shared.tally.error(format_args!("session closed, {name}"));
                self.at += 1;
                (code.map(protocol::close::CloseCode::advice) != Some(Advice::Stop))
                    .then_some(Next::After(None))
            }
        }
    }
}

/// When a device connects again.
enum Next {
    AtOnce,
    /// After its back-off, and what the hub asked for.
    After(Option<Duration>),
}
