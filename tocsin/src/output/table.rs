//! Tables for people.
//!
//! Owns their look. Every cell is cleaned here, so that no caller can forget it.

use comfy_table::{Attribute, Cell, Color, ContentArrangement, presets};

use super::{Tone, text};

/// The longest cell, in characters.
const CELL_CHARS: usize = 120;

/// A table: a head and rows of cells with a tone each.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// An empty table with that head.
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = (String, Tone)>) {
        let clean = |(cell, tone): (String, Tone)| (text::clean_to(&cell, CELL_CHARS), tone);
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// How many rows there are.
    pub const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, without a last line end.
    pub fn render(&self, has_colours: bool) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if has_colours {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(self.head.iter().map(|head| Cell::new(head.to_uppercase())));
        for row in &self.rows {
            table.add_row(row.iter().map(|(text, tone)| cell(text, *tone)));
        }
        let text = table.to_string();
        let lines: Vec<_> = text.lines().map(trimmed).collect();
        lines.join("\n")
    }
}

/// The preset pads each line on both sides.
fn trimmed(line: &str) -> &str {
    let line = line.trim_end();
    line.strip_prefix(' ').unwrap_or(line)
}

fn cell(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Waiting => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
        Tone::Faint => cell.add_attribute(Attribute::Dim),
        Tone::Strong => cell.add_attribute(Attribute::Bold),
    }
}
