//! What every task of one hub shares.
//!
//! Owns no behaviour of its own besides small questions that several tasks ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use broker::{Broker, Presence, Upstream};
use protocol::frame::{AgentFrame, HubFrame, Reconnect};
use protocol::id::{HubId, SessionId};
use protocol::time::Timestamp;
use runtime::{Clock, Drain, Entropy};
use rustls::ServerConfig;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Refusal};
use crate::budget::Budget;
use crate::certificate::Revocations;
use crate::config::Config;
use crate::handle::Handle;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::owed::Owed;
use crate::presence::Lanes;
use crate::registry::Registry;
use crate::turns::Turns;

/// How many agents are sent away in a second while that keeps the drain within its spread: as many
/// as other hubs take in beside their work.
const MOVES_PER_SEC: u32 = 200;

/// The shared parts of a hub.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) name: HubId,
    /// As it was read last.
    pub(crate) config: ArcSwap<Config>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) clock: Clock,
    /// When the hub began: what its beats are counted from.
    pub(crate) began: Instant,
    pub(crate) entropy: Entropy,
    pub(crate) tls: Arc<ArcSwap<ServerConfig>>,
    pub(crate) drain: Drain,
    /// Cancelled when the agent port closes: during a drain it still tells agents where to go.
    pub(crate) port: CancellationToken,
    pub(crate) metrics: Metrics,
    pub(crate) admission: Admission,
    pub(crate) turns: Arc<Turns>,
    pub(crate) owed: Owed,
    pub(crate) budget: Budget,
    pub(crate) revocations: Revocations,
    pub(crate) registry: Registry,
    pub(crate) link: Link,
    pub(crate) lanes: Lanes,
    pub(crate) upstream: mpsc::Sender<Upstream>,
    /// Connections and sessions.
    pub(crate) tracker: TaskTracker,
}

impl Core {
    /// Wall time, as frames carry it.
    pub(crate) fn timestamp(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }

    /// The hub's beat at that moment or next after it. What is done for many sessions at once costs a fraction:
    /// one wake of a thread, here and where the agents are, is for all of them.
    pub(crate) fn beat(&self, due: Instant, width: Duration) -> Instant {
        beat(self.began, due, width)
    }

    /// A fresh session id.
    pub(crate) fn session_id(&self) -> SessionId {
        SessionId::new(self.timestamp(), self.entropy.bytes())
    }

    /// The settings of this moment. A task that waits asks again afterwards.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Whether one more session may come.
    pub(crate) fn room(&self) -> Result<(), Refusal> {
        let admission = &self.config().admission;
        let max = usize::try_from(admission.max_sessions).unwrap_or(usize::MAX);
        if self.drain.is_draining() || self.link.is_fenced() {
            Err(Refusal::Draining)
        } else if self.registry.len() >= max.min(self.budget.max_sessions()) {
            Err(Refusal::Full)
        } else if self.budget.is_over(admission.max_memory_bytes) {
            Err(Refusal::Memory)
        } else {
            Ok(())
        }
    }

    /// The entry of a session, under the lease of this moment.
    pub(crate) fn presence(&self, handle: &Handle) -> Presence {
        Presence::new(&self.link.lease(), handle.session, handle.epoch)
    }

    /// Within which time so many sessions are sent away.
    pub(crate) fn spread(&self, sessions: usize) -> Duration {
        let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
        self.config().drain_spread.min(Duration::from_secs(1) * sessions / MOVES_PER_SEC)
    }

    /// The other hubs, beginning with any: not every agent that leaves goes to the first.
    pub(crate) fn other_hubs(&self) -> Vec<String> {
        let mut hubs = self.config().other_hubs.clone();
        let count = u64::try_from(hubs.len()).unwrap_or(1).max(1);
        let first = usize::try_from(self.entropy.below(count)).unwrap_or(0);
        hubs.rotate_left(first);
        hubs
    }

    /// Tells an agent to open a session elsewhere, at a moment of its own within `spread`.
    pub(crate) fn send_away(&self, handle: &Handle, spread: Duration) {
        let spread = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX).max(1);
        let frame = HubFrame::Reconnect(Reconnect {
            after_ms: self.entropy.below(spread),
            hubs: self.other_hubs(),
            reason: "the hub drains".to_owned(),
        });
        self.metrics.frame_out(&frame);
        // A full inbox has already closed its session.
        drop(handle.push([frame]));
    }

    /// What an agent said, with its return address.
    pub(crate) fn address(&self, handle: &Handle, frame: AgentFrame) -> Upstream {
        Upstream {
            device: handle.device,
            generation: handle.generation,
            hub: self.name.clone(),
            session: handle.session,
            frame,
        }
    }
}

fn beat(began: Instant, due: Instant, width: Duration) -> Instant {
    let width = width.as_nanos().max(1);
    let late = width - 1 - (due.saturating_duration_since(began).as_nanos() + width - 1) % width;
    // A width is that of a heartbeat at most, and its nanoseconds fit.
    due + Duration::from_nanos(u64::try_from(late).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_between_two_beats_waits_for_the_next_and_no_longer() {
        let began = Clock::system().now();
        let at = |ms| began + Duration::from_millis(ms);
        let width = Duration::from_secs(1);
        for (due, then) in [(0, 0), (1, 1000), (999, 1000), (1000, 1000), (1001, 2000)] {
            assert_eq!(beat(began, at(due), width), at(then), "due after {due} ms");
        }
        assert_eq!(beat(began, at(7), Duration::ZERO), at(7));
        assert_eq!(beat(at(5), at(3), width), at(3), "before it began");
    }
}
