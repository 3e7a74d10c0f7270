//! One newtype per identifier, parsed at the edge and trusted inside.
//!
//! Device, command, order and session ids are UUIDv7 (RFC 9562): they sort by the time of their
//! making. The caller gives that time and the random bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::time::Timestamp;

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    /// The text, cut to a printable length.
    pub text: String,
    /// What was expected, for a person.
    pub expected: &'static str,
}

impl ParseIdError {
    fn new(text: &str, expected: &'static str) -> Self {
        let text = text.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
        Self { text, expected }
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes the id from the time of its making and ten random bytes (RFC 9562, 5.7).
            pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(now.as_millis(), &random).into_uuid())
            }

            /// Wraps an id that was stored before.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The bare UUID, for the store.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }

            /// When it was made, as its first 48 bits say. Whoever wrote the id may have written
            /// anything there: for numbers that nothing depends on.
            pub const fn made_at(&self) -> Timestamp {
                let [a, b, c, d, e, f, ..] = *self.0.as_bytes();
                Timestamp::from_millis(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
            }

            /// The 16 bytes that are hashed and signed.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError::new(text, $expected))
            }
        }
    };
}

uuid_id!(
    /// One enrolled device.
    DeviceId,
    "a device id (a UUID)"
);
uuid_id!(
    /// One command: one order on one device.
    CommandId,
    "a command id (a UUID)"
);
uuid_id!(
    /// One operator's request; it makes one command per device.
    OrderId,
    "an order id (a UUID)"
);
uuid_id!(
    /// One session of a device with a hub. The newer session of a device replaces the older.
    SessionId,
    "a session id (a UUID)"
);
uuid_id!(
    /// One boot of a device, as the kernel names it.
    BootId,
    "a boot id (a UUID)"
);

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $max:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if is_name(text, $max) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(ParseIdError::new(text, $expected))
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name_id!(
    /// One push hub, as its configuration names it.
    HubId,
    63,
    "a hub name (1 to 63 of a-z, 0-9, dot, dash, underscore)"
);
name_id!(
    /// One group of devices, to which orders, tokens and scopes refer.
    GroupName,
    63,
    "a group name (1 to 63 of a-z, 0-9, dot, dash, underscore)"
);
name_id!(
    /// One person. Several keys of one person count once among approvals.
    PersonName,
    127,
    "a person's name (1 to 127 of a-z, 0-9, dot, dash, underscore, at)"
);

fn is_name(text: &str, max: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-@".contains(&b);
    (1..=max).contains(&text.len())
        && text.bytes().all(allowed)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// The name of a key: the first 16 bytes of the SHA-256 of its public bytes, base64url.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub(crate) String);

impl KeyId {
    /// The name as text, 22 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_says_when_it_was_made() {
        let now = Timestamp::from_millis(1_796_000_000_123);
        assert_eq!(CommandId::new(now, [0xff; 10]).made_at(), now);
    }
}
