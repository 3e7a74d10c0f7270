//! The first bytes of a connection: whether it asks to resume a session, and whose.
//!
//! Owns reading a greeting ahead of TLS, in one record or several, giving it back, and seeing whether
//! TLS has answered it. What is found decides about order and rates alone: TLS reads the same bytes
//! again, and the certificate is judged after it.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
/// The largest greeting, with its heads; and in how many records. What is larger TLS gets as far as it
/// was read, answers nothing, and loses its turn for good.
const MAX_BYTES: usize = RECORD_HEAD + 16 * 1024;
const MAX_RECORDS: usize = 8;
/// The message that greets, and the bytes of type and length before its content (RFC 8446, section 4).
const CLIENT_HELLO: u8 = 1;
const MESSAGE_HEAD: usize = 4;
/// The message that answers, where its random is in a record, and the one by which it only asks to be
/// greeted again (RFC 8446, section 4.1.3).
const SERVER_HELLO: u8 = 2;
const RANDOM: std::ops::Range<usize> = 11..43;
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
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
    while matches!(greeting(&bytes), Greeting::Part) && bytes.len() < MAX_BYTES {
        if stream.read_buf(&mut bytes).await? == 0 {
            break;
        }
    }
    let answered = Some(Arc::default());
    Ok(Replay { head: Some(Box::new(Head { bytes, at: 0, answered })), stream })
}

/// What was read so far.
enum Greeting<'a> {
    /// More is to come.
    Part,
    /// The whole message.
    Whole(Cow<'a, [u8]>),
    /// No greeting, whatever follows.
    Other,
}

/// Puts the pieces of a greeting together: TLS lets a message be cut into records anywhere.
fn greeting(bytes: &[u8]) -> Greeting<'_> {
    let mut message = Cow::Borrowed(&[][..]);
    let mut records = Cursor(bytes);
    for _ in 0..MAX_RECORDS {
        if records.0.first().is_some_and(|kind| *kind != HANDSHAKE) {
            return Greeting::Other;
        }
        if records.take(RECORD_HEAD - 2).is_none() {
            return Greeting::Part;
        }
        match records.block() {
            None => return Greeting::Part,
            Some([]) => return Greeting::Other,
            Some(piece) if message.is_empty() => message = Cow::Borrowed(piece),
            Some(piece) => message.to_mut().extend_from_slice(piece),
        }
        match &*message {
            [kind, ..] if *kind != CLIENT_HELLO => return Greeting::Other,
            [_, high, middle, low, content @ ..] => {
                let length = u32::from_be_bytes([0, *high, *middle, *low]);
                match usize::try_from(length) {
                    Ok(length) if length <= content.len() => return Greeting::Whole(message),
                    Ok(length) if length <= MAX_BYTES => {}
                    _ => return Greeting::Other,
                }
            }
            _ => {}
        }
    }
    Greeting::Other
}

/// The ticket that a greeting offers first.
fn ticket(message: &[u8]) -> Option<&[u8]> {
    let mut fields = Cursor(message);
    // Version, random.
    fields.take(MESSAGE_HEAD + 2 + 32)?;
    fields.short_block()?;
    fields.block()?;
    fields.short_block()?;
    let mut extensions = Cursor(fields.block()?);
    loop {
        let kind = extensions.number()?;
        let content = extensions.block()?;
        if kind == PRE_SHARED_KEY {
            return Cursor(Cursor(content).block()?).block();
        }
    }
}

/// Whether it is the answer to a greeting, after which all that was costly is done.
fn is_answer(bytes: &[u8]) -> bool {
    let is_hello =
        bytes.first() == Some(&HANDSHAKE) && bytes.get(RECORD_HEAD) == Some(&SERVER_HELLO);
    is_hello && bytes.get(RANDOM).is_some_and(|random| *random != RETRY)
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
    /// Until something is written: what it is decides.
    answered: Option<Arc<AtomicBool>>,
}

impl<S> Replay<S> {
    /// What the greeting asks for, as this server sees it.
    pub(crate) fn claim(&self, tls: &ServerConfig) -> Claim {
        let head = self.head.as_deref().map(|head| greeting(&head.bytes));
        let Some(Greeting::Whole(message)) = head else { return Claim::Full };
        let session = ticket(&message).and_then(|ticket| tls.ticketer.decrypt(ticket));
        session.map_or(Claim::Full, |session| Claim::Resuming(device(&session)))
    }

    /// Becomes true when TLS answers the greeting. Asked for before TLS reads it.
    pub(crate) fn answered(&self) -> Arc<AtomicBool> {
        self.head.as_deref().and_then(|head| head.answered.clone()).unwrap_or_default()
    }

    fn note(&mut self, written: &[u8]) {
        let Some(head) = &mut self.head else { return };
        if let Some(answered) = head.answered.take() {
            answered.store(is_answer(written), Ordering::Relaxed);
        }
        self.forget();
    }

    /// Nothing is kept once it was read again and answered.
    fn forget(&mut self) {
        let is_over = |head: &Head| head.at == head.bytes.len() && head.answered.is_none();
        if self.head.as_deref().is_some_and(is_over) {
            self.head = None;
        }
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
        let head = self.head.as_deref_mut().filter(|head| head.at < head.bytes.len());
        let Some(head) = head else {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        };
        let left = head.bytes.get(head.at..).unwrap_or_default();
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        head.at += count;
        self.forget();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.note(bytes);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note(slices.first().map_or(&[], |slice| slice));
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
