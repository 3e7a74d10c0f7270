//! What a supervisor says at the script's end, and what becomes of it in a receipt.
//!
//! A script's output is hostile: it is counted and hashed as it is, and shown only as lines of
//! printable characters, bounded.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{Context, SHA256};
use protocol::action::is_printable;
use protocol::receipt::Evidence;
use serde::{Deserialize, Serialize};

use super::order::Order;
use crate::execute::hex;

/// Bytes of each output that are shown: both must fit into a receipt.
const SHOWN_BYTES: usize = 4 * 1024;
/// Characters of one line that are shown.
const LINE_CHARS: usize = 200;
/// Bytes read at a time.
const PIECE: usize = 8 * 1024;

/// How a script ended, and what it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) end: End,
    pub(super) took_ms: u64,
    /// Processes that were left and killed; `None`: nobody could look.
    pub(super) killed_processes: Option<u32>,
    /// `None`: somebody holds it open still, so that nobody knows the whole.
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    Exited { status: i32 },
    Killed { signal: i32 },
    TimedOut,
    NotStarted { why: String },
}

/// One of its outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Output {
    pub(super) sha256: String,
    pub(super) bytes: u64,
    /// The first lines.
    pub(super) lines: Vec<String>,
}

impl Output {
    /// Reads an output to its end, however long, and keeps its beginning. `so_far` counts along.
    pub(super) fn read(mut pipe: impl Read, so_far: &AtomicU64) -> Self {
        let (mut context, mut bytes) = (Context::new(&SHA256), 0_u64);
        let mut shown = Vec::new();
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = pipe.read(&mut piece) {
            let read = &piece[..length];
            context.update(read);
            bytes += read.len() as u64;
            so_far.fetch_add(read.len() as u64, Ordering::Relaxed);
            let room = SHOWN_BYTES.saturating_sub(shown.len());
            shown.extend_from_slice(&read[..room.min(read.len())]);
        }
        Self { sha256: hex(context.finish().as_ref()), bytes, lines: printable(&shown) }
    }
}

/// What a receipt says of an output; null: it is not known.
fn as_evidence(output: Option<&Output>, name: &str) -> Evidence {
    Evidence::new()
        .with(name, output.map(|output| output.lines.clone()))
        .with(&format!("{name}_bytes"), output.map(|output| output.bytes))
        .with(&format!("{name}_sha256"), output.map(|output| output.sha256.clone()))
}

/// Lines that print as they read, within the bound that they have together.
fn printable(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut left = SHOWN_BYTES;
    let mut lines = Vec::new();
    for line in text.lines() {
        let fine = |c: char| is_printable(c.encode_utf8(&mut [0; 4]));
        let line = line.replace('\t', "    ");
        let line: String =
            line.chars().take(LINE_CHARS).map(|c| if fine(c) { c } else { '\u{fffd}' }).collect();
        // With what JSON puts around it.
        let cost = line.len() + 4;
        if cost > left {
            break;
        }
        left -= cost;
        lines.push(line);
    }
    lines
}

impl Ended {
    pub(super) fn evidence(&self, order: &Order) -> Evidence {
        let evidence = Evidence::new()
            .with("script_sha256", order.script_sha256.clone())
            .with("account", order.account_name())
            .with("confinement", order.confinement.as_str())
            .with("took_ms", self.took_ms)
            .with("killed_processes", self.killed_processes)
            .merged(as_evidence(self.stdout.as_ref(), "stdout"))
            .merged(as_evidence(self.stderr.as_ref(), "stderr"));
        match &self.end {
            End::Exited { status } => evidence.with("exit_status", *status),
            End::Killed { signal } => evidence.with("signal", *signal),
            End::TimedOut | End::NotStarted { .. } => evidence,
        }
    }
}
