//! Requests over connections that stay open, with a limit for everything.
//!
//! Owns connecting (name, TCP, TLS) and the client side of HTTP/1.1. Knows no path.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use runtime::tls::TlsConnector;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

/// For name, TCP and TLS.
pub const CONNECT: Duration = Duration::from_secs(10);
/// For a request and its answer, unless whoever asks is more patient.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes of an answer: an order of a whole fleet names every command.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not `https://host:port`.
    #[error("{0:?} is not an address such as https://host:7442")]
    Address(String),
    /// Not fit for a header.
    #[error("the token is not one")]
    Token,
    /// Name, TCP or TLS did not work.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: String,
        /// What the system or the other end said.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The request or the answer broke off.
    #[error("the exchange broke off")]
    Exchange(#[from] hyper::Error),
    /// The answer is longer than allowed, or broke off.
    #[error("the answer cannot be read: {0}")]
    Body(String),
}

/// Somebody to connect to.
#[derive(Clone)]
pub struct Peer {
    address: String,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    authorization: Option<HeaderValue>,
    socket: SocketSettings,
    answer: Duration,
}

/// How a connection is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketSettings {
    /// The address that it is bound to; `None`: what the system picks.
    pub source: Option<IpAddr>,
    /// Bytes that the kernel may hold for a reader that does not read; `None`: as usual.
    pub receive_bytes: Option<u32>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Peer {
    /// The one at that address, recognised by those TLS settings.
    ///
    /// # Errors
    /// [`HttpError::Address`].
    pub fn new(url: &str, tls: Arc<ClientConfig>) -> Result<Self, HttpError> {
        let unusable = || HttpError::Address(url.to_owned());
        let address = url.trim_end_matches('/');
        let address = address.strip_prefix("https://").unwrap_or(address);
        let (host, port) = address.rsplit_once(':').ok_or_else(unusable)?;
        port.parse::<u16>().map_err(|_| unusable())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| unusable())?;
        let socket = SocketSettings::default();
        let answer = ANSWER;
        Ok(Self { address: address.to_owned(), name, tls, authorization: None, socket, answer })
    }

    /// The same, with so much time for an answer, or more.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.answer = self.answer.max(patience);
        self
    }

    /// The same, over connections that are made so.
    #[must_use]
    pub const fn with_socket(mut self, socket: SocketSettings) -> Self {
        self.socket = socket;
        self
    }

    /// The same, with a bearer token (RFC 6750) in every request.
    ///
    /// # Errors
    /// [`HttpError::Token`].
    pub fn with_token(mut self, token: &str) -> Result<Self, HttpError> {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
        let mut value = value.map_err(|_| HttpError::Token)?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A TLS connection.
    ///
    /// # Errors
    /// [`HttpError::Connect`] or [`HttpError::TimedOut`].
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, HttpError> {
        let connecting = async {
            let tcp = self.socket.connect(&self.address).await?;
            tcp.set_nodelay(true)?;
            TlsConnector::from(self.tls.clone()).connect(self.name.clone(), tcp).await
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(HttpError::Connect { address: self.address.clone(), source }),
            Err(_) => Err(HttpError::TimedOut(CONNECT)),
        }
    }

    fn request(
        &self,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &self.address)
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        request.body(Full::new(body)).map_err(|_| HttpError::Address(self.address.clone()))
    }
}

impl SocketSettings {
    /// A TCP connection to `host:port`.
    ///
    /// # Errors
    /// What the system says.
    pub async fn connect(self, address: &str) -> std::io::Result<TcpStream> {
        if self.source.is_none() && self.receive_bytes.is_none() {
            return TcpStream::connect(address).await;
        }
        let mut last = std::io::Error::other("the name has no address of the source's family");
        for to in tokio::net::lookup_host(address).await? {
            if self.source.is_some_and(|source| source.is_ipv4() != to.is_ipv4()) {
                continue;
            }
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(bytes) = self.receive_bytes {
                socket.set_recv_buffer_size(bytes)?;
            }
            if let Some(source) = self.source {
                socket.bind(SocketAddr::new(source, 0))?;
            }
            match socket.connect(to).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// When to come again (`Retry-After` in seconds, RFC 9110 section 10.2.3), if it says so.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Bytes,
}

/// One connection that is kept, and opened again when it is gone.
#[derive(Debug)]
pub struct Line {
    peer: Arc<Peer>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    sender: SendRequest<Full<Bytes>>,
    /// Moves the bytes; ends with the line.
    _connection: JoinSet<()>,
}

impl Line {
    /// A line to that peer, not yet connected.
    pub const fn new(peer: Arc<Peer>) -> Self {
        Self { peer, open: None }
    }

    /// Makes sure that a connection stands.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn ready(&mut self) -> Result<(), HttpError> {
        if let Some(open) = &mut self.open
            && !open.sender.is_closed()
            && open.sender.ready().await.is_ok()
        {
            return Ok(());
        }
        self.open = None;
        let stream = TokioIo::new(self.peer.connect().await?);
        let (sender, connection) = http1::handshake(stream).await?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            // Its error reaches whoever waits for the answer.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        self.open = Some(Open { sender, _connection: task });
        Ok(())
    }

    /// Sends a JSON body. With an idempotency key, a request whose connection broke is sent a
    /// second time.
    ///
    /// # Errors
    /// [`HttpError`]; any status is an answer.
    pub async fn post(
        &mut self,
        path: &str,
        key: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Answer, HttpError> {
        let body = Bytes::from(body);
        let first = self.once(path, key, body.clone()).await;
        match first {
            Err(HttpError::Exchange(_)) if key.is_some() => self.once(path, key, body).await,
            answered => answered,
        }
    }

    async fn once(
        &mut self,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let patience = self.peer.answer;
        let exchange = async {
            self.ready().await?;
            let request = self.peer.request(path, key, body)?;
            let open = self.open.as_mut().expect("a line that is ready is open");
            let response = open.sender.send_request(request).await?;
            let status = response.status().as_u16();
            let header = response.headers().get(RETRY_AFTER);
            let secs = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let retry_after = secs.map(Duration::from_secs);
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| HttpError::Body(error.to_string()))?.to_bytes();
            Ok(Answer { status, retry_after, body })
        };
        let outcome = tokio::time::timeout(patience, exchange).await;
        let outcome = outcome.unwrap_or(Err(HttpError::TimedOut(patience)));
        if outcome.is_err() {
            self.open = None;
        }
        outcome
    }
}
