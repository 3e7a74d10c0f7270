//! The first bytes of a connection: whether it asks to resume a session, and whose.
//!
//! Owns reading one TLS record ahead of TLS, and giving it back. What is found decides about order
//! and rates alone: TLS reads the same bytes again, and the certificate is judged after it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use protocol::enrollment::DEVICE_URN;
use protocol::id::DeviceId;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

#[cfg(test)]
mod tests;

/// Bytes around the content of a record (RFC 8446, section 5.1), and the type of one that greets.
const RECORD_HEAD: usize = 5;
const HANDSHAKE: u8 = 22;
/// The first read; a greeting with a ticket fits.
const FIRST_READ: usize = 2 * 1024;
/// The largest record. A greeting in several is read as one that resumes nothing.
const MAX_RECORD: usize = RECORD_HEAD + 16 * 1024;
/// The extension in which a client offers to resume (RFC 8446, section 4.2.11).
const PRE_SHARED_KEY: u16 = 41;

/// What a connection asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A full handshake.
    Full,
    /// To resume, with a ticket that opens here.
    Resuming(Option<DeviceId>),
}

/// Reads until the greeting is whole, or is none.
pub(crate) async fn read<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Replay<S>> {
    let mut bytes = Vec::with_capacity(FIRST_READ);
    while !is_whole(&bytes) && bytes.len() < MAX_RECORD {
        if stream.read_buf(&mut bytes).await? == 0 {
            break;
        }
    }
    Ok(Replay { head: Some(Box::new(Head { bytes, at: 0 })), stream })
}

fn is_whole(bytes: &[u8]) -> bool {
    match bytes {
        [kind, ..] if *kind != HANDSHAKE => true,
        [_, _, _, high, low, content @ ..] => {
            content.len() >= usize::from(u16::from_be_bytes([*high, *low]))
        }
        _ => false,
    }
}

/// The ticket that a greeting offers first.
fn ticket(bytes: &[u8]) -> Option<&[u8]> {
    let mut record = Cursor(bytes);
    if record.take(RECORD_HEAD)?.first() != Some(&HANDSHAKE) {
        return None;
    }
    // Type and length of the message, version, random.
    record.take(4 + 2 + 32)?;
    record.short_block()?;
    record.block()?;
    record.short_block()?;
    let mut extensions = Cursor(record.block()?);
    loop {
        let kind = extensions.number()?;
        let content = extensions.block()?;
        if kind == PRE_SHARED_KEY {
            return Cursor(Cursor(content).block()?).block();
        }
    }
}

/// Fields with their length before them, as TLS writes them.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn block(&mut self) -> Option<&'a [u8]> {
        let count = self.number()?;
        self.take(usize::from(count))
    }

    fn short_block(&mut self) -> Option<&'a [u8]> {
        let count = *self.take(1)?.first()?;
        self.take(usize::from(count))
    }
}

/// The device of the certificate that a ticket stands for: its name is plain text in there. What we
/// sealed ourselves may be believed, and the certificate is read properly after the handshake.
fn device(session: &[u8]) -> Option<DeviceId> {
    const UUID: usize = 36;
    let name = DEVICE_URN.as_bytes();
    let at = session.windows(name.len()).position(|window| window == name)?;
    let id = session.get(at + name.len()..)?.get(..UUID)?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

/// A stream whose first bytes were read ahead. They take no memory once they are read again.
#[derive(Debug)]
pub(crate) struct Replay<S> {
    head: Option<Box<Head>>,
    stream: S,
}

#[derive(Debug)]
struct Head {
    bytes: Vec<u8>,
    at: usize,
}

impl<S> Replay<S> {
    /// What the greeting asks for, as this server sees it.
    pub(crate) fn claim(&self, tls: &ServerConfig) -> Claim {
        let offered = self.head.as_deref().and_then(|head| ticket(&head.bytes));
        let session = offered.and_then(|ticket| tls.ticketer.decrypt(ticket));
        session.map_or(Claim::Full, |session| Claim::Resuming(device(&session)))
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(head) = &mut self.head else {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        };
        let left = head.bytes.get(head.at..).unwrap_or_default();
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        head.at += count;
        if count == left.len() {
            self.head = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
