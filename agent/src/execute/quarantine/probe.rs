//! Sends real packets: to the control plane, which must answer, and to sinks, which must not be
//! reachable any more.
//!
//! Everything here is bounded and runs in the network namespace of the calling thread. Sinks are
//! addresses reserved for documentation (RFC 5737, RFC 3849), so that a broken quarantine sends
//! its probes to nobody.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getsockopt, sendto,
    socket, sockopt,
};
use runtime::Clock;

use crate::execute::course::{Course, patience};
use crate::host::Host;
use crate::mark::mark;

/// The sinks, by the name that evidence gives them.
pub(super) const SINKS: [(&str, IpAddr); 2] = [
    ("v4", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
    ("v6", IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
];
/// The discard port (RFC 863).
const SINK_PORT: u16 = 9;

/// Greets whoever is at the addresses in turn, again and again, until one of ours answers or the time is
/// up. Somebody else who accepts connections there does not count.
pub(super) fn first_recognised(
    host: &Host,
    addresses: &[SocketAddr],
    within: Duration,
    clock: &Clock,
) -> Option<SocketAddr> {
    let deadline = clock.now() + host.course.within(within);
    let is_ours = |address: &SocketAddr| {
        let left = deadline.saturating_duration_since(clock.now());
        // A zero timeout is an error to the standard library, not an immediate answer.
        let left = left.max(Duration::from_millis(1));
        let dial = || dial(*address, left.min(patience::CONNECT));
        let greeted = host.recognise.recognise(*address, &dial, left.min(patience::GREETING));
        let failed = greeted.inspect_err(|error| {
            tracing::debug!(%address, %error, "not recognised as ours");
        });
        failed.is_ok()
    };
    let mut ours = None;
    host.course.until(within, || {
        let in_time = || clock.now() <= deadline;
        ours = addresses.iter().take_while(|_| in_time()).find(|address| is_ours(address)).copied();
        ours.is_some()
    });
    ours
}

/// Connects as the agent does, with its mark.
fn dial(address: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connection = socket(family, SockType::Stream, flags, None)?;
    mark(&connection)?;
    match connect(connection.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) => return blocking(connection),
        Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut ready = [PollFd::new(connection.as_fd(), PollFlags::POLLOUT)];
    // Longer than a minute is nobody's wish here.
    let patience = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    if poll(&mut ready, patience)? == 0 {
        return Err(ErrorKind::TimedOut.into());
    }
    match getsockopt(&connection, sockopt::SocketError)? {
        0 => blocking(connection),
        errno => Err(Errno::from_raw(errno).into()),
    }
}

fn blocking(connection: OwnedFd) -> io::Result<TcpStream> {
    let stream = TcpStream::from(connection);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// What became of raw frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Raw {
    /// No device let one go.
    Filtered,
    /// One left the device.
    Passed,
    /// There is no device that could send one, or none may be sent from here.
    Untried,
}

impl Raw {
    /// The word for evidence.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
            Self::Passed => "passed",
            Self::Untried => "untried",
        }
    }
}

/// Sends a raw frame out of every device that takes one.
///
/// Should one leave, it says nothing to nobody: its type is one for experiments (IEEE 802, 0x88b5),
/// its addresses are nobody's.
pub(super) fn raw_frames() -> Raw {
    const FRAME: [u8; 60] = {
        let mut frame = [0; 60];
        (frame[0], frame[6], frame[11], frame[12], frame[13]) = (2, 2, 1, 0x88, 0xb5);
        frame
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let Ok(packets) = socket(AddressFamily::Packet, SockType::Raw, flags, None) else {
        return Raw::Untried;
    };
    let mut outcome = Raw::Untried;
    for device in getifaddrs().into_iter().flatten() {
        let is_loopback = device.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let Some(link) = device.address.as_ref().and_then(|at| at.as_link_addr()) else { continue };
        if is_loopback {
            continue;
        }
        match sendto(packets.as_raw_fd(), &FRAME, link, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => return Raw::Passed,
            // What the kernel says of a frame that a hook dropped.
            Err(Errno::ENOBUFS) => outcome = Raw::Filtered,
            // Down, gone, or not for frames like this one.
            Err(_) => {}
        }
    }
    outcome
}

/// How a sink was refused on this very device, or why that is not what happened.
pub(super) fn refused(sink: IpAddr, course: &Course) -> Result<Refused, String> {
    let datagram = refused_datagram(sink)?;
    match datagram {
        // The route lookup fails before any filter is asked, for TCP just as for UDP.
        Refused::NoRoute => Ok(datagram),
        Refused::Filtered => refused_connection(sink, course).map(|()| datagram),
    }
}

/// How a packet to a sink ended on the device itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The filter refused it: TCP got a reset, UDP a permission error.
    Filtered,
    /// The device has no route to it, so that no packet was made.
    NoRoute,
}

impl Refused {
    /// The word for evidence.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
            Self::NoRoute => "no_route",
        }
    }
}

/// A datagram tells most: without a route connect(2) fails, and only a local filter makes
/// send(2) answer with EPERM.
fn refused_datagram(sink: IpAddr) -> Result<Refused, String> {
    let any: IpAddr = match sink {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let routed = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((sink, SINK_PORT))?;
        Ok(socket)
    });
    let Ok(socket) = routed else { return Ok(Refused::NoRoute) };
    match socket.send(b"tocsin") {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Refused::Filtered),
        Err(error) => Err(format!("a datagram to {sink} ended otherwise: {error}")),
        Ok(_) => Err(format!("a datagram to {sink} left the device")),
    }
}

fn refused_connection(sink: IpAddr, course: &Course) -> Result<(), String> {
    // The refusal is local, so this is generous.
    let within = course.within(patience::REFUSAL).max(Duration::from_millis(1));
    let connected: io::Result<_> =
        TcpStream::connect_timeout(&SocketAddr::new(sink, SINK_PORT), within);
    match connected {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(format!("a connection to {sink} ended otherwise: {error}")),
        Ok(_) => Err(format!("a connection to {sink} was accepted")),
    }
}
