//! What connections run over: the network of this machine, or one that a test makes up.
//!
//! Owns resolving names and TCP. Knows no TLS and no address but those it is given. An agent has a
//! few connections at most, so each is a value behind a pointer.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use protocol::limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

use crate::mark::mark;

/// Names whose addresses are remembered.
const KNOWN_NAMES: usize = 2 * limits::LIST_ENTRIES;

/// The bytes of one connection.
pub trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Unpin + Send> Stream for T {}

/// A connection on its way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// What connections run over.
pub trait Network: fmt::Debug + Send + Sync {
    /// Connects to `host:port`.
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a>;
}

/// The network of this machine. It remembers what names resolved to: under quarantine a device has
/// no name service, but hubs and control plane stay open by address.
#[derive(Debug, Default)]
pub struct Internet {
    known: Mutex<HashMap<String, Vec<SocketAddr>>>,
}

impl Internet {
    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        let resolved = tokio::net::lookup_host(address).await.map(Iterator::collect::<Vec<_>>);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match resolved {
            Ok(addresses) => {
                let mut known = known();
                if known.len() < KNOWN_NAMES || known.contains_key(address) {
                    known.insert(address.to_owned(), addresses.clone());
                }
                Ok(addresses)
            }
            Err(error) => known().get(address).cloned().ok_or(error),
        }
    }
}

impl Network for Internet {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let stream = dial(self.resolve(address).await?).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// A connection to the first address that accepts one. Its packets bear the agent's mark, where
/// the system lets them.
async fn dial(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Err(error) = mark(&socket) {
            tracing::debug!(%error, "connection without the agent's mark");
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
