//! Watches over quarantine's tables: what somebody takes away or alters stands again at once, and
//! devices that come are covered.
//!
//! One thread, woken by the kernel's notices, in the network namespace of whoever started it. It
//! takes turns with the executors and changes nothing that no record asks for.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::receipt::{Failure, FailureKind};

use super::super::failure;
use super::kernel::OF_TABLE;
use super::links;
use super::netlink::{Message, Notices, Socket, Subsystem, messages};
use super::ruleset::{CANARY, TABLE};
use super::uphold::{Tampering, Upheld, current, mend};
use crate::host::Host;

/// The stage that failures name.
const STAGE: &str = "watch";
/// How long after a failure it is tried again, in milliseconds.
const RETRY_MS: u8 = 100;

/// The watch; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    /// The thread ends when this end is closed.
    alive: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches from now on, and tells of every tampering that was made good.
    ///
    /// # Errors
    /// `Io`, or what the kernel said to listening.
    pub fn start(
        host: Host,
        told: impl FnMut(Tampering) + Send + 'static,
    ) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| failure(FailureKind::Io, STAGE, error);
        let open =
            |subsystem, notices| Socket::open(subsystem, notices).map_err(|error| failed(&error));
        let tables = open(Subsystem::Netfilter, Notices::Tables)?;
        let links = open(Subsystem::Route, Notices::Links)?;
        let (alive, ended) = UnixStream::pair().map_err(|error| failed(&error))?;
        let watching = Watching { host, told, tables, links, left: Vec::new(), ended };
        let thread = thread::Builder::new()
            .name("quarantine watch".to_owned())
            .spawn(move || watching.run())
            .map_err(|error| failed(&error))?;
        Ok(Self { alive: Some(alive), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.alive.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watching<T> {
    host: Host,
    told: T,
    tables: Socket,
    links: Socket,
    /// Devices that went to another namespace, and of which nobody was told yet.
    left: Vec<String>,
    ended: UnixStream,
}

impl<T: FnMut(Tampering)> Watching<T> {
    fn run(mut self) {
        // What happened before there was a watch counts as well.
        let mut is_due = true;
        loop {
            let is_settled = !is_due || self.mend();
            match self.wait(is_settled) {
                Ok(Some(concerns)) => {
                    is_due = concerns || !is_settled;
                    self.tell_what_left();
                }
                Ok(None) => return,
                Err(errno) => {
                    tracing::error!(%errno, "quarantine is looked at from time to time only");
                    return;
                }
            }
        }
    }

    /// What leaves for another namespace takes its frames along: there no table of ours is.
    fn tell_what_left(&mut self) {
        let left = std::mem::take(&mut self.left);
        if left.is_empty() || !matches!(current(&self.host), Ok(Some(_))) {
            return;
        }
        let devices = left.join(", ");
        tracing::error!(devices, "quarantined devices left for another network namespace");
        (self.told)(Tampering::DeviceLeft);
    }

    /// Whether nothing is left to do.
    fn mend(&mut self) -> bool {
        match mend(&self.host) {
            Ok(Upheld::Mended(tampering)) => {
                let what = tampering.as_str();
                tracing::error!(what, "quarantine was tampered with, and stands again");
                (self.told)(tampering);
                true
            }
            Ok(_) => true,
            Err(failure) => {
                tracing::error!(detail = failure.detail, "quarantine not mended");
                false
            }
        }
    }

    /// Waits for notices, and for a while only when something is left to do. Whether they concern
    /// a quarantine; `None` when the watch is over.
    fn wait(&mut self, is_settled: bool) -> Result<Option<bool>, Errno> {
        let listen = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let fds: [BorrowedFd<'_>; 3] =
            [self.tables.as_fd(), self.links.as_fd(), self.ended.as_fd()];
        let mut fds = fds.map(listen);
        let patience = if is_settled { PollTimeout::NONE } else { PollTimeout::from(RETRY_MS) };
        match poll(&mut fds, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        if fds[2].any() == Some(true) {
            return Ok(None);
        }
        let tables = concerns(&self.tables, of_quarantine);
        let left = &mut self.left;
        let links = concerns(&self.links, |link| {
            left.extend(links::left(link));
            links::device(link).is_some()
        });
        Ok(Some(tables | links))
    }
}

/// Reads all notices that lie ready. Whether one matters, or some were lost.
fn concerns(socket: &Socket, mut matters: impl FnMut(&Message<'_>) -> bool) -> bool {
    let (mut reading, mut do_concern) = (Vec::new(), false);
    while let Ok(Some(bytes)) = socket.notices(&mut reading) {
        do_concern |= bytes.is_empty() || messages(bytes).any(|message| matters(&message));
    }
    do_concern
}

fn of_quarantine(message: &Message<'_>) -> bool {
    matches!(message.netfilter().text(OF_TABLE), Some(TABLE | CANARY))
}
