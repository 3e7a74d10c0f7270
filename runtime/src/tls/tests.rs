//! Tests of handshakes over real sockets: resumption, client certificates, pins, PEM files.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::{
    ClientAuth, Identity, Peer, PemError, SpkiPin, TlsError, accept, client_config,
    client_config_signing, pinned_client_config, read_certificates, read_identity, server_config,
    write_certificates, write_key,
};

const GUARD: Duration = Duration::from_secs(240);

/// A certificate authority made for one test.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// An identity for `name`, with the authority's own certificate at the end of the chain.
    pub(crate) fn issue(&self, name: &str) -> Identity {
        self.issue_for(name, (1975, 4096))
    }

    /// The same, from the beginning of one year to the beginning of another.
    fn issue_for(&self, name: &str, (from, to): (i32, i32)) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Identity { chain: vec![leaf.der().clone(), self.certificate()], key }
    }
}

/// One handshake over a real socket; the server then sends a byte, so that the client has read
/// the ticket that comes before it.
async fn connect(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> (Result<Peer, TlsError>, std::io::Result<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let accepting = async {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut stream, peer) = accept(stream, server.clone(), GUARD).await?;
        stream.write_all(b"!").await.map_err(TlsError::Handshake)?;
        stream.shutdown().await.map_err(TlsError::Handshake)?;
        Ok(peer)
    };
    let connecting = async {
        let stream = TcpStream::connect(addr).await?;
        let mut stream = TlsConnector::from(client.clone()).connect(name, stream).await?;
        stream.read_to_end(&mut Vec::new()).await.map(drop)
    };
    tokio::join!(accepting, connecting)
}

#[tokio::test]
async fn resumed_session_still_tells_the_client_certificate() {
    let authority = Authority::new();
    let required = ClientAuth::Required(vec![authority.certificate()]);
    let server = Arc::new(server_config(&authority.issue("localhost"), required, &[]).unwrap());
    let device = authority.issue("device");
    let roots = [authority.certificate()];
    let client = Arc::new(client_config(&roots, Some(&device), &[]).unwrap());

    let (first, read) = connect(&server, &client, "localhost").await;
    read.unwrap();
    let (second, read) = connect(&server, &client, "localhost").await;
    read.unwrap();
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(!first.resumed && second.resumed);
    assert_eq!(first.certificate.as_ref(), device.chain.first());
    assert_eq!(second.certificate, first.certificate);
}

#[cfg(feature = "server")]
#[tokio::test]
async fn leniency_is_about_the_end_alone() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = |auth: fn(Vec<CertificateDer<'static>>) -> ClientAuth| {
        let identity = authority.issue("localhost");
        Arc::new(server_config(&identity, auth(vec![authority.certificate()]), &[]).unwrap())
    };
    let (strict, lenient) = (server(ClientAuth::Optional), server(ClientAuth::OptionalPastEnd));
    let past = authority.issue_for("device", (1980, 1990));
    let cases = [
        (&strict, past.clone(), false),
        (&lenient, past, true),
        (&lenient, authority.issue("device"), true),
        (&lenient, authority.issue_for("device", (4000, 4001)), false),
        (&lenient, stranger.issue_for("device", (1980, 1990)), false),
        (&lenient, stranger.issue("device"), false),
    ];
    for (number, (server, device, is_let_in)) in cases.into_iter().enumerate() {
        let roots = [authority.certificate()];
        let client = Arc::new(client_config(&roots, Some(&device), &[]).unwrap());
        let (peer, _) = connect(server, &client, "localhost").await;
        assert_eq!(peer.is_ok(), is_let_in, "case {number}: {peer:?}");
        assert!(peer.is_err() || peer.unwrap().certificate.as_ref() == device.chain.first());
    }
}

#[tokio::test]
async fn new_configuration_does_not_resume_what_the_former_admitted() {
    let (authority, successor) = (Authority::new(), Authority::new());
    let identity = authority.issue("localhost");
    let auth = |ca: &Authority| ClientAuth::Required(vec![ca.certificate()]);
    let before = Arc::new(server_config(&identity, auth(&authority), &[]).unwrap());
    let after = Arc::new(server_config(&identity, auth(&successor), &[]).unwrap());
    let device = authority.issue("device");
    let roots = [authority.certificate()];
    let client = Arc::new(client_config(&roots, Some(&device), &[]).unwrap());

    connect(&before, &client, "localhost").await.0.unwrap();
    let refused = connect(&after, &client, "localhost").await.0.unwrap_err();
    assert!(matches!(refused, TlsError::Handshake(_)), "{refused:?}");
}

#[tokio::test]
async fn client_certificate_is_required_or_optional_as_configured() {
    let authority = Authority::new();
    let identity = authority.issue("localhost");
    let config = |auth| Arc::new(server_config(&identity, auth, &[b"http/1.1"]).unwrap());
    let required = config(ClientAuth::Required(vec![authority.certificate()]));
    let optional = config(ClientAuth::Optional(vec![authority.certificate()]));
    let roots = [authority.certificate()];
    let nameless = Arc::new(client_config(&roots, None, &[b"http/1.1"]).unwrap());

    let refused = connect(&required, &nameless, "localhost").await.0.unwrap_err();
    assert!(matches!(refused, TlsError::Handshake(_)), "{refused:?}");
    let peer = connect(&optional, &nameless, "localhost").await.0.unwrap();
    assert!(peer.certificate.is_none());
    assert_eq!(peer.alpn.as_deref(), Some(&b"http/1.1"[..]));

    let stranger = Authority::new().issue("device");
    let stranger = Arc::new(client_config(&roots, Some(&stranger), &[b"http/1.1"]).unwrap());
    connect(&optional, &stranger, "localhost").await.0.unwrap_err();
}

