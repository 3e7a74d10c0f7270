//! Whether it is hub or control plane that answers at an address, and not somebody in their place.
//!
//! Owns one TLS handshake over a connection that somebody else makes: blocking, for executors. Knows no
//! frame. By the handshake alone a server proves that it is ours; by the ticket that follows it says that
//! it has taken this device's certificate.

use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::Clock;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::http::split;

/// Names that are tried at one address: those with its port, of which there are few.
const NAMES: usize = 8;

/// Tells hubs and control plane from whoever stands in their place.
pub trait Recognise: fmt::Debug + Send + Sync {
    /// Whether one of them answers, within that time, at an address to which `dial` connects.
    ///
    /// # Errors
    /// Why it is not known to be one.
    fn recognise(
        &self,
        address: SocketAddr,
        dial: &dyn Fn() -> Result<TcpStream>,
        within: Duration,
    ) -> Result<()>;
}

/// Recognises nobody: for a host whose device has no identity yet, or needs none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Recognise for Nobody {
    fn recognise(
        &self,
        _: SocketAddr,
        _: &dyn Fn() -> Result<TcpStream>,
        _: Duration,
    ) -> Result<()> {
        Err(Error::other("nobody is known here"))
    }
}

/// The device's own TLS client, and the addresses that its signed configuration names, as of now.
type Known = dyn Fn() -> (Arc<ClientConfig>, Vec<String>) + Send + Sync;

/// Recognises by mutual TLS, as every session does.
pub struct ByTls {
    known: Box<Known>,
    clock: Clock,
}

impl fmt::Debug for ByTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByTls").finish_non_exhaustive()
    }
}

impl ByTls {
    /// With what is known whenever it is asked for.
    pub fn new(
        known: impl Fn() -> (Arc<ClientConfig>, Vec<String>) + Send + Sync + 'static,
    ) -> Self {
        Self { known: Box::new(known), clock: Clock::system() }
    }

    /// Shakes hands by that name, and waits until the server has said that it takes us.
    fn greet(
        &self,
        mut stream: TcpStream,
        (name, tls): (ServerName<'static>, Arc<ClientConfig>),
        until: Instant,
    ) -> Result<()> {
        let mut session = ClientConnection::new(tls, name).map_err(Error::other)?;
        while session.tls13_tickets_received() == 0 {
            // For each packet anew: whoever sends one byte now and then has no longer than others.
            let left = until.saturating_duration_since(self.clock.now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            stream.set_write_timeout(Some(left))?;
            while session.wants_write() {
                session.write_tls(&mut stream)?;
            }
            if session.read_tls(&mut stream)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let processed = session.process_new_packets();
            processed.map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        }
        Ok(())
    }
}

impl Recognise for ByTls {
    fn recognise(
        &self,
        address: SocketAddr,
        dial: &dyn Fn() -> Result<TcpStream>,
        within: Duration,
    ) -> Result<()> {
        let until = self.clock.now() + within;
        let (tls, places) = (self.known)();
        let mut last = Error::other("no name is known for this address");
        for name in names(&places, address) {
            match dial().and_then(|stream| self.greet(stream, (name, tls.clone()), until)) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// By which names whoever is at that address may be ours: a quarantined device has no name service,
/// and its record has addresses.
fn names(places: &[String], address: SocketAddr) -> Vec<ServerName<'static>> {
    let mut names: Vec<ServerName<'static>> = Vec::new();
    for (host, port) in places.iter().filter_map(|place| split(place)) {
        let is_its = host.parse().map_or(true, |literal: IpAddr| literal == address.ip());
        let Ok(name) = ServerName::try_from(host.to_owned()) else { continue };
        if is_its && port == address.port() && !names.contains(&name) && names.len() < NAMES {
            names.push(name);
        }
    }
    names
}
