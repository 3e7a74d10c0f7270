//! Minimal clients of the peers: as little as there must be to subscribe, to publish and to read.
//!
//! Owns the bytes of three protocols: NATS 2, MQTT 3.1.1 with QoS 0, and nchan's WebSockets. All of
//! them are over the TLS stream that Tocsin's devices use.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt as _;
use runtime::tls::TlsConnector;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// Bytes of a reader's buffer, as those of Tocsin's simulated devices.
const BUFFER_BYTES: usize = 2 * 1024;
/// A line or a message of a peer is never longer.
const MOST_BYTES: usize = 64 * 1024;
/// The channel that everybody hears.
pub(super) const EVERYBODY: &str = "all";

/// Which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Nats,
    Nchan,
    Mqtt,
}

impl Wire {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Nchan => "nchan",
            Self::Mqtt => "mosquitto",
        }
    }
}

/// The channel of one client.
pub(super) fn channel(number: u32) -> String {
    format!("d{number}")
}

type Tls = BufReader<TlsStream<TcpStream>>;

/// A connection that is ready to publish, or that has subscribed.
pub(super) enum Link {
    Nats(Tls),
    Mqtt(Tls),
    WebSocket(Box<WebSocketStream<TlsStream<TcpStream>>>),
    /// Publishes by HTTP.
    Http(Tls),
}

/// Where, and how to be recognised.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) wire: Wire,
    pub(super) address: SocketAddr,
    pub(super) tls: Arc<ClientConfig>,
}

fn wrong(what: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("not understood: {what}"))
}

impl Door {
    /// A client that hears its own channel and everybody's.
    pub(super) async fn subscriber(&self, number: u32) -> io::Result<Link> {
        let own = channel(number);
        match self.wire {
            Wire::Nats => {
                let words = format!("SUB {own} 1\r\nSUB {EVERYBODY} 2\r\n");
                Ok(Link::Nats(self.nats(&words).await?))
            }
            Wire::Mqtt => {
                let mut stream = self.mqtt().await?;
                stream.write_all(&subscribe(&[&own, EVERYBODY])).await?;
                let (kind, _) = packet(&mut stream).await?;
                if kind != 0x90 { Err(wrong(kind)) } else { Ok(Link::Mqtt(stream)) }
            }
            Wire::Nchan => {
                let uri = format!("wss://{}/sub/{own}", self.address);
                let request = ClientRequestBuilder::new(uri.parse().map_err(wrong)?);
                let config = WebSocketConfig::default()
                    .read_buffer_size(BUFFER_BYTES)
                    .write_buffer_size(BUFFER_BYTES)
                    .max_message_size(Some(MOST_BYTES));
                let stream = self.tls().await?;
                let opened = client_async_with_config(request, stream, Some(config)).await;
                let (socket, _) = opened.map_err(io::Error::other)?;
                Ok(Link::WebSocket(Box::new(socket)))
            }
        }
    }

    /// A client that publishes.
    pub(super) async fn publisher(&self) -> io::Result<Link> {
        match self.wire {
            Wire::Nats => Ok(Link::Nats(self.nats("").await?)),
            Wire::Mqtt => Ok(Link::Mqtt(self.mqtt().await?)),
            Wire::Nchan => Ok(Link::Http(buffered(self.tls().await?))),
        }
    }

    async fn tcp(&self) -> io::Result<TcpStream> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    async fn tls(&self) -> io::Result<TlsStream<TcpStream>> {
        self.secure(self.tcp().await?).await
    }

    async fn secure(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(self.tls.clone()).connect(name, tcp).await
    }

    /// NATS says who it is before TLS begins.
    async fn nats(&self, words: &str) -> io::Result<Tls> {
        let mut tcp = self.tcp().await?;
        let mut byte = [0];
        for _ in 0..MOST_BYTES {
            tcp.read_exact(&mut byte).await?;
            if byte[0] == b'\n' {
                break;
            }
        }
        let mut stream = buffered(self.secure(tcp).await?);
        let hello = "CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":true,\
                     \"lang\":\"rust\",\"version\":\"0\",\"protocol\":1}\r\n";
        stream.write_all(format!("{hello}{words}PING\r\n").as_bytes()).await?;
        stream.flush().await?;
        loop {
            match line(&mut stream).await?.as_str() {
                "PONG" => return Ok(stream),
                other if other.starts_with("-ERR") => return Err(wrong(other)),
                _ => {}
            }
        }
    }

