//! Keys on a console: what they do to the code that is being typed. Reads no terminal.
//!
//! Bytes come raw, so that no key is a signal. Whatever is no symbol of a code and no key of this
//! page does nothing, and of a key that sends several bytes none counts as typed.

/// The most that can be typed: a code with room for spaces.
const MOST: usize = 48;

/// What a byte came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// Nothing.
    Nothing,
    /// The line is another one now.
    Typed,
    /// That was the code.
    Enter(String),
    /// Somebody wants to log in.
    Login,
}

/// Where in the bytes of a key this is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    /// After an escape.
    Escaped,
    /// Until a final byte.
    Control,
    /// One byte more.
    Single,
}

/// The code as far as it is typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    typed: String,
    sequence: Sequence,
}

impl Entry {
    /// What is typed.
    pub(super) fn text(&self) -> &str {
        &self.typed
    }

    /// Takes the next byte.
    pub(super) fn take(&mut self, byte: u8) -> Key {
        match (self.sequence, byte) {
            (_, 0x1b) => self.sequence = Sequence::Escaped,
            (Sequence::Escaped, b'[') => self.sequence = Sequence::Control,
            (Sequence::Escaped, b'O') => self.sequence = Sequence::Single,
            (Sequence::Control, 0x20..=0x3f) => {}
            (Sequence::Escaped | Sequence::Control | Sequence::Single, _) => {
                self.sequence = Sequence::None;
            }
            (Sequence::None, byte) => return self.key(byte),
        }
        Key::Nothing
    }

    fn key(&mut self, byte: u8) -> Key {
        match byte {
            b'\r' | b'\n' if self.typed.is_empty() => Key::Nothing,
            b'\r' | b'\n' => Key::Enter(std::mem::take(&mut self.typed)),
            // Backspace, and what some terminals send for it.
            0x08 | 0x7f => {
                if self.typed.pop().is_some() {
                    Key::Typed
                } else {
                    Key::Nothing
                }
            }
            // Ctrl-U.
            0x15 => {
                self.typed.clear();
                Key::Typed
            }
            // Ctrl-L.
            0x0c => Key::Login,
            b'-' | b' ' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' if self.typed.len() < MOST => {
                self.typed.push(char::from(byte.to_ascii_uppercase()));
                Key::Typed
            }
            _ => Key::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Key};

    fn typed(bytes: &[u8]) -> (Entry, Vec<Key>) {
        let mut entry = Entry::default();
        let keys = bytes.iter().map(|byte| entry.take(*byte)).collect();
        (entry, keys)
    }

    #[test]
    fn symbols_are_typed_corrected_and_entered_whole() {
        let (entry, keys) = typed(b"ab-1\x7f2");
        assert_eq!(entry.text(), "AB-2");
        assert!(keys.iter().all(|key| *key == Key::Typed));
        assert_eq!(typed(b"x\x15ab\r").1.last(), Some(&Key::Enter("AB".to_owned())));
        assert_eq!(typed(b"\r").1, [Key::Nothing], "nothing is no code");
        assert_eq!(typed(&[b'a'; 1000]).0.text().len(), super::MOST);
    }

    #[test]
    fn keys_that_would_leave_do_nothing() {
        // Ctrl-C, Ctrl-Z, Ctrl-\, Ctrl-D, Ctrl-S, Ctrl-Q, Ctrl-], NUL of a break, and what is no text.
        let (entry, keys) = typed(b"\x03\x1a\x1c\x04\x13\x11\x1d\0\xff\xc3");
        assert_eq!(entry.text(), "");
        assert!(keys.iter().all(|key| *key == Key::Nothing));
    }

    #[test]
    fn keys_of_several_bytes_type_none_of_them() {
        // Up, F1, F12, a pasted bracket, Alt-A.
        let (entry, keys) = typed(b"\x1b[A\x1bOP\x1b[24~\x1b[200~\x1bA7");
        assert_eq!(entry.text(), "7");
        assert_eq!(keys.iter().filter(|key| **key == Key::Typed).count(), 1);
    }
}
