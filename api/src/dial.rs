//! Connecting to what a setting names: resolved once, its address judged, and that very one used.
//!
//! Owns which addresses webhooks and sign-in providers may have. A setting must not make the control
//! plane talk to itself, to its network or to the cloud's metadata.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use runtime::tls::{self, TlsConnector, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Where common systems keep the authorities that they trust.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
/// TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no connection, or no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Reading, writing, connecting.
    #[error("it cannot be reached")]
    Io(#[from] std::io::Error),
    /// It is at an address where none may be.
    #[error("{0} is an address where nothing may be that is not allowed")]
    Forbidden(IpAddr),
    /// No TLS with it.
    #[error("there is no tls with it")]
    Tls(#[from] runtime::tls::TlsError),
    /// The authorities cannot be read.
    #[error("its authorities cannot be read")]
    Pem(#[from] runtime::tls::PemError),
    /// What it says is no HTTP.
    #[error("it speaks no http")]
    Http(#[from] hyper::Error),
    /// It answered something else than what was asked for.
    #[error("it answered {0}")]
    Answer(String),
    /// It took too long.
    #[error("it took too long")]
    Late,
}

/// Whom to believe, and which addresses are no harm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trusting<'a> {
    /// Addresses that may be private or of this machine.
    pub(crate) allow: &'a BTreeSet<IpAddr>,
    /// Authorities (PEM); `None`: those of the system.
    pub(crate) ca_file: Option<&'a Path>,
}

/// The parts of an `https` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
}

impl Url {
    /// Reads one: no other scheme, no user, nothing that would not stand in a request line.
    pub(crate) fn parse(text: &str) -> Option<Self> {
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

    /// `host`, or `host:port` where the port is not the usual one.
    pub(crate) fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 443 { host } else { format!("{host}:{}", self.port) }
    }
}

/// The parts of `host:port`.
pub(crate) fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let is_bare_v6 = host.contains(':') && !host.ends_with(']');
    let port = port.parse().ok().filter(|_| !host.is_empty() && !is_bare_v6)?;
    Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// Whether nothing may be there that a setting names.
pub(crate) fn is_forbidden(address: IpAddr) -> bool {
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

/// The address of a server: the first one, if every one of the name may be talked to.
pub(crate) async fn resolve(allow: &BTreeSet<IpAddr>, url: &Url) -> Result<SocketAddr, DialError> {
    let found = tokio::net::lookup_host((url.host.as_str(), url.port)).await?;
    let mut first = None;
    for address in found {
        let ip = address.ip().to_canonical();
        if is_forbidden(ip) && !allow.contains(&ip) {
            return Err(DialError::Forbidden(ip));
        }
        first.get_or_insert(address);
    }
    let none = || std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    first.ok_or_else(|| none().into())
}

/// Opens TLS with a server at that address, which must be whom that name is.
pub(crate) async fn connect(
    ca_file: Option<&Path>,
    address: SocketAddr,
    host: &str,
    alpn: &[&[u8]],
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, DialError> {
    let file = ca_file.unwrap_or(Path::new(SYSTEM));
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
        Err(_) => Err(DialError::Late),
    }
}

/// Reads what is there: no redirect is followed, and no more than that many bytes are taken.
pub(crate) async fn get(
    trusting: Trusting<'_>,
    url: &Url,
    max_bytes: usize,
) -> Result<Bytes, DialError> {
    let address = resolve(trusting.allow, url).await?;
    let stream = connect(trusting.ca_file, address, &url.host, &[b"http/1.1"]).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(&url.path)
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(std::io::Error::other)?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(DialError::Answer(response.status().as_u16().to_string()));
        }
        let body = Limited::new(response.into_body(), max_bytes).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|error| DialError::Io(std::io::Error::other(error)))
    };
    // The connection ends with its only exchange; what it says of its own end is of no interest.
    futures_util::future::join(exchange, connection).await.0
}
