//! The way of agents' frames to the control plane.
//!
//! Owns the batching and the patience: a batch that the broker does not take is kept and tried
//! again, while further frames wait in a bounded channel. Must not judge frames.

use std::sync::Arc;
use std::time::Duration;

use broker::{BATCH, BrokerError, Upstream};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::link::CALL_TIMEOUT;

/// Frames that wait for the broker: enough for the acks and receipts of an outage's beginning,
/// and for a `hello` of every agent that reconnects meanwhile. What finds it full is repeated by
/// the agents.
pub(crate) const CAPACITY: usize = 16 * 1024;
/// Batches begin this far apart: what agents say meanwhile goes with the next one, for one question to the
/// broker and one answer. Nobody waits for it who acts.
const PACE: Duration = Duration::from_millis(10);
/// How long a refused batch rests.
const RETRY: Duration = Duration::from_millis(250);

/// Sends until `stop`; then what is left, once.
pub(crate) async fn run(
    core: Arc<Core>,
    mut waiting: mpsc::Receiver<Upstream>,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            // What is left goes at once.
            () = stop.cancelled() => {}
            _ = pace.tick() => {}
        }
        tokio::select! {
            biased;
            count = waiting.recv_many(&mut batch, BATCH) => if count == 0 { return },
            () = stop.cancelled() => return,
        }
        // Stopping does not cut a batch short that the broker may still take.
        while let Err(error) = send(&core, &batch).await {
            if is_loss(&error) {
                core.link.suspect();
            }
            core.metrics.upstream_waiting.set(count(batch.len() + waiting.len()));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        batch.clear();
        core.metrics.upstream_waiting.set(count(waiting.len()));
    }
}

async fn send(core: &Core, batch: &[Upstream]) -> Result<(), BrokerError> {
    timeout(CALL_TIMEOUT, core.broker.send_upstream(batch.to_vec()))
        .await
        .unwrap_or(Err(BrokerError::Unavailable))
}

/// Whether the error says that the broker is away, rather than that its reader is slow.
fn is_loss(error: &BrokerError) -> bool {
    match error {
        BrokerError::Unavailable => true,
        BrokerError::Full | BrokerError::LeaseLost | BrokerError::BatchTooBig => false,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a bounded queue is far below 2^52")]
fn count(len: usize) -> f64 {
    len as f64
}
