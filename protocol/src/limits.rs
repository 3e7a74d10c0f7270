//! Every bound that peers can push against, in one place.
//!
//! Nothing that comes from the network allocates, waits or repeats beyond a constant of this
//! module. Configuration may tighten a bound, never widen it past the protocol.

use std::time::Duration;

/// Bytes of one frame, either way.
pub const FRAME_BYTES: usize = 64 * 1024;
/// Bytes of one envelope, approvals included. Leaves room for its frame around it.
pub const ENVELOPE_BYTES: usize = 48 * 1024;
/// Bytes of one receipt. Larger evidence is collected apart and named by its digest.
pub const RECEIPT_BYTES: usize = 32 * 1024;
/// Bytes of a signed checkpoint.
pub const CHECKPOINT_BYTES: usize = 8 * 1024;
/// Earlier checkpoints that one names.
pub const CHECKPOINT_MARKS: usize = 32;
/// Places of the event chain that a device remembers.
pub const CHECKPOINT_MEMORY: usize = 64;
/// Bytes of a signed notice.
pub const NOTICE_BYTES: usize = 2 * 1024;
/// Bytes of a signed escrow.
pub const ESCROW_BYTES: usize = 16 * 1024;
/// Bytes of one version of the trust root, all its signatures together.
pub const TRUST_ROOT_BYTES: usize = 48 * 1024;
/// Approvals that one envelope may carry.
pub const APPROVALS: usize = 16;
/// Devices of one manifest.
pub const MANIFEST_DEVICES: u32 = 1_000_000;
/// Characters of any free text that a person typed: reason, message, display name.
pub const TEXT_CHARS: usize = 500;
/// Entries of any list inside an action, such as the peers a quarantine still allows.
pub const LIST_ENTRIES: usize = 64;
/// Devices of one manifest that have an offline code: its commitments stand in every approval.
pub const OFFLINE_CODES: usize = 50;
/// Bytes of a script. It travels in an envelope, beside the manifest and its approvals.
pub const SCRIPT_BYTES: usize = 16 * 1024;
/// Seconds that a script may take at most.
pub const SCRIPT_SECS: u32 = 60 * 60;
/// Bytes that one order has a device collect at most.
pub const COLLECTION_BYTES: u64 = 1024 * 1024 * 1024;
/// Bytes of one chunk of a collection before it is sealed. The last may be shorter.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks of one collection that may be around the bytes that were ordered: names, times, ends.
pub const COLLECTION_EXTRA_CHUNKS: u32 = 256;
/// Chunks of one collection.
pub const COLLECTION_CHUNKS: u32 = 4096 + COLLECTION_EXTRA_CHUNKS;
/// Files and regions of memory in one collection.
pub const COLLECTION_ITEMS: usize = 10_000;
/// Missing chunks that one answer names.
pub const MISSING_CHUNKS: usize = 64;
/// Bytes of the word for what a stage is at.
pub const ADVANCE_WORD_BYTES: usize = 64;
/// Steps of one stage.
pub const ADVANCE_STEPS: u64 = 10_000;
/// Bytes of the last of one output of a script, as it is told while it runs.
pub const OUTPUT_TAIL_BYTES: usize = 2 * 1024;
/// The largest number in an advance: what every JSON reader holds exactly.
pub const ADVANCE_NUMBER: u64 = (1 << 53) - 1;
/// Bytes of one address of a hub, as a hub names it to agents.
pub const ADDRESS_BYTES: usize = 300;
/// Receipts named in one `confirmed` frame.
pub const CONFIRMED_RECEIPTS: usize = 256;
/// Frames in one long-poll or check-in body.
pub const EXCHANGE_FRAMES: usize = 256;
/// Bytes of one long-poll or check-in body.
pub const EXCHANGE_BYTES: usize = 1024 * 1024;
/// Bytes that wait for one session before it is closed as `slow`.
pub const OUTBOX_BYTES: usize = 256 * 1024;
/// Frames that wait for one session before it is closed as `slow`.
pub const OUTBOX_FRAMES: usize = 1024;

/// Urgent commands whose ack one session waits for at a time.
pub const URGENT_WAITING: usize = 32;
/// Commands that a device remembers after they ended.
pub const LEDGER_ENTRIES: usize = 10_000;
/// Orders that a device remembers as taken; beyond, it takes no further ones for a while.
pub const LEDGER_ORDERS: usize = 40_000;
/// Unconfirmed refusals of envelopes that nobody trusted signed.
pub const LEDGER_STRANGERS: usize = 64;

/// The largest session epoch: as many bits as a UUIDv7 gives its time, and few enough for every
/// JSON and Lua number in between.
pub const EPOCH_MAX: u64 = (1 << 48) - 1;
/// The largest time of a run, in microseconds since a boot: what every JSON reader holds exactly.
pub const RUN_MICROS_MAX: u64 = (1 << 53) - 1;

/// TLS handshake.
pub const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP request that asks for the upgrade, once TLS stands.
pub const UPGRADE_TIMEOUT: Duration = Duration::from_secs(3);
/// `hello`, once the WebSocket stands.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the upgrade request's headers.
pub const UPGRADE_HEADER_BYTES: usize = 8 * 1024;
/// Interval of WebSocket pings. Common proxies cut a connection that is idle for 60 s.
pub const HEARTBEAT: Duration = Duration::from_secs(25);
/// Silence after which the peer is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(45);
/// An urgent command without ack for this long makes the hub probe the connection.
pub const URGENT_ACK: Duration = Duration::from_millis(1500);
/// Silence after that probe (counted from the urgent command) after which the peer is dead. With the time that it has
/// for an orderly close it is gone within five seconds.
pub const URGENT_DEAD_AFTER: Duration = Duration::from_millis(3500);
/// Bytes per second of the slowest link on which a session lives: 32 kbit/s. What was sent takes so
/// long to arrive, and its answer cannot come earlier.
pub const SLOWEST_LINK: u64 = 4096;
/// A write that makes no progress for this long closes the session.
pub const WRITE_STALL: Duration = Duration::from_secs(10);
/// How long the hub holds a long-poll open.
pub const LONG_POLL_HOLD: Duration = Duration::from_secs(50);
/// Interval of check-ins on the last rung.
pub const CHECK_IN: Duration = Duration::from_secs(60);
/// Interval of check-ins while a command runs on the last rung.
pub const CHECK_IN_RUNNING: Duration = Duration::from_secs(15);
/// Interval of check-ins that go on under a healthy session.
pub const CHECK_IN_HEALTHY: Duration = Duration::from_secs(15 * 60);

/// Tolerance between two wall clocks.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// Longest validity of an envelope of a routine action.
pub const ROUTINE_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest validity of any envelope.
pub const VALIDITY: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The longest undo window of an order that destroys.
pub const UNDO_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest freeze.
pub const FREEZE: Duration = Duration::from_secs(24 * 60 * 60);
/// Devices of one manifest of a disruptive action before one approval more is asked for.
pub const DISRUPTIVE_DEVICES: u32 = 50;
/// Devices of one manifest of a destructive action before the mass role is asked for.
pub const DESTRUCTIVE_DEVICES: u32 = 10;
/// Devices of one manifest for which break-glass may stand in.
pub const BREAK_GLASS_DEVICES: u32 = 10;
/// How long after its approval an order may last for which break-glass stands in.
pub const BREAK_GLASS_VALIDITY: Duration = Duration::from_secs(60 * 60);
