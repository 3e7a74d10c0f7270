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
    assert!(replay.head.is_none(), "nothing is kept");
}

#[tokio::test]
async fn ticket_that_another_server_sealed_is_a_claim_to_nothing() {
    let (server, config) = pair();
    let (stranger, _) = pair();
    shake(&server, &config);
    let bytes = greeting(&config);
    assert!(ticket(&bytes).is_some());
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
