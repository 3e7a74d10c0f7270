//! Where agents' connections come from: the kernel's sockets, or a network that a test makes up.
//!
//! Owns binding, and what is asked of a socket besides its bytes. It is a type parameter and not a
//! value behind a pointer: a connection of the kernel's costs what it would cost without this.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that the kernel holds until they are accepted: a storm's first seconds.
const BACKLOG: u32 = 4096;
/// Bytes that the kernel holds for an agent that does not read. Small, so that a slow one is
/// noticed; the queue that counts is the inbox.
const SEND_BUFFER_BYTES: u32 = 32 * 1024;

/// A bound agent port.
pub trait Port: Send + Sync + 'static {
    /// The bytes of one connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Where agents connect.
    ///
    /// # Errors
    /// When the system does not say.
    fn address(&self) -> io::Result<SocketAddr>;

    /// The next connection, and where it comes from. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Frames are small and wanted now: has them leave at once. A connection that cannot works all
    /// the same.
    fn hurry(stream: &Self::Stream);

    /// Ends a connection that is not wanted, so that the agent knows at once.
    fn refuse(stream: Self::Stream);
}

/// Binds a port of this machine.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Port for TcpListener {
    type Stream = TcpStream;

    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }

    fn hurry(stream: &TcpStream) {
        drop(stream.set_nodelay(true));
    }

    fn refuse(stream: TcpStream) {
        // A reset leaves no TIME_WAIT behind.
        drop(stream.set_zero_linger());
    }
}
