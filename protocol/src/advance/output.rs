//! What a script says while it runs: the last of each of its outputs, and where that begins.
//!
//! A window on bytes that go by. Whoever sees one window after another knows what is new, and how much
//! went by unseen; nobody asks for the rest. The bytes are a script's own words, and may be anything.

use serde::{Deserialize, Serialize};

use crate::limits;

/// The last of both outputs of a script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Of its standard output, if it has said something there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Tail>,
    /// Of its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Tail>,
}

/// The last bytes of one output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// How many bytes of that output came before these.
    pub from: u64,
    /// The bytes. As text: base64url.
    #[serde(with = "base64url")]
    pub bytes: Vec<u8>,
}

impl Output {
    /// Whether it is within its bounds. What it says is not looked at.
    pub fn is_sound(&self) -> bool {
        [&self.stdout, &self.stderr].into_iter().flatten().all(Tail::is_sound)
    }
}

impl Tail {
    /// How many bytes that output has had by now.
    pub fn end(&self) -> u64 {
        self.from.saturating_add(self.bytes.len() as u64)
    }

    /// What of it is new to somebody who has seen the first `seen` bytes of that output, and how many
    /// bytes went by in between.
    pub fn after(&self, seen: u64) -> (u64, &[u8]) {
        let known = usize::try_from(seen.saturating_sub(self.from)).unwrap_or(usize::MAX);
        let new = self.bytes.get(known..).unwrap_or_default();
        (self.from.saturating_sub(seen), new)
    }

    fn is_sound(&self) -> bool {
        self.bytes.len() <= limits::OUTPUT_TAIL_BYTES && self.end() <= limits::ADVANCE_NUMBER
    }
}

/// Bytes as text.
mod base64url {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text).map_err(D::Error::custom)
    }
}
