//! Connecting to a sink: a name is resolved once, its address judged, and that very address used.
//!
//! Owns which addresses a webhook may have. A setting must not make the control plane talk to
//! itself, to its network or to the cloud's metadata.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime::tls::{self, TlsConnector, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{SinkError, Sinks};

/// Where common systems keep the authorities that they trust.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
/// TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(5);

/// The parts of an `https` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
}

impl Url {
    /// Reads one: no other scheme, no user, nothing that would not stand in a request line.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("https://")?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains(['@', '#', '\\']) {
            return None;
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let with_port = host_and_port(authority);
        let (host, port) = with_port.unwrap_or_else(|| (authority.to_owned(), 443));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        (!host.is_empty()).then(|| Self { host, port, path: path.to_owned() })
    }
}

/// The parts of `host:port`.
pub(super) fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let is_bare_v6 = host.contains(':') && !host.ends_with(']');
    let port = port.parse().ok().filter(|_| !host.is_empty() && !is_bare_v6)?;
    Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// Whether no webhook may be there.
pub(super) fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => is_forbidden_v6(v6),
    }
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Shared address space (RFC 6598), protocol assignments (RFC 6890), benchmarks (RFC 2544).
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xfe == 18)
}

fn is_forbidden_v6(address: Ipv6Addr) -> bool {
    // What is an IPv4 address in another form is judged as that: mapped, compatible, NAT64, 6to4.
    let segments = address.segments();
    let [.., high, low] = segments;
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_forbidden_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, ..] if embedded(high, low) => return true,
        [0x2002, high, low, ..] if embedded(high, low) => return true,
        _ => {}
    }
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        // Site-local (deprecated), documentation, and NAT64 of a network's own choice.
        || segments[0] & 0xffc0 == 0xfec0
        || (segments[0] == 0x2001 && segments[1] == 0xdb8)
        || (segments[0] == 0x64 && segments[1] == 0xff9b && segments[2] != 0)
}

/// The address of a webhook: the first one, if every one of the name may be talked to.
pub(super) async fn resolve(sinks: &Sinks, url: &Url) -> Result<SocketAddr, SinkError> {
    let found = tokio::net::lookup_host((url.host.as_str(), url.port)).await?;
    let mut first = None;
    for address in found {
        let ip = address.ip().to_canonical();
        if is_forbidden(ip) && !sinks.webhook_allow.contains(&ip) {
            return Err(SinkError::Forbidden(ip));
        }
        first.get_or_insert(address);
    }
    let none = || std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    first.ok_or_else(|| none().into())
}

/// Opens TLS with a server at that address, which must be whom that name is.
pub(super) async fn connect(
    sinks: &Sinks,
    address: SocketAddr,
    host: &str,
    alpn: &[&[u8]],
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, SinkError> {
    let file = sinks.ca_file.as_deref().unwrap_or(Path::new(SYSTEM));
    let authorities = tls::read_certificates(file)?;
    let config = tls::client_config(&authorities, None, alpn)?;
    let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(SinkError::Late),
    }
}
