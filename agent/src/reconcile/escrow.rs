//! Credentials on their way into escrow: what waits for the control plane itself.
//!
//! A hub is not believed here: it could confirm what nobody holds, and the former credential would
//! go. So an escrow goes by check-in alone, and only what such an answer confirms counts.

use std::sync::Arc;
use std::time::Instant;

use protocol::escrow::Escrow;
use protocol::frame::AgentFrame;
use protocol::state::Lane;

use super::Reconcile;
use super::lanes::Running;
use crate::execute::rotate;
use crate::worker::{Job, Step};

/// An escrow that waits to be confirmed.
#[derive(Debug)]
pub(super) struct Escrowing {
    pub(super) job: Arc<Job>,
    frame: AgentFrame,
    sha256: String,
    is_confirmed: bool,
    /// The longest that it waits; then what was added is taken back.
    pub(super) deadline: Instant,
}

impl Reconcile {
    /// Something new works, and goes into escrow before the former goes. What cannot be signed is
    /// taken back.
    pub(super) fn escrow(&mut self, job: Arc<Job>, escrowing: rotate::Escrowing) -> Running {
        let identity = self.core.identity.borrow().clone();
        let (command_id, now) = (job.task.command_id, self.core.clock.now());
        let rotate::Escrowing { subjects, recovery_key, sealed } = escrowing;
        let escrow = Escrow {
            iss: identity.device_id,
            generation: identity.generation,
            command_id,
            order_id: job.envelope.order_id(),
            verb: job.envelope.action().verb(),
            subjects,
            recovery_key,
            sealed,
            made_at: self.wall(),
            envelope_sha256: job.envelope_sha256.clone(),
        };
        let jws = match self.core.key.sign_escrow(&escrow) {
            Ok(jws) => jws,
            Err(error) => {
                tracing::error!(%error, "escrow was not signed");
                return self.step(job, Step::Withdraw);
            }
        };
        let stage = "escrow".to_owned();
        tracing::info!(command.id = %command_id, "escrow waits to be confirmed");
        self.link.send(AgentFrame::stage(command_id, stage));
        Running::Escrowing(Escrowing {
            job,
            sha256: jws.sha256(),
            frame: AgentFrame::Escrow { command_id, jws },
            is_confirmed: false,
            deadline: now + self.core.config.escrow_wait,
        })
    }

    /// The control plane itself holds these.
    pub(super) fn stored(&mut self, sha256s: &[String]) {
        for lane in Lane::ALL {
            if let Some(Running::Escrowing(escrowing)) = self.running.get_mut(lane) {
                escrowing.is_confirmed |= sha256s.contains(&escrowing.sha256);
            }
        }
    }

    /// Has the rest follow where an escrow is confirmed, and takes back where it has had its time.
    pub(super) fn follow_escrows(&mut self, now: Instant) {
        for lane in Lane::ALL {
            let Some(Running::Escrowing(escrowing)) = self.running.get(lane) else { continue };
            let step = match (escrowing.is_confirmed, escrowing.deadline <= now) {
                (true, _) => Step::Finish,
                (false, true) => Step::Withdraw,
                (false, false) => continue,
            };
            let job = escrowing.job.clone();
            *self.running.get_mut(lane) = Some(self.step(job, step));
        }
        self.show_escrows();
    }

    /// What goes to the control plane itself now.
    fn show_escrows(&self) {
        let lanes = Lane::ALL.into_iter().filter_map(|lane| match self.running.get(lane) {
            Some(Running::Escrowing(escrowing)) => Some(escrowing.frame.clone()),
            Some(
                Running::Stepping(..)
                | Running::AwaitingBoot(..)
                | Running::Holding(..)
                | Running::Intending(_)
                | Running::Proving(_)
                | Running::Ending(_),
            )
            | None => None,
        });
        let frames: Vec<AgentFrame> = lanes.collect();
        self.direct.send_if_modified(|shown| {
            let is_new = *shown != frames;
            *shown = frames;
            is_new
        });
    }
}
