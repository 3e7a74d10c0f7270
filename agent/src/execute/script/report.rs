//! What a supervisor says at the script's end, and what becomes of it in a receipt.
//!
//! A script's output is hostile: it is counted and hashed as it is, and shown only as lines of
//! printable characters, bounded.

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use protocol::action::is_printable;
use protocol::advance::Tail;
use protocol::limits::OUTPUT_TAIL_BYTES;
use protocol::receipt::Evidence;
use serde::{Deserialize, Serialize};

use super::order::Order;
use crate::execute::hex;

/// Bytes of each output that are shown: both must fit into a receipt.
const SHOWN_BYTES: usize = 4 * 1024;
/// Of an output that is longer, so much is shown of its begin, and of its end.
const HALF: usize = SHOWN_BYTES / 2;
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

/// One of its outputs, at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Output {
    pub(super) sha256: String,
    pub(super) bytes: u64,
    /// The first lines: all of them, where nothing is left out.
    pub(super) lines: Vec<String>,
    /// Bytes between the first lines and the last.
    #[serde(default)]
    pub(super) left_out: u64,
    /// The last lines, where something is left out.
    #[serde(default)]
    pub(super) last: Vec<String>,
}

/// One of its outputs while it goes on. Copies are the same output.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<SoFar>>);

/// What there is of an output by now: its begin, its end, and a hash of all of it.
struct SoFar {
    context: Context,
    bytes: u64,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Default for SoFar {
    fn default() -> Self {
        let (first, last) = (Vec::new(), Vec::new());
        Self { context: Context::new(&SHA256), bytes: 0, first, last }
    }
}

impl Heard {
    /// Reads an output to its end, however long, and keeps its begin and its end.
    pub(super) fn read(&self, mut pipe: impl Read) -> Output {
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = pipe.read(&mut piece) {
            self.so_far().take(&piece[..length]);
        }
        self.so_far().output()
    }

    /// Its last bytes by now; `None` while it has said nothing.
    pub(super) fn tail(&self) -> Option<Tail> {
        let so_far = self.so_far();
        let bytes = so_far.last.clone();
        let from = so_far.bytes - bytes.len() as u64;
        (so_far.bytes > 0).then_some(Tail { from, bytes })
    }

    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SoFar {
    fn take(&mut self, read: &[u8]) {
        self.context.update(read);
        self.bytes += read.len() as u64;
        let room = SHOWN_BYTES.saturating_sub(self.first.len());
        self.first.extend_from_slice(&read[..room.min(read.len())]);
        let read = &read[read.len().saturating_sub(OUTPUT_TAIL_BYTES)..];
        let over = (self.last.len() + read.len()).saturating_sub(OUTPUT_TAIL_BYTES);
        self.last.drain(..over);
        self.last.extend_from_slice(read);
    }

    fn output(&self) -> Output {
        let (sha256, bytes) = (hex(self.context.clone().finish().as_ref()), self.bytes);
        let begin = |most: usize, bound| {
            let begin = &self.first[..most.min(self.first.len())];
            first_lines(begin, bound, begin.len() as u64 == bytes)
        };
        let whole = begin(SHOWN_BYTES, SHOWN_BYTES);
        if whole.bytes as u64 == bytes {
            return Output { sha256, bytes, lines: whole.lines, left_out: 0, last: Vec::new() };
        }
        let begin = begin(HALF, HALF);
        let from = bytes - self.last.len() as u64;
        let known = usize::try_from((begin.bytes as u64).saturating_sub(from)).unwrap_or(0);
        let end = last_lines(&self.last[known.min(self.last.len())..], HALF);
        let left_out = bytes - (begin.bytes + end.bytes) as u64;
        Output { sha256, bytes, lines: begin.lines, left_out, last: end.lines }
    }
}

/// What a receipt says of an output; null: it is not known.
fn as_evidence(output: Option<&Output>, name: &str) -> Evidence {
    let evidence = Evidence::new()
        .with(name, output.map(|output| output.lines.clone()))
        .with(&format!("{name}_bytes"), output.map(|output| output.bytes))
        .with(&format!("{name}_sha256"), output.map(|output| output.sha256.clone()));
    match output {
        Some(Output { left_out, last, .. }) if *left_out > 0 || !last.is_empty() => evidence
            .with(&format!("{name}_left_out_bytes"), *left_out)
            .with(&format!("{name}_last"), last.clone()),
        Some(_) | None => evidence,
    }
}

/// Lines that print as they read, and how many bytes of the output they are.
#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    bytes: usize,
}

/// The first lines of these bytes, within the bound that they have together. One that is cut off at the end
/// of the bytes is there only where it is the first, unless they are all that there is.
fn first_lines(bytes: &[u8], bound: usize, is_all: bool) -> Lines {
    let mut found = Lines::default();
    let mut left = bound;
    for raw in bytes.split_inclusive(|byte| *byte == b'\n') {
        let is_whole = raw.ends_with(b"\n") || is_all;
        let line = printable(raw, Cut::End);
        let cost = cost(&line);
        if cost > left || (!is_whole && !found.lines.is_empty()) {
            break;
        }
        left -= cost;
        found.bytes += raw.len();
        found.lines.push(line);
    }
    found
}

/// The last lines of these bytes, likewise: here it is the first that may be cut off.
fn last_lines(bytes: &[u8], bound: usize) -> Lines {
    let mut found = Lines::default();
    let mut left = bound;
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    if bytes.len() == OUTPUT_TAIL_BYTES && lines.len() > 1 {
        lines.remove(0);
    }
    for raw in lines.into_iter().rev() {
        let line = printable(raw, Cut::Begin);
        let cost = cost(&line);
        if cost > left {
            break;
        }
        left -= cost;
        found.bytes += raw.len();
        found.lines.push(line);
    }
    found.lines.reverse();
    found
}

/// Which end of a line that is too long is cut off.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Begin,
    End,
}

/// A line that prints as it reads, of [`LINE_CHARS`] at most.
fn printable(raw: &[u8], cut: Cut) -> String {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
    let fine = |c: char| is_printable(c.encode_utf8(&mut [0; 4]));
    let text = String::from_utf8_lossy(raw).replace('\t', "    ");
    let line: Vec<char> = text.chars().map(|c| if fine(c) { c } else { '\u{fffd}' }).collect();
    match (line.len().checked_sub(LINE_CHARS), cut) {
        (None | Some(0), _) => line.into_iter().collect(),
        (Some(_), Cut::End) => line[..LINE_CHARS - 1].iter().chain(&['…']).collect(),
        (Some(over), Cut::Begin) => ['…'].iter().chain(&line[over + 1..]).collect(),
    }
}

/// What a line takes of the bound: with what JSON puts around it, and before what it escapes.
fn cost(line: &str) -> usize {
    line.len() + 4
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
