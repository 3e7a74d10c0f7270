//! Text that came from elsewhere, made safe to print.
//!
//! Owns cleaning and cutting. A device may call itself anything; no name, stage or detail may
//! move the cursor, hide itself or turn the reading direction.

use protocol::action::is_printable;

/// Whether a character prints as it reads.
fn is_fine(c: char) -> bool {
    is_printable(c.encode_utf8(&mut [0; 4]))
}

/// The text with `�` in place of every character that would not print as it reads, cut at 500
/// characters.
pub fn clean(text: &str) -> String {
    clean_to(text, protocol::limits::TEXT_CHARS)
}

/// As [`clean`], cut at that many characters; `…` says that something is missing.
pub fn clean_to(text: &str, max: usize) -> String {
    let is_cut = text.chars().count() > max;
    let keep = if is_cut { max.saturating_sub(1) } else { max };
    let mut cleaned: String =
        text.chars().take(keep).map(|c| if is_fine(c) { c } else { '\u{fffd}' }).collect();
    if is_cut {
        cleaned.push('…');
    }
    cleaned
}

/// JSON with every hidden character of its strings escaped. Outside of strings JSON has none but
/// line ends, which stay.
pub fn json_guard(json: &str) -> String {
    let mut guarded = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || is_fine(c) {
            guarded.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                guarded.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    guarded
}

/// The first characters of an id or hash: enough to compare by eye.
pub fn short(text: &str) -> String {
    clean_to(text, 13)
}

/// `1 device`, `2 devices`.
pub fn count(many: usize, one: &str) -> String {
    if many == 1 { format!("1 {one}") } else { format!("{many} {one}s") }
}
