//! The limit of open files: each simulated device holds a socket.
//!
//! Owns raising the soft limit to the hard one, which every process may do.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that are open besides the sockets of devices, with room to spare.
pub const OTHERS: u64 = 512;

/// Why the limit could not be raised.
#[derive(Debug, thiserror::Error)]
pub enum OpenFilesError {
    /// The system does not let us look or raise.
    #[error("the limit of open files cannot be raised")]
    System(#[from] Errno),
}

/// Raises the soft limit to the hard one, says so, and answers it. Processes that are started from
/// then on have it too.
///
/// # Errors
/// [`OpenFilesError`].
pub fn raise() -> Result<u64, OpenFilesError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        tracing::info!(from = soft, to = hard, "limit of open files raised");
    }
    Ok(hard)
}