    async fn mqtt(&self) -> io::Result<Tls> {
        let mut stream = buffered(self.tls().await?);
        // Clean session, no keep-alive, an empty client id: the server makes one up.
        let body = [0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0];
        stream.write_all(&[&[0x10, 12][..], &body].concat()).await?;
        stream.flush().await?;
        match packet(&mut stream).await? {
            (0x20, answer) if answer.get(1) == Some(&0) => Ok(stream),
            (kind, _) => Err(wrong(kind)),
        }
    }
}

fn buffered(stream: TlsStream<TcpStream>) -> Tls {
    BufReader::with_capacity(BUFFER_BYTES, stream)
}

impl Link {
    /// Hands a message to the server.
    pub(super) async fn publish(&mut self, channel: &str, payload: &[u8]) -> io::Result<()> {
        match self {
            Self::Nats(stream) => {
                let head = format!("PUB {channel} {}\r\n", payload.len());
                stream.write_all(&[head.as_bytes(), payload, b"\r\n"].concat()).await?;
                stream.flush().await
            }
            Self::Mqtt(stream) => {
                stream.write_all(&publish(channel, payload)).await?;
                stream.flush().await
            }
            Self::Http(stream) => {
                let head = format!(
                    "POST /pub/{channel} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
                    payload.len()
                );
                stream.write_all(&[head.as_bytes(), payload].concat()).await?;
                stream.flush().await?;
                answer(stream).await
            }
            Self::WebSocket(_) => Err(wrong("a subscriber does not publish")),
        }
    }

    /// The next message.
    pub(super) async fn next(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Nats(stream) => loop {
                let text = line(stream).await?;
                if text == "PING" {
                    stream.write_all(b"PONG\r\n").await?;
                    stream.flush().await?;
                } else if text.starts_with("MSG ") {
                    let size = text.rsplit(' ').next().and_then(|size| size.parse().ok());
                    let size: usize =
                        size.filter(|size| *size <= MOST_BYTES).ok_or_else(|| wrong(&text))?;
                    let mut payload = vec![0; size + 2];
                    stream.read_exact(&mut payload).await?;
                    payload.truncate(size);
                    return Ok(payload);
                }
            },
            Self::Mqtt(stream) => loop {
                let (kind, body) = packet(stream).await?;
                if kind & 0xf0 == 0x30 {
                    let [high, low, ..] = body[..] else { return Err(wrong("a short packet")) };
                    let topic = usize::from(u16::from_be_bytes([high, low]));
                    let payload = body.get(2 + topic..).ok_or_else(|| wrong("a short packet"))?;
                    return Ok(payload.to_vec());
                }
            },
            Self::WebSocket(socket) => loop {
                match socket.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(text.as_bytes().to_vec()),
                    Some(Ok(Message::Binary(bytes))) => return Ok(bytes.to_vec()),
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Ok(Message::Close(_))) | None => {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    Some(Err(error)) => return Err(io::Error::other(error)),
                }
            },
            Self::Http(_) => Err(wrong("a publisher does not subscribe")),
        }
    }
}

async fn line(stream: &mut Tls) -> io::Result<String> {
    let mut text = String::new();
    let mut bounded = stream.take(MOST_BYTES as u64);
    if bounded.read_line(&mut text).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text.trim_end().to_owned())
}

/// Reads an answer of HTTP/1.1 with a length.
async fn answer(stream: &mut Tls) -> io::Result<()> {
    let status = line(stream).await?;
    let mut length = 0;
    loop {
        let header = line(stream).await?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(wrong)?;
        }
    }
    if length > MOST_BYTES {
        return Err(wrong("a long answer"));
    }
    stream.read_exact(&mut vec![0; length]).await?;
    let is_success = status.split(' ').nth(1).is_some_and(|code| code.starts_with('2'));
    if is_success { Ok(()) } else { Err(wrong(status)) }
}

/// A packet of MQTT: its first byte and its body.
async fn packet(stream: &mut Tls) -> io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
        if shift > 14 {
            return Err(wrong("a long packet"));
        }
    }
    if length > MOST_BYTES {
        return Err(wrong("a long packet"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((kind, body))
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).unwrap_or(0);
        length /= 128;
        bytes.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn text(of: &str) -> Vec<u8> {
    let length = u16::try_from(of.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length[..], of.as_bytes()].concat()
}

fn subscribe(topics: &[&str]) -> Vec<u8> {
    let mut body = vec![0, 1];
    for topic in topics {
        body.extend(text(topic));
        body.push(0);
    }
    framed(0x82, &body)
}

fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    framed(0x30, &[&text(topic)[..], payload].concat())
}
