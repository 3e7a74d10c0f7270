//! Tests of a server's TLS stream against the ordinary client, over real sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::tls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use runtime::tls::{
    ClientAuth, Identity, IdleStream, Peer, TlsError, accept_idle, client_config, server_config,
};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const GUARD: Duration = Duration::from_secs(240);
/// What one record holds (RFC 8446, section 5.1), and what is around it at most.
const RECORD_BYTES: usize = 16 * 1024;
const OVERHEAD_BYTES: usize = 256;

/// A certificate authority made for one test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn issue(&self, name: &str) -> Identity {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Identity { chain: vec![leaf.der().clone(), self.certificate()], key }
    }
}

struct Bench {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

type Ends = (IdleStream<TcpStream>, Peer, TlsStream<TcpStream>);

impl Bench {
    fn new() -> Self {
        let authority = Authority::new();
        let required = ClientAuth::Required(vec![authority.certificate()]);
        let server = server_config(&authority.issue("localhost"), required, &[b"x/1"]).unwrap();
        let device = authority.issue("device");
        let roots = [authority.certificate()];
        let client = client_config(&roots, Some(&device), &[b"x/1"]).unwrap();
        Self { server: Arc::new(server), client: Arc::new(client) }
    }

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, connected) = tokio::join!(listener.accept(), connecting);
        (accepted.unwrap().0, connected.unwrap())
    }

    async fn connect(&self) -> Ends {
        let (accepted, connected) = Self::sockets().await;
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(self.client.clone()).connect(name, connected);
        let accepting = accept_idle(accepted, self.server.clone(), GUARD);
        let (accepted, connected) = tokio::join!(accepting, connecting);
        let (stream, peer) = accepted.unwrap();
        (stream, peer, connected.unwrap())
    }
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Both send that much to each other at the same time, in writes of their own sizes.
async fn exchange(
    server: &mut IdleStream<TcpStream>,
    client: &mut TlsStream<TcpStream>,
    length: usize,
) {
    let sent = text(length);
    let (mut server_in, mut server_out) = tokio::io::split(server);
    let (mut client_in, mut client_out) = tokio::io::split(client);
    let (mut at_server, mut at_client) = (vec![0; length], vec![0; length]);
    let up = async {
        client_out.write_all(&sent).await.unwrap();
        client_out.flush().await.unwrap();
    };
    let down = async {
        server_out.write_all(&sent).await.unwrap();
        server_out.flush().await.unwrap();
    };
    let reading = async {
        tokio::try_join!(server_in.read_exact(&mut at_server), client_in.read_exact(&mut at_client))
    };
    let ((), (), read) = tokio::join!(up, down, reading);
    read.unwrap();
    assert!(at_server == sent && at_client == sent, "{length} bytes");
}

#[tokio::test]
async fn bytes_pass_in_both_directions_and_nothing_is_kept_when_it_is_quiet() {
    let (mut server, peer, mut client) = Bench::new().connect().await;
    assert!(peer.certificate.is_some() && !peer.resumed);
    assert_eq!(peer.alpn.as_deref(), Some(&b"x/1"[..]));
    for length in [1, 100, 4096, RECORD_BYTES, RECORD_BYTES + 1, 1_000_000] {
        exchange(&mut server, &mut client, length).await;
        assert_eq!(server.buffer_bytes(), 0, "after {length} bytes");
    }
}

#[tokio::test]
async fn session_is_resumed_and_tells_the_certificate() {
    let bench = Bench::new();
    let (mut server, first, mut client) = bench.connect().await;
    // The ticket comes before the first byte.
    exchange(&mut server, &mut client, 1).await;
    let (_server, second, _client) = bench.connect().await;
    assert!(second.resumed);
    assert_eq!(second.certificate, first.certificate);
}

#[tokio::test]
async fn goodbye_is_an_end_and_a_cut_is_an_error() {
    let bench = Bench::new();
    let (mut server, _, mut client) = bench.connect().await;
    client.write_all(b"last").await.unwrap();
    client.shutdown().await.unwrap();
    let mut read = Vec::new();
    server.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"last");
    server.write_all(b"words").await.unwrap();
    server.shutdown().await.unwrap();
    client.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"lastwords");

    let (mut server, _, mut client) = bench.connect().await;
    // With unread bytes the kernel would reset it.
    exchange(&mut server, &mut client, 1).await;
    drop(client.into_inner().0);
    let error = server.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn keys_that_the_client_changes_are_changed() {
    let (mut server, _, mut client) = Bench::new().connect().await;
    for _ in 0..3 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        exchange(&mut server, &mut client, 1000).await;
    }
}

