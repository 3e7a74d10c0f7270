//! The network devices of this namespace.

use super::netlink::{Message, NetlinkError, Notices, Socket, Subsystem};

/// A device came or changed (`RTM_NEWLINK`).
const NEW_LINK: u16 = 16;
/// Kind of the loopback device (`ARPHRD_LOOPBACK`).
const LOOPBACK: u16 = 772;
/// Bytes of `struct ifinfomsg`.
const FIXED: usize = 16;
const NAME: u16 = 3;

/// The names of all devices but loopback, sorted.
pub(super) fn devices() -> Result<Vec<String>, NetlinkError> {
    let mut socket = Socket::open(Subsystem::Route, Notices::None)?;
    let mut names = Vec::new();
    socket.dump_links(|link| names.extend(device(&link)))?;
    names.sort_unstable();
    Ok(names)
}

/// The device that a notice tells of, if it is one that can send.
pub(super) fn device(link: &Message<'_>) -> Option<String> {
    let kind = u16::from_ne_bytes(*link.body.get(2..)?.first_chunk()?);
    if link.kind != NEW_LINK || kind == LOOPBACK {
        return None;
    }
    link.attributes(FIXED).text(NAME).map(str::to_owned)
}
