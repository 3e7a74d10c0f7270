//! Offline codes that are handed in while the agent runs, and what the control plane is told of them.
//!
//! A code is judged between two commands of the urgent lane, as what stands is looked at.

use protocol::id::CommandId;

use super::Reconcile;
use super::notices::Noticed;
use crate::offline::{self, Answer, Asked, Moment};

/// The word of a notice about a code that was wrong.
const WRONG: &str = "offline_code_wrong";

impl Reconcile {
    /// Ends what stands if the code is the right one, and answers whoever handed it in.
    pub(super) async fn end_offline(&mut self, asked: Asked) {
        let Asked { effect, code, reply } = asked;
        let is_free = self.running.urgent.is_none() && self.standing.is_some();
        let answer = if is_free {
            let (host, now) = (self.core.host.clone(), self.core.clock.now());
            let since = self.code_tried_at;
            let moment = Moment { since, now, at: self.wall(), boot_id: self.core.boot_id };
            let judging = move || offline::end(&host, effect, &code, moment);
            self.core.blocking.run(judging).await.unwrap_or_else(|error| {
                // The record says whether it was right; what it had begun is brought to its end.
                Answer::Failed { detail: error.to_string() }
            })
        } else {
            Answer::Busy
        };
        match &answer {
            Answer::Wrong { command_id, .. } => {
                self.code_tried_at = self.core.clock.now();
                if !self.notices.hold(*command_id, WRONG) {
                    self.notice(Noticed { command_id: *command_id, what: WRONG, when: None });
                }
            }
            Answer::Ended { command_id } => {
                self.ended_offline = Some(*command_id);
                self.tell_uses();
            }
            Answer::Absent
            | Answer::NoCode
            | Answer::Used
            | Answer::Wait { .. }
            | Answer::Mistyped { .. }
            | Answer::Busy
            | Answer::Failed { .. } => {}
        }
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }

    /// Tells of every use that the control plane does not know of. Reads one small file.
    pub(super) fn tell_uses(&mut self) {
        if self.standing.is_none() {
            return;
        }
        for used in offline::untold(&self.core.host) {
            let (command_id, what) = (used.command_id, used.effect.notice());
            if !self.notices.hold(command_id, what) {
                let when = Some((used.at, used.boot_id));
                self.notice(Noticed { command_id, what, when });
            }
        }
    }

    /// The store holds notices about these; uses among them need not be told again.
    pub(super) async fn uses_told(&mut self, confirmed: Vec<(CommandId, &'static str)>) {
        let is_use = |what: &str| offline::Effect::ALL.iter().any(|one| one.notice() == what);
        let told: Vec<_> =
            confirmed.into_iter().filter(|(_, what)| is_use(what)).map(|(id, _)| id).collect();
        if told.is_empty() {
            return;
        }
        let host = self.core.host.clone();
        let written = self.core.blocking.run(move || offline::told(&host, &told)).await;
        match written {
            Ok(Ok(())) => {}
            // It is told once more by the next agent.
            Ok(Err(failure)) => tracing::warn!(failure.detail, "use was not marked as told"),
            Err(error) => tracing::warn!(%error, "use was not marked as told"),
        }
    }
}
