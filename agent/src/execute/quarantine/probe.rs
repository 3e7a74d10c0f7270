//! Sends real packets: to the control plane, which must answer, and to sinks, which must not be
//! reachable any more.
//!
//! Everything here is bounded and runs in the network namespace of the calling thread. Sinks are
//! addresses reserved for documentation (RFC 5737, RFC 3849), so that a broken quarantine sends
//! its probes to nobody.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use runtime::Clock;

/// Time for one connection.
const CONNECT: Duration = Duration::from_secs(1);
/// Pause after a round in which nobody answered.
const PAUSE: Duration = Duration::from_millis(200);
/// Time for a sink to be refused. The refusal is local, so this is generous.
const REFUSAL: Duration = Duration::from_secs(3);

/// The sinks, by the name that evidence gives them.
pub(super) const SINKS: [(&str, IpAddr); 2] = [
    ("v4", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
    ("v6", IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
];
/// The discard port (RFC 863).
const SINK_PORT: u16 = 9;

/// Connects to the addresses in turn, again and again, until one accepts or the time is up.
pub(super) fn first_reachable(
    addresses: &[SocketAddr],
    within: Duration,
    clock: &Clock,
) -> Option<SocketAddr> {
    let deadline = clock.now() + within;
    loop {
        for address in addresses {
            let left = deadline.checked_duration_since(clock.now())?;
            // A zero timeout is an error to the standard library, not an immediate answer.
            let timeout = left.min(CONNECT).max(Duration::from_millis(1));
            if TcpStream::connect_timeout(address, timeout).is_ok() {
                return Some(*address);
            }
        }
        let left = deadline.checked_duration_since(clock.now())?;
        thread::sleep(left.min(PAUSE));
    }
}

/// How a sink was refused on this very device, or why that is not what happened.
pub(super) fn refused(sink: IpAddr) -> Result<Refused, String> {
    let datagram = refused_datagram(sink)?;
    match datagram {
        // The route lookup fails before any filter is asked, for TCP just as for UDP.
        Refused::NoRoute => Ok(datagram),
        Refused::Filtered => refused_connection(sink).map(|()| datagram),
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

fn refused_connection(sink: IpAddr) -> Result<(), String> {
    let connected: io::Result<_> =
        TcpStream::connect_timeout(&SocketAddr::new(sink, SINK_PORT), REFUSAL);
    match connected {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(format!("a connection to {sink} ended otherwise: {error}")),
        Ok(_) => Err(format!("a connection to {sink} was accepted")),
    }
}
