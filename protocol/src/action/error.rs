//! What may be wrong with an action that is well formed.

use crate::limits;

/// An action whose parameters are outside what the protocol allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// A text is too long or would not print as it reads.
    #[error("{field} must be at most {} printable characters", limits::TEXT_CHARS)]
    Text {
        /// Which parameter.
        field: &'static str,
    },
    /// Not a path that could be collected.
    #[error("a path must be absolute, without `.`, `..` and empty parts, and print as it reads")]
    Path,
    /// Sources that are none.
    #[error("sources must name processes, logs or paths")]
    NoSource,
    /// Bounds that are none.
    #[error(
        "item_bytes must be 1 to total_bytes, and total_bytes at most {}",
        limits::COLLECTION_BYTES
    )]
    Bytes,
    /// A script without an end.
    #[error("budget_secs must be 1 to {}", limits::SCRIPT_SECS)]
    Budget,
    /// Not the name of a local account.
    #[error(
        "account must be 1 to 32 of a-z, 0-9, `_`, `-` and `.`, and begin with a letter or `_`"
    )]
    Account,
    /// A plan of something that has none.
    #[error(
        "only lock, unlock, quarantine, release, wipe, selective_wipe, crypto_lock, reboot and \
         rotate_credentials have a plan"
    )]
    Plan,
    /// A list is too long.
    #[error("{field} must have at most {} entries", limits::LIST_ENTRIES)]
    List {
        /// Which parameter.
        field: &'static str,
    },
}