#[tokio::test]
async fn scrap_ends_the_connection_and_the_client_is_told() {
    let bench = Bench::new();
    let (mut server, _, client) = bench.connect().await;
    let mut socket = client.into_inner().0;
    socket.write_all(&[23, 3, 3, 0, 20]).await.unwrap();
    socket.write_all(&[0; 20]).await.unwrap();
    let error = server.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    // Nothing goes on after it.
    assert!(server.read(&mut [0; 10]).await.is_err() && server.write(b"x").await.is_err());
    server.shutdown().await.unwrap();
    drop(server);
    let mut told = Vec::new();
    socket.read_to_end(&mut told).await.unwrap();
    assert!(!told.is_empty(), "an alert, encrypted");

    let (accepted, mut connected) = Bench::sockets().await;
    connected.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let outcome = accept_idle(accepted, bench.server.clone(), GUARD).await;
    assert!(matches!(outcome, Err(TlsError::Handshake(_))));
    connected.read_to_end(&mut told).await.unwrap();
    assert_eq!(told.get(told.len() - 7), Some(&21), "an alert, in the clear: {told:?}");
}

/// What a stranger may send first, and rustls refuses after it has looked at a part of it.
#[tokio::test]
async fn hostile_greeting_is_refused_with_an_alert_and_nothing_panics() {
    let bench = Bench::new();
    let too_long = [22, 3, 1, 0, 4, 1, 255, 255, 255].to_vec();
    let part_of_a_greeting = [22, 3, 1, 0, 6, 1, 0, 0, 200, 3, 3];
    let other_record = [23, 3, 3, 0, 1, 0];
    let wrong_type = [99, 3, 3, 0, 1, 0];
    for greeting in [
        too_long,
        [&part_of_a_greeting[..], &other_record[..]].concat(),
        [&part_of_a_greeting[..], &wrong_type[..]].concat(),
        [22, 3, 1, 0, 8, 1, 0, 0, 0, 2, 0, 0, 0].to_vec(),
    ] {
        let (accepted, mut connected) = Bench::sockets().await;
        connected.write_all(&greeting).await.unwrap();
        let outcome = accept_idle(accepted, bench.server.clone(), GUARD).await;
        assert!(matches!(outcome, Err(TlsError::Handshake(_))), "{greeting:?}");
        let mut told = Vec::new();
        // It may be reset behind the alert: not all of it was read.
        let _ = connected.read_to_end(&mut told).await;
        assert!(told.first().is_none_or(|kind| *kind == 21), "an alert, if anything: {told:?}");
    }
}

/// A true greeting with bytes changed, cut and added: whatever comes of it, nothing panics.
#[tokio::test]
async fn hostile_changes_of_a_greeting_are_survived() {
    let bench = Bench::new();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(bench.client.clone(), name).unwrap();
    let mut greeting = Vec::new();
    client.write_tls(&mut greeting).unwrap();
    let entropy = runtime::Entropy::seeded(7);
    let below = |bound: usize| usize::try_from(entropy.below(bound as u64)).unwrap();
    for round in 0..2000 {
        let mut bytes = greeting.clone();
        for _ in 0..below(4) {
            let at = if round % 2 == 0 { below(bytes.len()) } else { below(12) };
            bytes[at] = u8::try_from(below(256)).unwrap();
        }
        if below(3) == 0 {
            bytes.truncate(1 + below(bytes.len()));
        }
        bytes.extend((0..below(40)).map(|_| u8::try_from(below(256)).unwrap()));
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(&bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let outcome = accept_idle(ours, bench.server.clone(), GUARD).await;
        assert!(outcome.is_err(), "nobody finished it");
    }
}

#[tokio::test]
async fn client_that_says_nothing_is_given_up() {
    let bench = Bench::new();
    let (accepted, _connected) = Bench::sockets().await;
    let patience = Duration::from_millis(20);
    let outcome = accept_idle(accepted, bench.server, patience).await;
    assert!(matches!(outcome, Err(TlsError::TimedOut(_))));
}

#[tokio::test]
async fn write_waits_for_a_client_that_does_not_read_and_holds_one_record() {
    let (mut server, _, mut client) = Bench::new().connect().await;
    let sent = text(8 * 1024 * 1024);
    let mut written = 0;
    loop {
        let write = Pin::new(&mut server)
            .poll_write(&mut Context::from_waker(Waker::noop()), &sent[written..]);
        match write {
            Poll::Ready(count) => written += count.unwrap(),
            Poll::Pending => break,
        }
        assert!(server.buffer_bytes() <= RECORD_BYTES + OVERHEAD_BYTES);
    }
    let mut read = vec![0; sent.len()];
    let writing = async {
        server.write_all(&sent[written..]).await.unwrap();
        server.flush().await.unwrap();
    };
    tokio::join!(writing, async { client.read_exact(&mut read).await.unwrap() });
    assert!(read == sent);
}
