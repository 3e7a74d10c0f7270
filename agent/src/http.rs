//! One HTTPS request at a time, with a limit for everything.
//!
//! Owns connecting with TLS and the client side of a request. Knows no path and no frame.
//! Each request has a connection of its own: they are rare, and TLS sessions are resumed.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use protocol::limits;
use runtime::Blocking;
use runtime::tls::TlsConnector;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::client::TlsStream;

use crate::addresses::AddressBook;
use crate::dial::{Candidates, first};
use crate::network::{Internet, Network, Stream};

/// Why there was no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not `host:port`.
    #[error("{0:?} is not host:port")]
    Address(String),
    /// Name, TCP or TLS did not work.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: String,
        /// What the system or the other end said.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The request or the answer broke off.
    #[error("the exchange broke off")]
    Exchange(#[source] hyper::Error),
    /// The answer is longer than allowed, or broke off.
    #[error("the answer cannot be read: {0}")]
    Body(String),
    /// Any status but a success.
    #[error("answered {status}: {detail}")]
    Status {
        /// The status.
        status: StatusCode,
        /// How long to stay away, if the server said so.
        retry_after: Option<Duration>,
        /// The beginning of the answer, for a person.
        detail: String,
    },
}

/// A TLS connection over whatever network it is.
pub type Connection = TlsStream<Box<dyn Stream>>;

/// Connects to `host:port`, and proves to either end who the other is.
#[derive(Debug, Clone)]
pub struct Dialer {
    network: Arc<dyn Network>,
    book: AddressBook,
    /// Where the book is written.
    blocking: Blocking,
}

impl Default for Dialer {
    /// Over the network of this machine.
    fn default() -> Self {
        Self::over(Internet)
    }
}

impl Dialer {
    /// Over that network.
    pub fn over(network: impl Network + 'static) -> Self {
        // A book without a file is written nowhere.
        let (book, blocking) = (AddressBook::default(), Blocking::Threads);
        Self { network: Arc::new(network), book, blocking }
    }

    /// The same, remembering in that book where names were found, and writing it there.
    #[must_use]
    pub fn remembering(self, book: AddressBook, blocking: Blocking) -> Self {
        Self { book, blocking, ..self }
    }

    /// A TLS connection within `timeout`.
    ///
    /// # Errors
    /// [`HttpError::Address`], [`HttpError::Connect`] or [`HttpError::TimedOut`].
    pub async fn connect(
        &self,
        address: &str,
        tls: Arc<ClientConfig>,
        timeout: Duration,
    ) -> Result<Connection, HttpError> {
        let (host, _) = split(address).ok_or_else(|| HttpError::Address(address.to_owned()))?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| HttpError::Address(address.to_owned()))?;
        let connecting = self.connect_by(bare(address), (name, tls));
        let limit = timeout;
        #[cfg(feature = "planted-bugs")]
        let limit = protocol::planted::limit(protocol::planted::Bug::EndlessDial, limit);
        match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(HttpError::Connect { address: address.to_owned(), source }),
            Err(_) => Err(HttpError::TimedOut(timeout)),
        }
    }

    /// Whoever proves first to have that name, wherever it was found.
    async fn connect_by(
        &self,
        address: &str,
        (name, tls): (ServerName<'static>, Arc<ClientConfig>),
    ) -> std::io::Result<Connection> {
        let remembered = self.book.known(address).iter().map(ToString::to_string).collect();
        let mut candidates = Candidates::new(self.network.look_up(address), remembered);
        let (at, stream) = first(&mut candidates, |at| {
            let (name, tls) = (name.clone(), TlsConnector::from(tls.clone()));
            async move { tls.connect(name, self.network.connect(&at).await?).await }
        })
        .await?;
        if let Ok(at) = at.parse()
            && self.book.proven(address, at, candidates.found())
        {
            // Whoever waits for this disk is not the event loop.
            let book = self.book.clone();
            let _ = self.blocking.run(move || book.save()).await;
        }
        Ok(stream)
    }
}

/// What is asked of the other end.
#[derive(Debug)]
pub enum Ask {
    /// To tell something.
    Get,
    /// To take JSON, and to answer.
    Post(Vec<u8>),
    /// To keep bytes.
    Put(Vec<u8>),
}

impl Ask {
    fn parts(self) -> (Method, &'static str, Vec<u8>) {
        match self {
            Self::Get => (Method::GET, "application/json", Vec::new()),
            Self::Post(body) => (Method::POST, "application/json", body),
            Self::Put(body) => (Method::PUT, "application/octet-stream", body),
        }
    }
}

/// `POST`s JSON and answers the body of a success.
///
/// # Errors
/// [`HttpError`].
pub async fn post(
    stream: Connection,
    to: (&str, &str),
    body: Vec<u8>,
    timeout: Duration,
) -> Result<Bytes, HttpError> {
    ask(stream, to, Ask::Post(body), timeout).await
}

/// Makes a request of an address and a path, and answers the body of a success.
///
/// # Errors
/// [`HttpError`].
pub async fn ask(
    stream: Connection,
    (address, path): (&str, &str),
    ask: Ask,
    timeout: Duration,
) -> Result<Bytes, HttpError> {
    let (method, content_type, body) = ask.parts();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, bare(address))
        .header(CONTENT_TYPE, content_type)
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| HttpError::Address(address.to_owned()))?;
    tokio::time::timeout(timeout, exchange(stream, request))
        .await
        .map_err(|_| HttpError::TimedOut(timeout))?
}

async fn exchange(stream: Connection, request: Request<Full<Bytes>>) -> Result<Bytes, HttpError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(HttpError::Exchange)?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(HttpError::Exchange)?;
        read(response).await
    };
    tokio::pin!(connection, asking);
    let mut is_over = false;
    loop {
        tokio::select! {
            biased;
            answer = &mut asking => return answer,
            // Its error, if any, reaches the one who asks.
            _ = &mut connection, if !is_over => is_over = true,
        }
    }
}

async fn read(response: Response<hyper::body::Incoming>) -> Result<Bytes, HttpError> {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| {
        value.to_str().ok().and_then(|text| text.trim().parse().ok()).map(Duration::from_secs)
    });
    let body = Limited::new(response.into_body(), limits::EXCHANGE_BYTES).collect().await;
    let body = body.map_err(|error| HttpError::Body(error.to_string()))?.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    let detail = String::from_utf8_lossy(&body);
    let detail = detail.chars().filter(|c| !c.is_control()).take(200).collect();
    Err(HttpError::Status { status, retry_after, detail })
}

/// Host and port of an address; brackets of an IPv6 literal are taken off.
pub(crate) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = bare(address).rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

/// An address without the scheme and the slash that people write around it.
pub fn bare(address: &str) -> &str {
    let address = address.trim_end_matches('/');
    address.strip_prefix("https://").or_else(|| address.strip_prefix("wss://")).unwrap_or(address)
}
