//! A link that tests can disturb: a relay of TCP connections that opens, cuts, freezes or slows.
//!
//! Owns the sockets of both sides. Looks at no byte: what travels is as it was sent, or does not
//! travel at all.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// Everything travels.
    Open,
    /// Connections are closed, and new ones are at once.
    Cut,
    /// Connections stay, and nothing travels: a network that swallows.
    Frozen,
    /// Everything travels, each piece so much later.
    Slow(Duration),
}

/// Where the link leads.
#[derive(Debug, Clone)]
pub(crate) enum Upstream {
    Tcp(SocketAddr),
    /// A socket in the file system, as PostgreSQL's.
    Unix(PathBuf),
}

/// A relay. Its tasks end with it.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    link: watch::Sender<Link>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A relay on a free port of loopback. Needs a runtime that goes on while the test waits.
    pub(crate) async fn start(upstream: Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (link, state) = watch::channel(Link::Open);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, upstream, state));
        Self { addr, link, _tasks: tasks }
    }

    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

async fn accept(listener: TcpListener, upstream: Upstream, state: watch::Receiver<Link>) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                relays.spawn(relay(client, upstream.clone(), state.clone()));
            }
            Some(_) = relays.join_next() => {}
        }
    }
}

async fn relay(client: TcpStream, upstream: Upstream, mut state: watch::Receiver<Link>) {
    if *state.borrow_and_update() == Link::Cut {
        return;
    }
    let _ = client.set_nodelay(true);
    match upstream {
        Upstream::Tcp(addr) => {
            let Ok(server) = TcpStream::connect(addr).await else { return };
            let _ = server.set_nodelay(true);
            both_ways(client, server, state).await;
        }
        Upstream::Unix(path) => {
            let Ok(server) = UnixStream::connect(path).await else { return };
            both_ways(client, server, state).await;
        }
    }
}

async fn both_ways(
    client: TcpStream,
    server: impl AsyncRead + AsyncWrite,
    state: watch::Receiver<Link>,
) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = tokio::io::split(server);
    // A connection is over for both as soon as one of them ends it.
    tokio::select! {
        () = pump(from_client, to_server, state.clone()) => {}
        () = pump(from_server, to_client, state) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<Link>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let link = *state.borrow_and_update();
        let count = tokio::select! {
            biased;
            changed = state.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = from.read(&mut buffer), if !matches!(link, Link::Frozen | Link::Cut) => read,
            // Nothing is read from a frozen link: it waits for its next state.
            () = std::future::ready(()), if link == Link::Cut => return,
        };
        let Ok(count @ 1..) = count else { return };
        if let Link::Slow(by) = link {
            tokio::time::sleep(by).await;
        }
        // What was read before the link froze waits with it.
        if state.wait_for(|link| *link != Link::Frozen).await.is_err() {
            return;
        }
        if *state.borrow() == Link::Cut || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
