//! What is kept of offline codes: how often somebody tried, and which were used.
//!
//! One small document, whole or absent, durable before a code is compared and before anything ends.

use std::collections::BTreeMap;

use protocol::id::{BootId, CommandId, OrderId};
use protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::Effect;
use crate::execute::state_file::StateFile;

/// Uses that are remembered. An order takes effect once on a device, so that what is older can come
/// back only with the whole state directory.
const USES: usize = 64;

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Wrong codes, by the order that stood.
    wrong: BTreeMap<OrderId, u32>,
    /// Right codes, oldest first.
    uses: Vec<Use>,
}

impl StateFile for Record {
    const NAME: &'static str = "offline.json";
}

/// One use of a right code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Use {
    /// The order that it ended: its code works once, under whichever command the order comes.
    pub(super) order_id: OrderId,
    /// The command that it ended.
    pub(crate) command_id: CommandId,
    /// What that was.
    pub(crate) effect: Effect,
    /// When, by the device's clock.
    pub(crate) at: Timestamp,
    /// The boot in which it was.
    pub(crate) boot_id: BootId,
    /// How far it is.
    pub(super) phase: Phase,
    /// Whether the control plane knows.
    pub(super) is_told: bool,
}

/// How far an end by a code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// The code was right; the device may not be open yet.
    Begun,
    /// The device is open.
    Ended,
}

impl Record {
    pub(super) fn wrong(&self, order_id: OrderId) -> u32 {
        self.wrong.get(&order_id).copied().unwrap_or(0)
    }

    /// Counts a try as a wrong one, until it is known to be right.
    pub(super) fn try_once(&mut self, order_id: OrderId) {
        let wrong = self.wrong(order_id).saturating_add(1);
        // One lock and one quarantine stand at most; of orders that ended nobody need know.
        while self.wrong.len() > Effect::ALL.len() {
            self.wrong.pop_first();
        }
        self.wrong.insert(order_id, wrong);
    }

    /// The code was right.
    pub(super) fn begin(&mut self, used: Use) {
        self.wrong.remove(&used.order_id);
        self.uses.retain(|former| former.order_id != used.order_id);
        if self.uses.len() == USES {
            self.uses.remove(0);
        }
        self.uses.push(used);
    }

    pub(super) fn phase(&self, order_id: OrderId) -> Option<Phase> {
        self.uses.iter().find(|used| used.order_id == order_id).map(|used| used.phase)
    }

    pub(super) fn ended(&mut self, command_id: CommandId) {
        self.of(command_id, |used| used.phase = Phase::Ended);
    }

    pub(super) fn told(&mut self, command_id: CommandId) {
        self.of(command_id, |used| used.is_told = true);
    }

    pub(super) fn begun(&self) -> impl Iterator<Item = &Use> {
        self.uses.iter().filter(|used| used.phase == Phase::Begun)
    }

    pub(super) fn untold(&self) -> impl Iterator<Item = &Use> {
        self.uses.iter().filter(|used| used.phase == Phase::Ended && !used.is_told)
    }

    fn of(&mut self, command_id: CommandId, change: impl FnOnce(&mut Use)) {
        if let Some(used) = self.uses.iter_mut().find(|used| used.command_id == command_id) {
            change(used);
        }
    }
}
