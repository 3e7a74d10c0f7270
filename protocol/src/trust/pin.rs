//! Pins: the keys that authorities may have, whatever a control plane says.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// SHA-256 of an authority's DER SubjectPublicKeyInfo (RFC 5280, section 4.1). As text: 64
/// lowercase hex digits, as in enrollment tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AuthorityPin([u8; 32]);

/// The text is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pin of an authority is 64 hex digits")]
pub struct ParsePinError;

impl AuthorityPin {
    /// A pin from the raw hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for AuthorityPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for AuthorityPin {
    type Err = ParsePinError;

    fn from_str(text: &str) -> Result<Self, ParsePinError> {
        let digits: Vec<u8> = text
            .chars()
            .map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok()))
            .collect::<Option<_>>()
            .ok_or(ParsePinError)?;
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(ParsePinError) };
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        bytes.try_into().map(Self).map_err(|_| ParsePinError)
    }
}

impl TryFrom<String> for AuthorityPin {
    type Error = ParsePinError;

    fn try_from(text: String) -> Result<Self, ParsePinError> {
        text.parse()
    }
}

impl From<AuthorityPin> for String {
    fn from(pin: AuthorityPin) -> Self {
        pin.to_string()
    }
}