#[tokio::test]
async fn pinned_client_accepts_the_pinned_authority_only() {
    let authority = Authority::new();
    let pin = SpkiPin::of(&authority.certificate()).unwrap();
    let identity = authority.issue("localhost");
    let server = Arc::new(server_config(&identity, ClientAuth::None, &[]).unwrap());
    let client = |pin| Arc::new(pinned_client_config(pin, &[]).unwrap());

    connect(&server, &client(pin), "localhost").await.1.unwrap();
    connect(&server, &client(pin), "elsewhere").await.1.unwrap_err();
    let other = SpkiPin::of(&Authority::new().certificate()).unwrap();
    connect(&server, &client(other), "localhost").await.1.unwrap_err();
    // Pinning the leaf is not pinning an authority.
    let leaf = SpkiPin::of(&identity.chain[0]).unwrap();
    connect(&server, &client(leaf), "localhost").await.1.unwrap_err();
}

#[tokio::test]
async fn pinned_client_refuses_a_leaf_that_the_pinned_authority_did_not_sign() {
    let (authority, attacker) = (Authority::new(), Authority::new());
    let pin = SpkiPin::of(&authority.certificate()).unwrap();
    let mut identity = attacker.issue("localhost");
    // The genuine certificate is public, so an attacker can present it beside his own.
    identity.chain = vec![identity.chain[0].clone(), authority.certificate()];
    let server = Arc::new(server_config(&identity, ClientAuth::None, &[]).unwrap());
    let client = Arc::new(pinned_client_config(pin, &[]).unwrap());
    connect(&server, &client, "localhost").await.1.unwrap_err();
}

#[tokio::test]
async fn client_with_pins_believes_every_pinned_authority_and_no_other() {
    let [ours, backup, others] = [(); 3].map(|()| Authority::new());
    let pin = |authority: &Authority| SpkiPin::of(&authority.certificate()).unwrap();
    let server = |authority: &Authority| {
        let mut identity = authority.issue("localhost");
        identity.chain.truncate(1);
        identity.chain.push(authority.certificate());
        Arc::new(server_config(&identity, ClientAuth::None, &[]).unwrap())
    };
    let device = ours.issue("device");
    let key = any_supported_type(&device.key).unwrap();
    let client = |known: &Authority, pins: &[SpkiPin]| {
        let certified = CertifiedKey::new(device.chain.clone(), key.clone());
        let trusted = (&[known.certificate()][..], pins);
        Arc::new(client_config_signing(trusted, certified, &[]).unwrap())
    };
    let pinned = client(&others, &[pin(&ours), pin(&backup)]);
    for (authority, is_believed) in [(&ours, true), (&backup, true), (&others, false)] {
        let outcome = connect(&server(authority), &pinned, "localhost").await.1;
        assert_eq!(outcome.is_ok(), is_believed, "it was told to trust the third alone");
    }
    connect(&server(&ours), &pinned, "elsewhere").await.1.unwrap_err();
    connect(&server(&others), &client(&others, &[]), "localhost").await.1.unwrap();
}

#[test]
fn pin_is_the_hash_of_the_whole_key_info() {
    use rcgen::PublicKeyData as _;
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate =
            CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        let expected =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
        let pin = SpkiPin::of(certificate.der()).unwrap();
        assert_eq!(pin.as_bytes(), expected.as_ref());
        assert_eq!(pin.to_string().parse::<SpkiPin>().unwrap(), pin);
    }
}

#[test]
fn malformed_pins_are_refused() {
    for text in ["", "00", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
        text.parse::<SpkiPin>().unwrap_err();
    }
    SpkiPin::of(&CertificateDer::from(vec![1, 2, 3])).unwrap_err();
}

#[tokio::test]
async fn silent_handshake_times_out() {
    let identity = Authority::new().issue("localhost");
    let server = Arc::new(server_config(&identity, ClientAuth::None, &[]).unwrap());
    let (stream, _silent) = tokio::io::duplex(1024);
    let outcome = accept(stream, server, Duration::from_millis(10)).await;
    assert!(matches!(outcome, Err(TlsError::TimedOut(_))));
}

#[test]
fn identity_survives_its_files_and_the_key_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    let identity = Authority::new().issue("localhost");
    write_certificates(&chain, &identity.chain).unwrap();
    write_key(&key, &identity.key).unwrap();
    let read = read_identity(&chain, &key).unwrap();
    assert_eq!((&read.chain, &read.key), (&identity.chain, &identity.key));
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!format!("{read:?}").contains(&format!("{:?}", identity.key.secret_der())));
}

#[test]
fn files_without_the_expected_content_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.pem");
    std::fs::write(&path, "").unwrap();
    assert!(matches!(read_certificates(&path), Err(PemError::NoCertificate(_))));
    assert!(matches!(read_identity(&path, &path), Err(PemError::Malformed { .. })));
    let missing = folder.path().join("missing.pem");
    assert!(matches!(read_certificates(&missing), Err(PemError::File(_))));
}
