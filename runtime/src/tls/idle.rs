//! The server's side of a TLS connection that takes little memory while nothing passes.
//!
//! rustls's own buffers keep 4 KiB for each connection, and a process may hold a hundred thousand that
//! are idle. Its unbuffered interface leaves the buffers to its user: here they are freed when they are
//! empty. Owns moving bytes between socket and rustls; must not judge the peer.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Peer, TlsError};

/// Bytes of one read, on the stack.
const READ_BYTES: usize = 4096;
/// Plain bytes of one record that is written (RFC 8446, section 5.1).
const RECORD_BYTES: usize = 16 * 1024;
/// What is around them, with room to spare; rustls says when it is not enough.
const OVERHEAD_BYTES: usize = 64;
/// Unprocessed bytes: a handshake message with a chain of certificates, and a record.
const MAX_INCOMING: usize = 96 * 1024;

/// A TLS connection of a server, after its handshake. Reading and writing belong to one task: what
/// rustls answers to what is read is written by whoever reads.
pub struct IdleStream<S> {
    io: S,
    session: UnbufferedServerConnection,
    /// Read, and not yet a whole record.
    incoming: Vec<u8>,
    /// Decrypted, and not yet asked for.
    plain: Pending,
    /// Encrypted, and not yet written: one record at most, and what rustls says by itself.
    outgoing: Pending,
    course: Course,
}

/// How far reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Open,
    /// The peer has said goodbye.
    Ended,
    /// The peer broke a rule and was told so. rustls must not be asked for anything afterwards.
    Failed,
}

/// Bytes that go away from their front.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    at: usize,
}

impl Pending {
    fn left(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
        if self.at >= self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Room for so many bytes at the end, of which `fill` says how many it has filled.
    fn extend<E>(
        &mut self,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let begin = self.bytes.len();
        self.bytes.resize(begin + room, 0);
        let filled = fill(&mut self.bytes[begin..]);
        self.bytes.truncate(begin + *filled.as_ref().unwrap_or(&0));
        filled.map(drop)
    }
}

impl<S> fmt::Debug for IdleStream<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("IdleStream").field("course", &self.course).finish_non_exhaustive()
    }
}

/// What is to be said once rustls takes data of ours.
#[derive(Clone, Copy)]
enum Saying<'a> {
    Nothing,
    Data(&'a [u8]),
    Goodbye,
}

/// Performs the server's handshake within `timeout`, for a connection that will be idle.
///
/// # Errors
/// [`TlsError::TimedOut`] or [`TlsError::Handshake`]; the stream is closed then.
pub async fn accept_idle<S>(
    io: S,
    config: Arc<ServerConfig>,
    timeout: Duration,
) -> Result<(IdleStream<S>, Peer), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let session = UnbufferedServerConnection::new(config).map_err(TlsError::Settings)?;
    let (incoming, course) = (Vec::new(), Course::Open);
    let (plain, outgoing) = (Pending::default(), Pending::default());
    let mut stream = IdleStream { io, session, incoming, plain, outgoing, course };
    let handshake = std::future::poll_fn(|context| stream.poll_handshake(context));
    tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| TlsError::TimedOut(timeout))?
        .map_err(TlsError::Handshake)?;
    let session = &stream.session;
    let peer = Peer {
        certificate: session.peer_certificates().and_then(|chain| chain.first()).cloned(),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
    };
    Ok((stream, peer))
}

