//! Relays between the sandbox and the platform, through sockets in the demo's folder.
//!
//! A network namespace shares files with the machine but no network: a Unix socket is the one
//! door, and what goes through it is the agent's own TLS, untouched.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

/// Most connections through one relay at a time.
const CONNECTIONS: usize = 64;

/// Platform's side: from a socket in the folder to an address of the platform.
pub(super) async fn to_tcp(from: UnixListener, to: std::net::SocketAddr) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = from.accept().await?;
        make_room(&mut connections).await;
        connections.spawn(async move { join(stream, TcpStream::connect(to).await).await });
    }
}

/// Sandbox's side: from an address of the router to a socket in the folder.
pub(super) async fn to_unix(from: TcpListener, to: PathBuf) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = from.accept().await?;
        make_room(&mut connections).await;
        let to = to.clone();
        connections.spawn(async move { join(stream, UnixStream::connect(to).await).await });
    }
}

async fn make_room(connections: &mut JoinSet<()>) {
    while connections.try_join_next().is_some() {}
    while connections.len() >= CONNECTIONS {
        connections.join_next().await;
    }
}

async fn join<A, B>(mut near: A, far: io::Result<B>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    if let Ok(mut far) = far {
        // Either end may leave at any time; the agent finds out by itself.
        drop(copy_bidirectional(&mut near, &mut far).await);
    }
}
