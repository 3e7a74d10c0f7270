//! The network devices of this namespace, and what is told of others.

use super::netlink::{Message, NetlinkError, Notices, Socket, Subsystem};

/// A device came or changed (`RTM_NEWLINK`).
const NEW_LINK: u16 = 16;
/// A device went (`RTM_DELLINK`).
const GONE_LINK: u16 = 17;
/// Kind of the loopback device (`ARPHRD_LOOPBACK`).
const LOOPBACK: u16 = 772;
/// Bytes of `struct ifinfomsg`.
const FIXED: usize = 16;
const NAME: u16 = 3;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
/// The namespace of what it lies on, where that is another than its own.
const LINK_NSID: u16 = 37;
/// Where it went: the number of the namespace, where that has one, and its index there.
const WENT_TO: [u16; 2] = [45, 49];

/// What container engines make and hand over all the time. What such devices send comes out of
/// another one, which is judged.
const HANDED_OVER: [&str; 5] = ["veth", "macvlan", "macvtap", "ipvlan", "ipvtap"];

/// A device that can send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: String,
    /// What made it, such as `veth`; a driver of hardware says nothing.
    pub(super) kind: Option<String>,
    /// The number of the namespace of what it lies on, where that is another.
    pub(super) lies_in: Option<i32>,
}

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
    found(link).map(|device| device.name)
}

/// The same with what it is.
pub(super) fn found(link: &Message<'_>) -> Option<Device> {
    (link.kind == NEW_LINK).then(|| read(link)).flatten()
}

/// The device that left for another namespace, by a notice, if its frames are judged nowhere then.
pub(super) fn left(link: &Message<'_>) -> Option<String> {
    let went = |link: &Message<'_>| {
        WENT_TO.iter().any(|attribute| link.attributes(FIXED).get(*attribute).is_some())
    };
    let device = (link.kind == GONE_LINK && went(link)).then(|| read(link)).flatten()?;
    let is_judged = device.kind.as_deref().is_some_and(|kind| HANDED_OVER.contains(&kind));
    (!is_judged).then_some(device.name)
}

fn read(link: &Message<'_>) -> Option<Device> {
    let kind = u16::from_ne_bytes(*link.body.get(2..)?.first_chunk()?);
    if kind == LOOPBACK {
        return None;
    }
    let attributes = link.attributes(FIXED);
    let lies_in = attributes.get(LINK_NSID).and_then(|bytes| bytes.first_chunk());
    Some(Device {
        name: attributes.text(NAME)?.to_owned(),
        kind: attributes.inside(INFO).text(INFO_KIND).map(str::to_owned),
        lies_in: lies_in.map(|bytes| i32::from_ne_bytes(*bytes)),
    })
}
