//! Tests of what is read out of a greeting.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use runtime::tls::pki_types::{PrivateKeyDer, ServerName};
use runtime::tls::{Identity, Tickets, client_config};
use runtime::{Clock, Entropy};
use rustls::{ClientConfig, ClientConnection, ServerConnection};
use tokio::io::AsyncWriteExt as _;

use super::*;

const DEVICE: &str = "01890000-0000-7000-8000-000000000001";

/// A server and a client that know each other.
fn pair() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let name = format!("urn:tocsin:device:{DEVICE}");
    params.subject_alt_names.push(SanType::URI(name.as_str().try_into().unwrap()));
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let identity = Identity { chain: vec![leaf.der().clone()], key };
    let authorities = vec![authority.der().clone()];
    let tickets = Tickets::new(Default::default(), Clock::system(), Entropy::system());
    let client = client_config(&authorities, Some(&identity), &[b"http/1.1"]).unwrap();
    let server = crate::agent_tls(&identity, authorities, &tickets).unwrap();
    (Arc::new(server), Arc::new(client))
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config.clone(), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// A client's first bytes.
fn greeting(config: &Arc<ClientConfig>) -> Vec<u8> {
    let mut bytes = Vec::new();
    client(config).write_tls(&mut bytes).unwrap();
    bytes
}

/// A whole handshake, after which the client has a ticket.
fn shake(server: &Arc<ServerConfig>, config: &Arc<ClientConfig>) {
    let (mut client, mut server) = (client(config), ServerConnection::new(server.clone()).unwrap());
    for _ in 0..4 {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut up).unwrap();
        }
        while server.read_tls(&mut &up[..]).unwrap() > 0 && !up.is_empty() {
            server.process_new_packets().unwrap();
            up.clear();
        }
        while server.wants_write() {
            server.write_tls(&mut down).unwrap();
        }
        let mut left = &down[..];
        while !left.is_empty() {
            client.read_tls(&mut left).unwrap();
            client.process_new_packets().unwrap();
        }
    }
}

#[tokio::test]
async fn claim_of_a_client_is_read_and_its_bytes_are_given_back() {
    let (server, config) = pair();
    let claim = async |bytes: &[u8]| read(bytes).await.unwrap().claim(&server);
    assert_eq!(claim(&greeting(&config)).await, Claim::Full);
    for _ in 0..2 {
        shake(&server, &config);
    }
    let resuming = greeting(&config);
    assert_eq!(claim(&resuming).await, Claim::Resuming(Some(DEVICE.parse().unwrap())));

    let rest = [&resuming[..], b"behind"].concat();
    let mut replay = read(&rest[..]).await.unwrap();
    let mut again = Vec::new();
    replay.read_to_end(&mut again).await.unwrap();
    assert_eq!(again, rest);
    assert!(replay.head.is_some(), "nothing was answered");
    replay.note(b"");
    assert!(replay.head.is_none(), "nothing is kept");
}

#[tokio::test]
async fn ticket_that_another_server_sealed_is_a_claim_to_nothing() {
    let (server, config) = pair();
    let (stranger, _) = pair();
    shake(&server, &config);
    let bytes = greeting(&config);
    assert!(ticket(&bytes[RECORD_HEAD..]).is_some());
    assert_eq!(read(&bytes[..]).await.unwrap().claim(&stranger), Claim::Full);
}

#[tokio::test]
async fn greeting_that_comes_byte_by_byte_is_read_whole() {
    let (server, config) = pair();
    shake(&server, &config);
    let bytes = greeting(&config);
    let (mut theirs, ours) = tokio::io::duplex(1);
    let sending = async {
        theirs.write_all(&bytes).await.unwrap();
    };
    let (read, ()) = tokio::join!(read(ours), sending);
    assert!(matches!(read.unwrap().claim(&server), Claim::Resuming(Some(_))));
}

