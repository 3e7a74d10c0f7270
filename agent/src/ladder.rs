//! The ladder: push, else long-poll, else check-in; and up again by itself.
//!
//! Two loops. [`push`] always tries to hold a session and tells how that goes; [`lower`] does
//! what is left to do: nothing, the slow check-in under a healthy session, long-poll while
//! sessions are refused, check-ins while hubs cannot be reached. Every rung that stands hands the
//! core a channel for its frames; the newest counts. Nothing here believes a command.

use std::sync::Arc;
use std::time::Duration;

use protocol::action::Verb;
use protocol::frame::{AgentFrame, Hello, HubFrame, Mode};
use protocol::id::{BootId, SessionId};
use protocol::time::Timestamp;
use runtime::{Clock, Entropy};
use tokio::sync::{Notify, mpsc, watch};

use crate::config::LadderConfig;
use crate::epoch::Epochs;
use crate::hellos::Hellos;
use crate::http::{Dialer, HttpError};
use crate::identity::Identity;
use crate::reconcile::{Event, Linked};
use crate::status::{CoreStatus, LadderStatus, Rung};

pub(crate) mod collections;
pub(crate) mod direct;
pub(crate) mod lower;
pub(crate) mod push;
pub(crate) mod suspend;

mod check_in;
mod exchange;
mod hubs;
mod long_poll;
mod rotation;
mod socket;

/// Frames that wait for one rung.
const FRAMES: usize = 256;

/// Where hubs and control plane are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) hubs: Vec<String>,
    pub(crate) api: Vec<String>,
}

/// What every rung needs.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) config: LadderConfig,
    pub(crate) dialer: Dialer,
    pub(crate) identity: watch::Receiver<Identity>,
    pub(crate) places: watch::Receiver<Places>,
    pub(crate) core: watch::Receiver<CoreStatus>,
    /// What goes to the control plane itself.
    pub(crate) direct: watch::Receiver<Vec<AgentFrame>>,
    pub(crate) boot_id: BootId,
    pub(crate) epochs: Epochs,
    pub(crate) hellos: Hellos,
    pub(crate) capabilities: Vec<String>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) status: Arc<watch::Sender<LadderStatus>>,
    /// Wakes the renewal of the certificate.
    pub(crate) renew: Arc<Notify>,
}

/// How the push rung fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushState {
    /// No session.
    Down {
        /// Failed attempts in a row.
        failures: u32,
        /// What the last one met.
        obstacle: Obstacle,
    },
    /// A session stands.
    Up {
        /// How to behave on it.
        mode: Mode,
        /// The longest time between check-ins under it.
        check_in: Duration,
    },
    /// The device was told not to come back.
    Stopped,
}

/// What stands between the agent and a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The hub is there, but no WebSocket comes to stand.
    Refused,
    /// No hub is there.
    Unreachable,
}

/// Waits so long; without a time, for ever.
async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

impl Shared {
    /// The first frame on any rung, once: each call gives the next session's.
    fn hello(&self) -> Hello {
        let core = self.core.borrow();
        let mut capabilities = self.capabilities.clone();
        let troubles = [
            ("journal_damaged", core.journal_damaged),
            ("journal_failing", core.journal_failing),
            ("trust_rolled_back", core.trust_rolled_back),
            ("frozen", core.frozen_until.is_some()),
            ("audit_forked", core.audit_forked),
        ];
        capabilities
            .extend(troubles.iter().filter(|(_, is)| *is).map(|(word, _)| (*word).to_owned()));
        Hello {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id,
            generation: self.identity.borrow().generation,
            epoch: self.epochs.next(self.wall()),
            run: self.hellos.next(),
            last_seq: core.last_seq,
            trust_version: core.trust_version,
            capabilities,
            degraded_since: self.status.borrow().degraded_since,
        }
    }

    /// Tells the core that a rung stands; its frames come out of the other end.
    async fn link(&self) -> (mpsc::Sender<AgentFrame>, Frames) {
        let (sender, receiver) = mpsc::channel(FRAMES);
        self.tell(Event::Linked(Linked { frames: sender.clone() })).await;
        (sender, receiver)
    }

    /// Hands an event to the core. When the core is gone, the agent stops.
    async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// Hands over what an exchange brought.
    async fn dispatch(&self, frames: Vec<HubFrame>) {
        for frame in frames {
            match frame {
                HubFrame::Welcome(welcome) => {
                    self.tell(Event::ServerTime(welcome.server_time)).await;
                }
                // Only a session can be moved or put into a mode.
                HubFrame::Mode { .. } | HubFrame::Reconnect(_) | HubFrame::Unknown => {}
                frame @ (HubFrame::Command(_)
                | HubFrame::Confirmed { .. }
                | HubFrame::Trust { .. }
                | HubFrame::Checkpoint { .. }) => self.tell(Event::Frame(frame)).await,
            }
        }
    }

    /// A rung carries. A session that stands stays the rung in use, even where a lower rung is
    /// just answered, or carries for it: it has to fall first.
    fn stands(&self, rung: Rung, address: &str, session_id: Option<SessionId>) {
        let now = self.wall();
        self.status.send_if_modified(|status| {
            if status.rung == Rung::Push && rung != Rung::Push {
                return false;
            }
            let degraded_since = match rung {
                Rung::Push => None,
                Rung::LongPoll | Rung::CheckIn | Rung::Down => status.degraded_since.or(Some(now)),
            };
            let last_error = status.last_error.clone();
            let address = Some(address.to_owned());
            let stands = LadderStatus { rung, session_id, address, degraded_since, last_error };
            let is_new = *status != stands;
            if is_new {
                tracing::info!(?rung, address = stands.address, "rung of the ladder stands");
            }
            *status = stands;
            is_new
        });
    }

    /// A rung does not stand any more.
    fn falls(&self, rung: Rung, error: &dyn std::error::Error) {
        let now = self.wall();
        let text = chain(error);
        self.status.send_modify(|status| {
            if status.rung == rung {
                tracing::warn!(?rung, error = text, "rung of the ladder fell");
                status.rung = Rung::Down;
                status.session_id = None;
            }
            status.degraded_since.get_or_insert(now);
            status.last_error = Some(text);
        });
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }

    /// That duration ± 20 %.
    fn jittered(&self, duration: Duration) -> Duration {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2);
        let spread = millis / 5 * 2;
        Duration::from_millis(millis - millis / 5 + self.entropy.below(spread + 1))
    }
}

/// Frames on their way from the core to one rung.
type Frames = mpsc::Receiver<AgentFrame>;

/// What the device can do, as `hello` tells it. `is_wipe_provable`: every volume that a wipe
/// destroys has keys to be destroyed, so that the proof takes milliseconds.
pub(crate) fn capabilities(arming: &str, is_wipe_provable: bool) -> Vec<String> {
    let verbs = Verb::ALL.iter().map(|verb| verb.as_str().to_owned());
    let volume = is_wipe_provable.then(|| "encrypted_volume".to_owned());
    let words = [arming, "offline_code"].map(str::to_owned);
    verbs.chain(words).chain(volume).collect()
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// How long the other end asked us to stay away.
fn retry_after(error: &HttpError) -> Option<Duration> {
    match error {
        HttpError::Status { retry_after, .. } => *retry_after,
        HttpError::Address(_)
        | HttpError::Connect { .. }
        | HttpError::TimedOut(_)
        | HttpError::Exchange(_)
        | HttpError::Body(_) => None,
    }
}
