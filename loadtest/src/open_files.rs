//! The limit of open files: each simulated device holds a socket.
//!
//! Owns raising the soft limit to the hard one, which every process may do.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that are open besides sockets, with room to spare.
const OTHERS: u64 = 128;

/// Why there may not be enough open files.
#[derive(Debug, thiserror::Error)]
pub enum OpenFilesError {
    /// The system does not let us look or raise.
    #[error("the limit of open files cannot be raised")]
    System(#[from] Errno),
    /// The hard limit is too low.
    #[error("{needed} open files are needed and the hard limit is {limit}; see ulimit -Hn")]
    TooFew {
        /// How many the run needs.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
}

/// Raises the soft limit to the hard one, says so, and checks that `sockets` fit.
///
/// # Errors
/// [`OpenFilesError`].
pub fn raise(sockets: u64) -> Result<(), OpenFilesError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        tracing::info!(from = soft, to = hard, "limit of open files raised");
    }
    let needed = sockets + OTHERS;
    if needed > hard {
        return Err(OpenFilesError::TooFew { needed, limit: hard });
    }
    Ok(())
}
