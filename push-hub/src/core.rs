//! What every task of one hub shares.
//!
//! Owns no behaviour of its own besides small questions that several tasks ask.

use std::sync::Arc;

use arc_swap::ArcSwap;
use broker::{Broker, Presence, Upstream};
use protocol::frame::{AgentFrame, HubFrame, Reconnect};
use protocol::id::SessionId;
use protocol::time::Timestamp;
use runtime::{Clock, Drain, Entropy};
use rustls::ServerConfig;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, Refusal};
use crate::certificate::Revocations;
use crate::config::Config;
use crate::handle::Handle;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::presence::Lanes;
use crate::registry::Registry;

/// The shared parts of a hub.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) tls: Arc<ArcSwap<ServerConfig>>,
    pub(crate) drain: Drain,
    pub(crate) metrics: Metrics,
    pub(crate) admission: Admission,
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

    /// A fresh session id.
    pub(crate) fn session_id(&self) -> SessionId {
        SessionId::new(self.timestamp(), self.entropy.bytes())
    }

    /// Whether one more session may come.
    pub(crate) fn room(&self) -> Result<(), Refusal> {
        let max = usize::try_from(self.config.admission.max_sessions).unwrap_or(usize::MAX);
        if self.drain.is_draining() || self.link.is_fenced() {
            Err(Refusal::Draining)
        } else if self.registry.len() >= max {
            Err(Refusal::Full)
        } else {
            Ok(())
        }
    }

    /// The entry of a session, under the lease of this moment.
    pub(crate) fn presence(&self, handle: &Handle) -> Presence {
        Presence::new(&self.link.lease(), handle.session, handle.epoch)
    }

    /// Tells an agent to open a session elsewhere, at a moment of its own.
    pub(crate) fn send_away(&self, handle: &Handle) {
        let spread = self.config.drain_spread.as_millis();
        let frame = HubFrame::Reconnect(Reconnect {
            after_ms: self.entropy.below(u64::try_from(spread).unwrap_or(u64::MAX)),
            hubs: self.config.other_hubs.clone(),
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
            hub: self.config.name.clone(),
            session: handle.session,
            frame,
        }
    }
}
