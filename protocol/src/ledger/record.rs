//! The records of a journal: what a device remembers, one durable step at a time.
//!
//! Owns their form on disk, which a later agent still reads: a record is added, never changed.

use serde::{Deserialize, Serialize};

use crate::id::{CommandId, OrderId};
use crate::jws::CompactJws;
use crate::state::{Lane, PerLane};
use crate::time::Timestamp;

/// One durable step in the life of a command on the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The envelope was verified and is on disk. Synced before the ack.
    Received(Received),
    /// The effect begins. Synced before it does.
    Intent {
        /// Which command.
        command_id: CommandId,
    },
    /// The outcome stands. Synced before the receipt leaves.
    Done {
        /// Which command.
        command_id: CommandId,
        /// The signed receipt.
        receipt: CompactJws,
    },
    /// An envelope was declined before it was received.
    Refused(Refused),
    /// The store holds that receipt.
    Confirmed {
        /// SHA-256 of the receipt's text.
        receipt_sha256: String,
    },
    /// An order whose command is forgotten, while its approvals still hold.
    Order {
        /// Which order.
        order_id: OrderId,
        /// When its approvals end.
        remember_until: Timestamp,
    },
    /// The newest sequence numbers: opens a compacted journal.
    Sequence {
        /// By lane.
        last_seq: PerLane<u64>,
    },
    /// So much of a command's undo window is left. Synced before it is told.
    Held(Held),
    /// An order was called back that had not come. Should it come, nothing of it that destroys is
    /// done.
    Barred {
        /// Which order.
        order_id: OrderId,
        /// When the order that says so ends.
        remember_until: Timestamp,
    },
    /// Nothing that destroys begins.
    Frozen(Frozen),
    /// The freeze is over.
    Thawed,
}

/// A command that waits for the end of its undo window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The command.
    pub command_id: CommandId,
    /// When it was verified and its window opened: its validity is judged by that moment.
    pub since: Timestamp,
    /// How much of the window is left, in milliseconds; 0: it is over. Counted and not compared
    /// with a clock, which somebody could set.
    pub left_ms: u64,
}

/// A freeze on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The command that ordered it.
    pub command_id: CommandId,
    /// When the validity of its order began.
    pub ordered_at: Timestamp,
    /// Until when it holds.
    pub until: Timestamp,
}

/// A verified envelope with what the ledger needs of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The command.
    pub command_id: CommandId,
    /// Its order.
    pub order_id: OrderId,
    /// Its lane.
    pub lane: Lane,
    /// Its place in the lane.
    pub seq: u64,
    /// When the order's approvals end: until then its order id is remembered.
    pub remember_until: Timestamp,
    /// The envelope.
    pub envelope: CompactJws,
    /// Whether it concerns other orders and not the device: then it waits for nothing in its lane.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_about_orders: bool,
}

/// A declined envelope with its receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The command that the frame or the envelope named.
    pub command_id: CommandId,
    /// Where it stands in a lane, when the envelope was authentic: then it counts as seen.
    pub place: Option<(Lane, u64)>,
    /// SHA-256 of the envelope's text.
    pub envelope_sha256: String,
    /// The signed receipt.
    pub receipt: CompactJws,
}
