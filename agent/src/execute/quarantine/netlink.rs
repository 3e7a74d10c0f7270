//! A netlink socket: requests, dumps, nf_tables transactions and notices, in the network namespace
//! of the thread that opened it.
//!
//! Owns headers, sequence numbers and acknowledgements. Knows no table: what a message says is
//! its caller's part. Blocks, and never for longer than [`ANSWER`].

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

pub(super) use self::attribute::{Attributes, Value, text};

mod attribute;
#[cfg(test)]
mod tests;

/// The longest that the kernel may take for one answer: a commit waits for grace periods.
const ANSWER: Duration = Duration::from_secs(20);
/// Bytes of one reading; the kernel fills at most half of it with a dump.
const READING: usize = 256 * 1024;
/// Wanted bytes of the socket's buffers; what is allowed is taken.
const BUFFER: usize = 8 * 1024 * 1024;
/// How often a dump is begun again because its subject changed meanwhile.
const DUMPS: usize = 5;

/// Bytes of a message's header (`struct nlmsghdr`).
const HEADER: usize = 16;
/// Header of messages of the netfilter subsystems (`struct nfgenmsg`).
const NETFILTER: usize = 4;
const NF_TABLES: u8 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const GET_LINK: u16 = 18;
/// In an answer: what is dumped changed in between.
const INTERRUPTED: u16 = 0x10;

/// The groups that a socket can listen to, as bits for its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notices {
    /// None: the socket only gets answers.
    None,
    /// Changes of nf_tables.
    Tables,
    /// Network devices that come, change and go.
    Links,
}

impl Notices {
    const fn bits(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Tables => 1 << 6,
            Self::Links => 1,
        }
    }
}

/// Which part of the kernel a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subsystem {
    /// Netfilter.
    Netfilter,
    /// Routes and network devices.
    Route,
}

/// Why the kernel did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NetlinkError {
    /// It declined one message of a transaction, and with it all.
    #[error("message {message} of the transaction was declined: {errno}")]
    Declined {
        /// Its place, from 0.
        message: usize,
        /// Why.
        errno: Errno,
    },
    /// The socket or the whole request failed.
    #[error("netlink: {0}")]
    Failed(Errno),
    /// What is to be changed belongs to the socket of another program.
    #[error("the table is held by another program's netlink socket {0}")]
    Held(u32),
    /// Bytes that are no netlink.
    #[error("the kernel's answer is not understood")]
    Garbled,
    /// No answer in time.
    #[error("the kernel did not answer in time")]
    TimedOut,
}

impl NetlinkError {
    /// The kernel's reason, where it gave one.
    pub(super) const fn errno(self) -> Option<Errno> {
        match self {
            Self::Declined { errno, .. } | Self::Failed(errno) => Some(errno),
            Self::Held(_) => Some(Errno::EPERM),
            Self::Garbled | Self::TimedOut => None,
        }
    }
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        if errno == Errno::EAGAIN { Self::TimedOut } else { Self::Failed(errno) }
    }
}

/// One message from the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    /// What it is, as the subsystem numbers it.
    pub(super) kind: u16,
    /// Its flags.
    pub(super) flags: u16,
    sequence: u32,
    /// What follows the header.
    pub(super) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The protocol family of a message of netfilter.
    pub(super) fn family(&self) -> u8 {
        self.body.first().copied().unwrap_or_default()
    }

    /// The attributes behind a fixed part of that many bytes.
    pub(super) fn attributes(&self, fixed: usize) -> Attributes<'a> {
        Attributes::new(self.body.get(fixed..).unwrap_or_default())
    }

    /// The attributes of a message of netfilter.
    pub(super) fn netfilter(&self) -> Attributes<'a> {
        self.attributes(NETFILTER)
    }

    fn errno(&self) -> Result<Option<Errno>, NetlinkError> {
        let code = self.body.first_chunk().ok_or(NetlinkError::Garbled)?;
        let code = i32::from_ne_bytes(*code);
        Ok((code != 0).then(|| Errno::from_raw(code.saturating_neg())))
    }
}

/// The messages of one reading, in order. Bytes that are no message end them.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (length, kind) = (word(bytes, 0)? as usize, half(bytes, 4)?);
        let (flags, sequence) = (half(bytes, 6)?, word(bytes, 8)?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, flags, sequence, body })
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A netlink socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    /// The number by which the kernel knows it: the owner of what it makes.
    port: u32,
    sequence: u32,
}

