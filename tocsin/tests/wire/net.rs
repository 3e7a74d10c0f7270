//! The simulated network under the real TLS: the port of a hub, the way of an agent, and a note in
//! the trace of every connection's beginning and end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use agent::network::{Connecting, Network, Stream};
use push_hub::port::Port;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::life::Life;

/// Where hubs and control plane listen, each on its own host.
pub(crate) const PORT: u16 = 7444;

/// A listening host.
pub(crate) struct SimPort {
    life: Arc<Life>,
    listener: TcpListener,
}

impl SimPort {
    /// Binds the port of the host that this is called on.
    pub(crate) async fn bind(life: &Arc<Life>) -> io::Result<Self> {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        Ok(Self { life: life.clone(), listener })
    }
}

impl Port for SimPort {
    type Stream = Watched;

    fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    async fn accept(&self) -> io::Result<(Watched, SocketAddr)> {
        let (stream, source) = self.listener.accept().await?;
        let from = turmoil::reverse_lookup(source.ip()).unwrap_or_else(|| source.to_string());
        let label = format!("{}'s end of {from}:{}", self.life.name, source.port());
        Ok((Watched::new(stream, label, &self.life), source))
    }

    fn hurry(_stream: &Watched) {}

    fn refuse(stream: Watched) {
        drop(stream);
    }
}

/// What an agent connects over.
#[derive(Debug)]
pub(crate) struct SimNetwork(pub(crate) Arc<Life>);

impl Network for SimNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        let Life { name, scene, .. } = &*self.0;
        Box::pin(async move {
            let stream = TcpStream::connect(address).await.inspect_err(|error| {
                scene.note(format_args!("{name} cannot reach {address}: {}", error.kind()));
            })?;
            let label = format!("{name}:{}'s end of {address}", stream.local_addr()?.port());
            Ok(Box::new(Watched::new(stream, label, &self.0)) as Box<dyn Stream>)
        })
    }
}

/// A connection whose beginning and end are noted.
#[derive(Debug)]
pub(crate) struct Watched {
    /// There until it is dropped.
    stream: Option<TcpStream>,
    label: String,
    writes: u64,
    life: Arc<Life>,
}

impl Watched {
    fn new(stream: TcpStream, label: String, life: &Arc<Life>) -> Self {
        life.scene.note(format_args!("{label} begins"));
        Self { stream: Some(stream), label, writes: 0, life: life.clone() }
    }

    fn inner(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("only dropping takes it away"))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.life.dropped(&self.label, self.writes, stream);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = self.inner().poll_write(context, bytes);
        self.writes += u64::from(outcome.is_ready());
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(context)
    }
}
