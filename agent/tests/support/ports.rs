//! A port that stays a test's own while the server on it comes and goes.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of loopback that the kernel gives to nobody else: it is bound, and nobody listens on this socket. A
/// server that allows it, too (`SO_REUSEADDR`, socket(7)), listens on it, dies and listens again as often as it
/// likes. While none does, connections are refused.
#[derive(Debug)]
pub(crate) struct Held(TcpSocket);

impl Held {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("sockets can be made");
        socket.set_reuseaddr(true).expect("it is new");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("loopback has a free port");
        Self(socket)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }
}
