//! What scripts say, for people: while they run, and at their end.
//!
//! Owns what was shown of it already. Windows on an output follow one another, and only what is new is
//! shown; what went by unseen is counted. Nobody signed what is shown before the end; then there is what the
//! receipt holds. A script may say anything: it comes out as lines that print as they read.

use protocol::advance::{Output, Tail};
use protocol::receipt::Evidence;
use serde_json::Value;

use super::text;

/// Bytes of one line; a longer one is shown as several.
const LINE_BYTES: usize = 400;
/// Before a line of standard output, and before one of standard error.
const MARKS: [&str; 2] = ["| ", "! "];
/// As evidence names them.
const NAMES: [&str; 2] = ["stdout", "stderr"];

/// What was shown of one script.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    outputs: [Seen; 2],
}

/// What was seen of one output.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Bytes of it that were seen or went by.
    bytes: u64,
    /// A line that has no end yet.
    line: Vec<u8>,
}

impl Shown {
    /// The lines that are new.
    pub fn add(&mut self, said: &Output) -> Vec<String> {
        let tails = [&said.stdout, &said.stderr];
        let mut lines = Vec::new();
        for ((seen, tail), mark) in self.outputs.iter_mut().zip(tails).zip(MARKS) {
            let new = tail.as_ref().map(|tail| seen.add(tail)).unwrap_or_default();
            lines.extend(new.into_iter().map(|line| format!("{mark}{line}")));
        }
        lines
    }

    /// What there is to show at the end: where not all of an output was shown, what the receipt holds of it.
    pub fn rest(&mut self, evidence: &Evidence) -> Vec<String> {
        let mut lines = Vec::new();
        for ((seen, mark), name) in self.outputs.iter_mut().zip(MARKS).zip(NAMES) {
            lines.extend(seen.broken_off().map(|line| format!("{mark}{line}")));
            let bytes = evidence.get(&format!("{name}_bytes")).and_then(Value::as_u64);
            let Some(bytes) = bytes.filter(|bytes| *bytes != seen.bytes) else { continue };
            lines.push(format!("{name} in the receipt, of {bytes} bytes:"));
            let signed = |name: &str| evidence.get(name).and_then(Value::as_array);
            let shown =
                |line: &Value| format!("{mark}{}", text::clean(line.as_str().unwrap_or("")));
            lines.extend(signed(name).into_iter().flatten().map(shown));
            let left_out = evidence.get(&format!("{name}_left_out_bytes")).and_then(Value::as_u64);
            lines.extend(
                left_out.filter(|bytes| *bytes > 0).map(|bytes| format!("{mark}{}", gap(bytes))),
            );
            lines.extend(signed(&format!("{name}_last")).into_iter().flatten().map(shown));
        }
        lines
    }
}

impl Seen {
    fn add(&mut self, tail: &Tail) -> Vec<String> {
        let (missed, new) = tail.after(self.bytes);
        let mut lines = Vec::new();
        if missed > 0 {
            lines.extend(self.broken_off());
            lines.push(gap(missed));
        }
        for byte in new {
            if *byte == b'\n' {
                lines.push(readable(&std::mem::take(&mut self.line)));
                continue;
            }
            self.line.push(*byte);
            // Not within a character: its rest would be nothing that prints.
            if self.line.len() > LINE_BYTES && std::str::from_utf8(&self.line).is_ok()
                || self.line.len() > LINE_BYTES + 4
            {
                lines.push(readable(&std::mem::take(&mut self.line)));
            }
        }
        self.bytes = self.bytes.max(tail.end());
        lines
    }

    /// The line that has no end yet, as far as it came.
    fn broken_off(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| readable(&std::mem::take(&mut self.line)))
    }
}

fn gap(bytes: u64) -> String {
    format!("… {bytes} bytes not shown …")
}

fn readable(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    text::clean(&String::from_utf8_lossy(line).replace('\t', "    "))
}