impl Socket {
    /// A socket in the network namespace of this thread.
    pub(super) fn open(subsystem: Subsystem, notices: Notices) -> Result<Self, NetlinkError> {
        let protocol = match subsystem {
            Subsystem::Netfilter => SockProtocol::NetlinkNetFilter,
            Subsystem::Route => SockProtocol::NetlinkRoute,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, notices.bits()))?;
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        // Beyond the system's limit only the machine's own root may go; a container's may not.
        let _ = setsockopt(&fd, sockopt::SndBufForce, &BUFFER)
            .or_else(|_| setsockopt(&fd, sockopt::SndBuf, &BUFFER));
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &BUFFER)
            .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &BUFFER));
        let seconds = ANSWER.as_secs().cast_signed();
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(seconds, 0))?;
        Ok(Self { fd, port, sequence: 0 })
    }

    /// The number by which the kernel knows this socket.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    /// Applies a transaction: all of it or nothing.
    pub(super) fn commit(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        self.transact(batch, true)
    }

    /// Lets the kernel judge a transaction without applying it: one without its end is undone.
    pub(super) fn check(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        self.transact(batch, false)
    }

    fn transact(&mut self, batch: Batch, is_meant: bool) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let count = u32::try_from(batch.0.len()).map_err(|_| NetlinkError::Garbled)?;
        self.sequence = first.wrapping_add(count).wrapping_add(1);
        let mut bytes = batch_edge(BATCH_BEGIN, first);
        let last = first.wrapping_add(count);
        for (at, change) in (first.wrapping_add(1)..).zip(&batch.0) {
            let ack = if at == last { ACK } else { 0 };
            let flags = REQUEST | change.flags | ack;
            bytes.extend(message(nf_tables(change.kind), (flags, at), &change.body));
        }
        if is_meant {
            bytes.extend(batch_edge(BATCH_END, last.wrapping_add(1)));
        }
        self.send(&bytes)?;
        self.judged(first, last)
    }

    /// Reads until the last message of a transaction is acknowledged; the first complaint counts.
    fn judged(&self, first: u32, last: u32) -> Result<(), NetlinkError> {
        let mut complaint = None;
        let mut reading = vec![0; READING];
        loop {
            let length = self.read(&mut reading)?;
            for message in messages(&reading[..length]) {
                if message.kind != ERROR || !(first..=last).contains(&message.sequence) {
                    continue;
                }
                match message.errno()? {
                    // About the whole: nothing else follows.
                    Some(errno) if message.sequence == first => {
                        return Err(complaint.unwrap_or(NetlinkError::Failed(errno)));
                    }
                    Some(errno) => {
                        let message = (message.sequence - first - 1) as usize;
                        complaint.get_or_insert(NetlinkError::Declined { message, errno });
                    }
                    None => {}
                }
                if message.sequence == last {
                    return complaint.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Every object of a kind of nf_tables, in a family or (0) in all; one call each.
    pub(super) fn dump_tables(
        &mut self,
        (kind, family): (u8, u8),
        filter: &[u8],
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        let body = [&[family, 0, 0, 0], filter].concat();
        let mut found = Vec::new();
        self.dump(nf_tables(kind), &body, &mut found)?;
        found.iter().for_each(|reading| messages(reading).for_each(&mut each));
        Ok(())
    }

    /// Every network device; one call each.
    pub(super) fn dump_links(
        &mut self,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        let mut found = Vec::new();
        // An empty `struct ifinfomsg`: every device.
        self.dump(GET_LINK, &[0; 16], &mut found)?;
        found.iter().for_each(|reading| messages(reading).for_each(&mut each));
        Ok(())
    }

    /// Every network device of the namespace with that number; one call each.
    pub(super) fn dump_links_of(
        &mut self,
        namespace: i32,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        const TARGET: u16 = 46;
        let target = Value::default().raw(TARGET, &namespace.to_ne_bytes());
        let mut found = Vec::new();
        self.dump(GET_LINK, &[&[0; 16][..], target.bytes()].concat(), &mut found)?;
        found.iter().for_each(|reading| messages(reading).for_each(&mut each));
        Ok(())
    }

    /// The body of the one answer to a request.
    pub(super) fn ask(&mut self, kind: u16, body: &[u8]) -> Result<Vec<u8>, NetlinkError> {
        self.exchange((kind, REQUEST), body)
    }

    /// Has something done that is answered by whether it was.
    pub(super) fn tell(&mut self, kind: u16, body: &[u8]) -> Result<(), NetlinkError> {
        self.exchange((kind, REQUEST | ACK), body).map(drop)
    }

    fn exchange(
        &mut self,
        (kind, flags): (u16, u16),
        body: &[u8],
    ) -> Result<Vec<u8>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&message(kind, (flags, self.sequence), body))?;
        let mut reading = vec![0; 8192];
        loop {
            let length = self.read(&mut reading)?;
            let its = |message: &Message<'_>| message.sequence == self.sequence;
            let Some(answer) = messages(&reading[..length]).find(its) else { continue };
            if answer.kind == ERROR
                && let Some(errno) = answer.errno()?
            {
                return Err(NetlinkError::Failed(errno));
            }
            return Ok(answer.body.to_vec());
        }
    }

    fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        found: &mut Vec<Vec<u8>>,
    ) -> Result<(), NetlinkError> {
        for _ in 0..DUMPS {
            found.clear();
            if self.dump_once(kind, body, found)? {
                return Ok(());
            }
        }
        Err(NetlinkError::Failed(Errno::EINTR))
    }

    /// Whether the dump is of one moment.
    fn dump_once(
        &mut self,
        kind: u16,
        body: &[u8],
        found: &mut Vec<Vec<u8>>,
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&message(kind, (REQUEST | DUMP, self.sequence), body))?;
        let mut reading = vec![0; READING];
        let mut is_whole = true;
        loop {
            let length = self.read(&mut reading)?;
            let mut is_over = false;
            for message in messages(&reading[..length]) {
                is_whole &= message.flags & INTERRUPTED == 0;
                match message.kind {
                    ERROR => match message.errno()? {
                        Some(errno) => return Err(NetlinkError::Failed(errno)),
                        None => is_over = true,
                    },
                    DONE => is_over = true,
                    _ => {}
                }
            }
            found.push(reading[..length].to_vec());
            if is_over {
                return Ok(is_whole);
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    }

    fn read(&self, reading: &mut [u8]) -> Result<usize, NetlinkError> {
        loop {
            match recv(self.fd.as_raw_fd(), reading, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                outcome => return Ok(outcome?),
            }
        }
    }

    /// What lies ready, without waiting: `None` when nothing does. That some was lost counts as
    /// an empty reading.
    pub(super) fn notices<'a>(
        &self,
        reading: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, NetlinkError> {
        reading.resize(READING, 0);
        match recv(self.fd.as_raw_fd(), reading, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Ok(Some(&reading[..length])),
            Err(Errno::ENOBUFS) => Ok(Some(&[])),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The changes of one nf_tables transaction, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch(Vec<Change>);

#[derive(Debug, Clone)]
struct Change {
    kind: u8,
    flags: u16,
    body: Vec<u8>,
}

impl Batch {
    /// Makes an object.
    pub(super) fn create(&mut self, kind: u8, family: u8, attributes: &Value) {
        // Rules go behind those that are there (NLM_F_APPEND); others know no order.
        const APPEND: u16 = 0x800;
        self.push((kind, CREATE | APPEND), family, attributes);
    }

    /// Removes an object.
    pub(super) fn remove(&mut self, kind: u8, family: u8, attributes: &Value) {
        self.push((kind, 0), family, attributes);
    }

    fn push(&mut self, (kind, flags): (u8, u16), family: u8, attributes: &Value) {
        let body = [&[family, 0, 0, 0], attributes.bytes()].concat();
        self.0.push(Change { kind, flags, body });
    }

    /// How many changes there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

const fn nf_tables(kind: u8) -> u16 {
    u16::from_be_bytes([NF_TABLES, kind])
}

fn batch_edge(kind: u16, sequence: u32) -> Vec<u8> {
    message(kind, (REQUEST, sequence), &[0, 0, 0, NF_TABLES])
}

fn message(kind: u16, (flags, sequence): (u16, u32), body: &[u8]) -> Vec<u8> {
    let length = HEADER + body.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    // A message longer than 4 GiB would be declined by the kernel for its length anyway.
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}