impl<S> IdleStream<S> {
    /// Bytes that the buffers of this stream take: none when nothing is on its way.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        let buffers = [&self.incoming, &self.plain.bytes, &self.outgoing.bytes];
        buffers.iter().map(|buffer| buffer.capacity()).sum()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> IdleStream<S> {
    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_out(context))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_in(context))?;
        }
    }

    /// Reads once, and has rustls look at it.
    fn poll_in(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.course == Course::Failed {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let mut chunk = [MaybeUninit::uninit(); READ_BYTES];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut self.io).poll_read(context, &mut chunk))?;
        if chunk.filled().is_empty() {
            // Without a goodbye, somebody else may have cut it.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        if self.incoming.len() + chunk.filled().len() > MAX_INCOMING {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        self.incoming.extend_from_slice(chunk.filled());
        let outcome = self.process(Saying::Nothing);
        if outcome.is_err() {
            self.course = Course::Failed;
            // What rustls has to say about it is said if it can be said at once.
            self.take_alert();
            self.incoming = Vec::new();
            let _is_sent = self.poll_out(context).is_ready();
        }
        Poll::Ready(outcome)
    }

    /// Writes what is encrypted.
    fn poll_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let io = Pin::new(&mut self.io);
            let count = ready!(io.poll_write(context, self.outgoing.left()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.consume(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes over what rustls says about an error, if it does. Asked once and with the bytes that it has
    /// looked at: it would go on with them, and reach beyond them if they were gone.
    fn take_alert(&mut self) {
        let UnbufferedStatus { state, .. } = self.session.process_tls_records(&mut self.incoming);
        if let Ok(ConnectionState::EncodeTlsData(mut encoding)) = state
            && let Err(EncodeError::InsufficientSize(size)) = encoding.encode(&mut [])
        {
            // An alert that cannot be said changes nothing: the connection ends.
            drop(self.outgoing.extend(size.required_size, |room| encoding.encode(room)));
        }
    }

    /// Has rustls go through what was read, until it wants more; says one thing on the way.
    fn process(&mut self, mut saying: Saying<'_>) -> io::Result<()> {
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.session.process_tls_records(&mut self.incoming);
            let is_more = match state {
                Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        discard += record.discard;
                        self.plain.bytes.extend_from_slice(record.payload);
                    }
                    Ok(true)
                }
                Ok(ConnectionState::EncodeTlsData(mut encoding)) => {
                    let room = match encoding.encode(&mut []) {
                        Err(EncodeError::InsufficientSize(size)) => size.required_size,
                        Ok(_) | Err(EncodeError::AlreadyEncoded) => 0,
                    };
                    let encode = |room: &mut [u8]| encoding.encode(room);
                    self.outgoing.extend(room, encode).map_err(io::Error::other).map(|()| true)
                }
                // It lies in `outgoing`, behind everything that was said before.
                Ok(ConnectionState::TransmitTlsData(transmitting)) => {
                    transmitting.done();
                    Ok(true)
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let said = match saying {
                        Saying::Nothing => Ok(false),
                        Saying::Data(bytes) => {
                            let room = bytes.len() + OVERHEAD_BYTES;
                            grow(&mut self.outgoing, room, |room| traffic.encrypt(bytes, room))
                        }
                        Saying::Goodbye => grow(&mut self.outgoing, OVERHEAD_BYTES, |room| {
                            traffic.queue_close_notify(room)
                        }),
                    };
                    saying = Saying::Nothing;
                    said
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.course = Course::Ended;
                    Ok(true)
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Ok(false),
                // Early data is never offered, and states that are yet to be invented are not known.
                Ok(ConnectionState::ReadEarlyData(_) | _) => Err(io::ErrorKind::Unsupported.into()),
            };
            self.incoming.drain(..discard);
            if self.incoming.is_empty() {
                self.incoming = Vec::new();
            }
            if !is_more? {
                return Ok(());
            }
        }
    }
}

/// Encrypts to the end of what waits; once more when that takes more room than was thought.
fn grow(
    outgoing: &mut Pending,
    room: usize,
    mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> io::Result<bool> {
    let encrypted = match outgoing.extend(room, &mut encrypt) {
        Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
            outgoing.extend(required_size, encrypt)
        }
        encrypted => encrypted,
    };
    encrypted.map_err(io::Error::other).map(|()| true)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for IdleStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.plain.is_empty() {
                let count = self.plain.left().len().min(buffer.remaining());
                buffer.put_slice(&self.plain.left()[..count]);
                self.plain.consume(count);
                return Poll::Ready(Ok(()));
            }
            if self.course == Course::Ended {
                return Poll::Ready(Ok(()));
            }
            // An answer of rustls to what was read must not wait for data of ours. When the socket
            // takes nothing, reading goes on all the same.
            if let Poll::Ready(outcome) = self.poll_out(context) {
                outcome?;
            }
            ready!(self.poll_in(context))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for IdleStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.course == Course::Failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_out(context))?;
        let taken = &bytes[..bytes.len().min(RECORD_BYTES)];
        if taken.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.process(Saying::Data(taken))?;
        // What the socket does not take now waits for a flush.
        if let Poll::Ready(outcome) = self.poll_out(context) {
            outcome?;
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(context))?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.course != Course::Failed && !self.session.is_handshaking() {
            // A second goodbye is none: rustls remembers the first.
            self.process(Saying::Goodbye)?;
        }
        ready!(self.poll_out(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
