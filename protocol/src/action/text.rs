//! Texts inside actions: bounded, and such that whoever reads them sees what they say.

use crate::limits;

/// Whether a text of a person or a device prints as it reads: bounded, and without control or
/// bidirectional characters that would let it pose as something else in a terminal or a log.
pub fn is_printable(text: &str) -> bool {
    text.chars().count() <= limits::TEXT_CHARS && !text.chars().any(is_hidden)
}

/// Whether a text is a script that can be approved and run: bounded, begun by the line that names its
/// interpreter, and such that whoever reads it sees what runs.
pub fn is_script(text: &str) -> bool {
    let is_odd = |c: char| is_hidden(c) && c != '\n' && c != '\t';
    text.len() <= limits::SCRIPT_BYTES && text.starts_with("#!/") && !text.chars().any(is_odd)
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
