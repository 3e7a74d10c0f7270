//! Everything the command line prints, and how it looks.
//!
//! Owns the choice between tables and JSON, colours, and the cleaning of text that came from
//! devices or other people. Results go to standard output, everything else to standard error. A
//! reader that goes away early (`tocsin devices | head`) is no error. Asks nothing: see
//! `cli::ask`.

use std::io::{IsTerminal as _, Write as _, stderr, stdout};

use serde::Serialize;

pub use self::table::Table;

pub mod advance;
pub mod outcome;
pub mod rest;
pub mod said;
pub mod table;
#[cfg(test)]
mod tests;
pub mod text;
pub mod time;

/// How a piece of text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As everything else.
    Plain,
    /// It is as it should be.
    Good,
    /// It waits for something.
    Waiting,
    /// Somebody should look.
    Bad,
    /// Of lesser importance.
    Faint,
    /// To be seen first.
    Strong,
}

impl Tone {
    /// The SGR code (ECMA-48) of the tone.
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Waiting => Some("33"),
            Self::Bad => Some("31;1"),
            Self::Faint => Some("2"),
            Self::Strong => Some("1"),
        }
    }
}

/// Where and how a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Out {
    is_json: bool,
    colours_out: bool,
    colours_err: bool,
    is_live: bool,
}

impl Out {
    /// Looks at the terminal and the environment once.
    pub fn new(is_json: bool) -> Self {
        let wanted = |is_terminal: bool| {
            let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
            is_terminal && !refused && !is_dumb
        };
        let (out, err) = (stdout().is_terminal(), stderr().is_terminal());
        Self {
            is_json,
            colours_out: wanted(out) && !is_json,
            colours_err: wanted(err),
            is_live: err && !is_json,
        }
    }

    /// Whether results are JSON.
    pub const fn is_json(&self) -> bool {
        self.is_json
    }

    /// Whether progress may move on the screen.
    pub const fn is_live(&self) -> bool {
        self.is_live
    }

    /// Whether results may have colours.
    pub const fn has_colours(&self) -> bool {
        self.colours_out
    }

    /// Prints a result for people; nothing when results are JSON.
    pub fn line(&self, text: &str) {
        if !self.is_json {
            drop(writeln!(stdout().lock(), "{text}"));
        }
    }

    /// Prints a result for people as it is, whether or not it ends with a line end.
    pub fn raw(&self, bytes: &[u8]) {
        let mut stdout = stdout().lock();
        drop(stdout.write_all(bytes).and_then(|()| stdout.flush()));
    }

    /// Says something beside the result.
    pub fn note(&self, text: &str) {
        drop(writeln!(stderr().lock(), "{text}"));
    }

    /// Puts a question; the cursor stays behind it.
    pub fn prompt(&self, question: &str) {
        let mut stderr = stderr().lock();
        drop(write!(stderr, "{question}").and_then(|()| stderr.flush()));
    }

    /// Prints a result for programs; nothing when results are for people.
    pub fn object<T: Serialize>(&self, value: &T) {
        if self.is_json {
            let json = serde_json::to_string_pretty(value).unwrap_or_default();
            drop(writeln!(stdout().lock(), "{}", text::json_guard(&json)));
        }
    }

    /// Prints one result of many for programs, on one line.
    pub fn object_line<T: Serialize>(&self, value: &T) {
        if self.is_json {
            let json = serde_json::to_string(value).unwrap_or_default();
            drop(writeln!(stdout().lock(), "{}", text::json_guard(&json)));
        }
    }

    /// Prints a table; nothing when results are JSON.
    pub fn table(&self, table: &Table) {
        self.line(&table.render(self.colours_out));
    }

    /// Text in that tone, for standard output.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        paint(self.colours_out, tone, text)
    }

    /// Text in that tone, for standard error.
    pub fn paint_note(&self, tone: Tone, text: &str) -> String {
        paint(self.colours_err, tone, text)
    }
}

fn paint(is_on: bool, tone: Tone, text: &str) -> String {
    match tone.code().filter(|_| is_on) {
        Some(code) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        None => text.to_owned(),
    }
}