#[tokio::test]
async fn cut_and_altered_greetings_resume_nothing_and_stop_nobody() {
    let (server, config) = pair();
    shake(&server, &config);
    let bytes = greeting(&config);
    for at in 0..bytes.len() {
        assert_eq!(read(&bytes[..at]).await.unwrap().claim(&server), Claim::Full, "cut to {at}");
        let mut altered = bytes.clone();
        altered[at] ^= 0xff;
        // Whatever it is taken for: reading ends, and gives everything back.
        let replay = read(&altered[..]).await.unwrap();
        let _claim = replay.claim(&server);
        assert!(replay.head.is_some_and(|head| !head.bytes.is_empty()));
    }
    let endless = vec![HANDSHAKE; 40 * 1024];
    assert_eq!(read(&endless[..]).await.unwrap().claim(&server), Claim::Full);
}

/// The same message in records of so many bytes.
fn cut(bytes: &[u8], size: usize) -> Vec<u8> {
    let record = |piece: &[u8]| {
        let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
        [&bytes[..RECORD_HEAD - 2], &length, piece].concat()
    };
    bytes[RECORD_HEAD..].chunks(size).flat_map(record).collect()
}

#[tokio::test]
async fn greeting_in_several_records_is_read_whole() {
    let (server, config) = pair();
    shake(&server, &config);
    let bytes = greeting(&config);
    let message = bytes.len() - RECORD_HEAD;
    for size in [message - 1, message.div_ceil(2), message.div_ceil(MAX_RECORDS)] {
        let pieces = cut(&bytes, size);
        let (mut theirs, ours) = tokio::io::duplex(1);
        let sending = async {
            theirs.write_all(&pieces).await.unwrap();
        };
        let (read, ()) = tokio::join!(read(ours), sending);
        let mut replay = read.unwrap();
        assert!(matches!(replay.claim(&server), Claim::Resuming(Some(_))), "in pieces of {size}");
        drop(theirs);
        let mut again = Vec::new();
        replay.read_to_end(&mut again).await.unwrap();
        assert_eq!(again, pieces);
    }
    // In more than anybody needs it is one that TLS will not answer.
    let pieces = cut(&bytes, message / (MAX_RECORDS + 1));
    let replay = read(&pieces[..]).await.unwrap();
    assert_eq!(replay.claim(&server), Claim::Full);
}

#[tokio::test]
async fn hostile_empty_and_foreign_records_before_a_greeting_end_the_reading() {
    let (server, config) = pair();
    let bytes = greeting(&config);
    for before in [&[HANDSHAKE, 3, 3, 0, 0][..], &[21, 3, 3, 0, 2, 1, 90], &[20, 3, 3, 0, 1, 1]] {
        let (mut theirs, ours) = tokio::io::duplex(64 * 1024);
        theirs.write_all(&[before, &bytes].concat()).await.unwrap();
        // Both ends stay open: it ends by what was read.
        let replay = read(ours).await.unwrap();
        assert_eq!(replay.claim(&server), Claim::Full);
    }
}

#[test]
fn only_what_costs_is_an_answer() {
    let (server, config) = pair();
    let answer = |server: &Arc<ServerConfig>| {
        let mut session = ServerConnection::new(server.clone()).unwrap();
        session.read_tls(&mut &greeting(&config)[..]).unwrap();
        drop(session.process_new_packets());
        let mut answer = Vec::new();
        session.write_tls(&mut answer).unwrap();
        answer
    };
    assert!(is_answer(&answer(&server)));
    let mut other = rustls::crypto::aws_lc_rs::default_provider();
    // A group in which the client has offered nothing: TLS asks to be greeted again.
    other.kx_groups.retain(|group| group.name() == rustls::NamedGroup::secp384r1);
    let picky = ServerConfig::builder_with_provider(Arc::new(other))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(server.cert_resolver.clone());
    let again = answer(&Arc::new(picky));
    assert!(again.len() > RANDOM.end && !is_answer(&again));
    assert!(!is_answer(b"") && !is_answer(&[21, 3, 3, 0, 2, 2, 40]));
}
