//! Notices on their way: kept until the store holds them, and no longer than this process lives.

use std::collections::VecDeque;

use protocol::frame::AgentFrame;
use protocol::id::{BootId, CommandId};
use protocol::jws::CompactJws;
use protocol::notice::Notice;
use protocol::time::Timestamp;

use super::Reconcile;

/// Something that happened to a command's effect, unordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noticed {
    /// Whose effect.
    pub(crate) command_id: CommandId,
    /// The word for it.
    pub(crate) what: &'static str,
    /// When and in which boot it was, if not now.
    pub(crate) when: Option<(Timestamp, BootId)>,
}

impl Noticed {
    /// What that command collected cannot be read any more, and not all of it was brought.
    pub(super) const fn lost(command_id: CommandId) -> Self {
        Self { command_id, what: "collection_lost", when: None }
    }
}

/// Notices that wait. What comes on top says nothing that these do not.
pub(super) const WAITING: usize = 16;

/// Notices that the store has not confirmed, oldest first.
#[derive(Debug, Default)]
pub(super) struct Notices(VecDeque<Waiting>);

/// A signed notice on its way.
#[derive(Debug)]
struct Waiting {
    command_id: CommandId,
    what: &'static str,
    jws: CompactJws,
}

impl Notices {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether such a notice is on its way already.
    pub(super) fn hold(&self, command_id: CommandId, what: &str) -> bool {
        self.0.iter().any(|waiting| waiting.command_id == command_id && waiting.what == what)
    }

    /// Those that are confirmed need not be sent again; answers which they are.
    pub(super) fn forget(&mut self, sha256: &[String]) -> Vec<(CommandId, &'static str)> {
        let mut confirmed = Vec::new();
        self.0.retain(|Waiting { command_id, what, jws }| {
            let is_confirmed = sha256.contains(&jws.sha256());
            confirmed.extend(is_confirmed.then_some((*command_id, *what)));
            !is_confirmed
        });
        confirmed
    }

    pub(super) fn frames(&self) -> impl Iterator<Item = AgentFrame> {
        self.0.iter().map(|Waiting { command_id, jws, .. }| AgentFrame::Notice {
            command_id: *command_id,
            jws: jws.clone(),
        })
    }
}

impl Reconcile {
    /// Signs what happened, and says so until the store has it.
    pub(super) fn notice(&mut self, noticed: Noticed) {
        if self.notices.0.len() == WAITING {
            tracing::warn!(what = noticed.what, "too many notices wait; this one is not sent");
            return;
        }
        let identity = self.core.identity.borrow().clone();
        let (at, boot_id) = noticed.when.unwrap_or((self.wall(), self.core.boot_id));
        let notice = Notice {
            iss: identity.device_id,
            generation: identity.generation,
            command_id: noticed.command_id,
            what: noticed.what.to_owned(),
            at,
            boot_id,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        match self.core.key.sign_notice(&notice) {
            Ok(jws) => {
                let command_id = notice.command_id;
                self.link.send(AgentFrame::Notice { command_id, jws: jws.clone() });
                self.notices.0.push_back(Waiting { command_id, what: noticed.what, jws });
                let soon = self.core.clock.now() + self.core.config.resend;
                self.resend.at.get_or_insert(soon);
            }
            Err(error) => tracing::error!(%error, "notice was not signed"),
        }
    }
}
