//! What connections run over: the network of this machine, or one that a test makes up.
//!
//! Owns asking for names, and TCP. Knows no TLS, remembers nothing, and knows no address but those it
//! is given. An agent has a few connections at most, so each is a value behind a pointer.

use std::fmt;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

use crate::mark::mark;

/// The bytes of one connection.
pub trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Unpin + Send> Stream for T {}

/// A connection on its way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// A name that is asked for.
pub type LookingUp<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<String>>> + Send + 'a>>;

/// What connections run over.
pub trait Network: fmt::Debug + Send + Sync {
    /// Connects to one of what [`Network::look_up`] answered.
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a>;

    /// What `host:port` is to be connected by. A network without a name service connects by names.
    fn look_up<'a>(&'a self, address: &'a str) -> LookingUp<'a> {
        Box::pin(ready(Ok(vec![address.to_owned()])))
    }
}

/// The network of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Internet;

impl Network for Internet {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let address = address.parse().map_err(io::Error::other)?;
            let stream = dial(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn look_up<'a>(&'a self, address: &'a str) -> LookingUp<'a> {
        Box::pin(async move {
            let found = tokio::net::lookup_host(address).await?;
            Ok(found.map(|address| address.to_string()).collect())
        })
    }
}

/// A connection to that address. Its packets bear the agent's mark, where the system lets them.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Err(error) = mark(&socket) {
        tracing::debug!(%error, "connection without the agent's mark");
    }
    socket.connect(address).await
}
