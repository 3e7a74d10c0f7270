//! A swarm: many simulated devices, each with a session of its own to a real hub.
//!
//! Owns their tasks, how many connect at a time, and the switches that end or cut them. What one
//! device does is the part of the modules below.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::close::Advice;
use protocol::id::BootId;
use protocol::time::Timestamp;
use runtime::lifecycle::CancellationToken;
use runtime::{Backoff, Clock, Entropy};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::book::Book;
use crate::fleet::Enrolled;
use crate::http::{HttpError, Peer};
use crate::rate::{Rate, Schedule};

use self::device::Device;
use self::socket::{Ended, Session};

mod device;
mod socket;

/// The pause after a failed connection: the first ceiling and the last.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// How a swarm connects.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Connections that are being opened at the same time.
    pub at_once: usize,
    /// The rate at which the first connections begin; `None`: as fast as they come to stand.
    pub rate: Option<Rate>,
}

/// What the devices of a swarm share.
#[derive(Debug)]
pub(crate) struct Shared {
    clock: Clock,
    entropy: Entropy,
    book: Arc<Book>,
    connecting: Semaphore,
    stop: CancellationToken,
    connected: watch::Sender<usize>,
    /// How long each connection took, since somebody looked last.
    took: Mutex<Vec<Duration>>,
    dropped: watch::Sender<u64>,
}

/// A running swarm. Dropping it cuts every socket.
#[derive(Debug)]
pub struct Swarm {
    shared: Arc<Shared>,
    size: usize,
    cut: watch::Sender<u64>,
    tasks: JoinSet<()>,
}

impl Swarm {
    /// Lets every device connect. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`HttpError::Address`] when the address of a hub is none.
    pub fn start(
        devices: Vec<Enrolled>,
        pace: Pace,
        book: Arc<Book>,
        (clock, entropy): (Clock, Entropy),
    ) -> Result<Self, HttpError> {
        let boot_id = BootId::new(Timestamp::from_millis(clock.unix_millis()), entropy.bytes());
        let schedule = pace.rate.map(|rate| Schedule::new(clock.now(), rate));
        let shared = Arc::new(Shared {
            clock,
            entropy,
            book,
            connecting: Semaphore::new(pace.at_once),
            stop: CancellationToken::new(),
            connected: watch::Sender::new(0),
            took: Mutex::default(),
            dropped: watch::Sender::new(0),
        });
        let (size, cut) = (devices.len(), watch::Sender::new(0));
        let mut tasks = JoinSet::new();
        for (number, enrolled) in (0..).zip(devices) {
            let peers = enrolled.hubs.iter().map(|hub| Peer::new(hub, enrolled.tls.clone()));
            let life = Life {
                peers: peers.collect::<Result<_, _>>()?,
                // Devices spread over the hubs by their number.
                at: usize::try_from(number).unwrap_or(0),
                device: Device::new(enrolled, boot_id),
                shared: shared.clone(),
            };
            let begin = schedule.map(|schedule| schedule.at(number));
            tasks.spawn(life.run(begin, cut.subscribe()));
        }
        Ok(Self { shared, size, cut, tasks })
    }

    /// How many have a session now.
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

    /// Cuts every socket at once, without a word. Each device connects again immediately.
    /// Answers when all sockets are gone.
    pub async fn cut(&self) {
        let mut connected = self.shared.connected.subscribe();
        // Nobody connects again before the last one is gone.
        let slots = u32::try_from(self.shared.connecting.available_permits()).unwrap_or(u32::MAX);
        let held = self.shared.connecting.acquire_many(slots).await;
        self.cut.send_modify(|cut| *cut += 1);
        let _ = connected.wait_for(|connected| *connected == 0).await;
        drop(held);
    }

    /// How long each connection took that came to stand since this was asked last.
    pub fn take_connect_times(&self) -> Vec<Duration> {
        std::mem::take(&mut self.shared.took.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says goodbye on every session, and waits until all are gone.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// One device from its first connection to the end of the swarm.
struct Life {
    peers: Vec<Peer>,
    at: usize,
    device: Device,
    shared: Arc<Shared>,
}

impl Life {
    async fn run(mut self, begin: Option<Instant>, mut cut: watch::Receiver<u64>) {
        let stop = self.shared.stop.clone();
        let living = async {
            if let Some(begin) = begin {
                self.rest(begin.saturating_duration_since(self.shared.clock.now())).await;
            }
            let [base, cap] = BACKOFF;
            let mut backoff = Backoff::new(base, cap);
            while let Some(next) = Box::pin(self.session(&mut cut)).await {
                match next {
                    Next::AtOnce => backoff.reset(),
                    Next::After(wait) => {
                        // Another hub was not asked to be left alone.
                        if let Some(wait) = wait.filter(|_| self.peers.len() == 1) {
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
    async fn session(&mut self, cut: &mut watch::Receiver<u64>) -> Option<Next> {
        let shared = self.shared.clone();
        let slot = shared.connecting.acquire().await.ok()?;
        if shared.stop.is_cancelled() {
            return None;
        }
        // What was cut before this connection began is no cut of this one.
        cut.mark_unchanged();
        let began = shared.clock.now();
        let (peers, at) = (&self.peers, &mut self.at);
        let peer = peers.get(at.checked_rem(peers.len())?)?;
        let hello = self.device.hello(Timestamp::from_millis(shared.clock.unix_millis()));
        let opened = socket::open(peer, hello, &shared).await;
        drop(slot);
        let line = match opened {
            Ok(line) => line,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no session");
                shared.book.error(&error);
                *at += 1;
                return Some(Next::After(error.retry_after()));
            }
        };
        let took = shared.clock.now().saturating_duration_since(began);
        shared.took.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        shared.connected.send_modify(|connected| *connected += 1);
        let session = Session::new(line, &mut self.device, &shared);
        let next = || {
            *at += 1;
            &peers[*at % peers.len()]
        };
        let ended = session.run(cut, next).await;
        shared.connected.send_modify(|connected| *connected -= 1);
        match ended {
            Ended::Stopped => None,
            Ended::Cut => Some(Next::AtOnce),
            Ended::Closed(code) => {
                shared.dropped.send_modify(|dropped| *dropped += 1);
                let name = code.map_or("lost", protocol::close::CloseCode::as_str);
                shared.book.error(format_args!("session closed, {name}"));
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

/// How long the goodbyes of a swarm may take.
const GOODBYE: Duration = Duration::from_secs(5);
