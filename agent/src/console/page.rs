//! The page of a locked device, as bytes for a terminal of which nothing is known but that it knows
//! the oldest escape sequences (ECMA-48). Performs nothing.

use protocol::action::is_printable;

use super::entry::Entry;

/// Columns that every terminal has.
const WIDTH: usize = 72;
/// Lines of the order's text; more is cut.
const LINES: usize = 10;
/// The line that the code is typed in.
const ENTRY_LINE: usize = 18;
/// Home, and nothing on the screen.
const CLEAR: &str = "\x1b[0m\x1b[2J\x1b[H";

/// What is said of a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) message: Option<String>,
    pub(super) device: Option<String>,
    pub(super) order: Option<String>,
    pub(super) since: Option<String>,
    /// Whether the order has a code for this device.
    pub(super) takes_code: bool,
}

/// What became of the last code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    None,
    Checking,
    Opened,
    NoCode,
    Used,
    Wrong { wait_secs: u64 },
    Wait { wait_secs: u64 },
    Mistyped(String),
    Busy,
    Failed(String),
}

impl Note {
    fn text(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Checking => "one moment".to_owned(),
            Self::Opened => "the device is unlocked".to_owned(),
            Self::NoCode => "this lock has no code".to_owned(),
            Self::Used => "this code was used before".to_owned(),
            Self::Wrong { wait_secs } => format!("not the code; the next try in {wait_secs} s"),
            Self::Wait { wait_secs } => format!("too early; the next try in {wait_secs} s"),
            Self::Mistyped(detail) => format!("mistyped: {detail}"),
            Self::Busy => "an order is being carried out; try again in a moment".to_owned(),
            Self::Failed(detail) => format!("it did not work: {detail}"),
        }
    }
}

/// The whole page.
pub(super) fn page(facts: &Facts, typed: &Entry, note: &Note) -> String {
    let mut page = format!("{CLEAR}\r\n  \x1b[1mTHIS DEVICE IS LOCKED\x1b[0m\r\n\r\n");
    let message = facts.message.as_deref().unwrap_or("Ask whoever looks after it.");
    for line in wrapped(message) {
        page.push_str(&format!("  {line}\r\n"));
    }
    page.push_str("\r\n");
    for (name, value) in
        [("device", &facts.device), ("order", &facts.order), ("since", &facts.since)]
    {
        if let Some(value) = value {
            page.push_str(&format!("  {name:<8}{}\r\n", plain(value)));
        }
    }
    if facts.takes_code {
        page.push_str(&entry(typed, note));
    } else {
        page.push_str(&at(ENTRY_LINE, "Ctrl-L: log in as break-glass."));
    }
    page
}

/// The line of the code, and what became of the last one.
pub(super) fn entry(typed: &Entry, note: &Note) -> String {
    let note = wrapped(&note.text()).into_iter().next().unwrap_or_default();
    let keys = "Enter tries the code. Ctrl-L: log in as break-glass.";
    let below = at(ENTRY_LINE + 2, &note) + &at(ENTRY_LINE + 3, keys);
    // Last, so that the cursor stands where is typed.
    below + &at(ENTRY_LINE, &format!("Code: {}", typed.text()))
}

/// An empty screen, for whoever has the terminal next.
pub(super) fn blank() -> String {
    CLEAR.to_owned()
}

/// A line in its place, with nothing left of what stood there.
fn at(line: usize, text: &str) -> String {
    format!("\x1b[{line};3H\x1b[K{text}")
}

/// A text of others, with whatever a terminal might obey or hide taken out.
fn plain(text: &str) -> String {
    let shown = |c: char| if is_printable(c.encode_utf8(&mut [0; 4])) { c } else { '?' };
    text.chars().map(shown).collect()
}

/// The same in lines that fit.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let text = plain(text);
    for word in text.split(' ').flat_map(pieces) {
        let line = lines.last_mut().expect("there is a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(word);
        } else {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(&word);
        }
    }
    lines.truncate(LINES);
    lines
}

/// A word, in parts that fit a line.
fn pieces(word: &str) -> Vec<String> {
    let chars: Vec<char> = word.chars().collect();
    chars.chunks(WIDTH).map(|piece| piece.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Facts, LINES, Note, WIDTH, page, wrapped};
    use crate::console::entry::Entry;

    #[test]
    fn hostile_text_of_an_order_reaches_no_terminal() {
        let message = "call\u{1b}[2J\u{9b}31m\r\nme\u{7}\u{202e}555\0".to_owned();
        let facts = Facts { message: Some(message), takes_code: true, ..Facts::default() };
        let mut shown =
            page(&facts, &Entry::default(), &Note::Failed("\u{1b}]0;x\u{7}".to_owned()));
        assert!(shown.contains("call?[2J?31m??me??555?"), "{shown:?}");
        assert!(shown.contains("it did not work: ?]0;x?"), "{shown:?}");
        // What is left of the escape sequences is our own.
        for own in ["\x1b[0m", "\x1b[2J", "\x1b[H", "\x1b[1m", "\x1b[K", "\r\n"] {
            shown = shown.replace(own, "");
        }
        for line in [18, 20, 21] {
            shown = shown.replace(&format!("\x1b[{line};3H"), "");
        }
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }

    #[test]
    fn long_text_stays_above_the_code_and_within_the_screen() {
        let lines = wrapped(&"word ".repeat(500));
        assert_eq!(lines.len(), LINES);
        let lines = wrapped(&"x".repeat(500));
        assert!(lines.iter().all(|line| line.len() <= WIDTH));
        assert_eq!(lines.concat().len(), 500);
    }

    #[test]
    fn lock_without_a_code_asks_for_none() {
        let shown = page(&Facts::default(), &Entry::default(), &Note::None);
        assert!(!shown.contains("Code:") && shown.contains("break-glass"), "{shown:?}");
    }
}
