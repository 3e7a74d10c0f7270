//! Enrollment over a pinned connection: once, and repeatable until then.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use agent::enroll::{EnrollError, enroll};
use agent::identity::{KeyPair, KeyPlace};
use agent::state::{StateDir, TrustChain};
use protocol::enrollment::{
    AgentConfig, EnrollRequest, EnrollResponse, EnrollmentToken, RenewResponse,
};
use protocol::fixture::{device, lock};
use protocol::frame::HubFrame;
use runtime::tls::{ClientAuth, accept};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::bench::{Bench, GUARD, now, until};
use crate::server::{Call, read_head};

/// Serves one enrollment; the answer gets lost when told so. Gives what was asked.
async fn serve(bench: &Bench, listener: &TcpListener, loses: bool) -> EnrollRequest {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = accept(stream, bench.tls(ClientAuth::None), GUARD).await.unwrap().0;
    let head = read_head(&mut stream).await.unwrap().to_lowercase();
    assert!(head.starts_with("post /agent/v1/enroll "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    let request: EnrollRequest = serde_json::from_slice(&body).unwrap();
    if loses {
        return request;
    }
    let (certificate, ca) = bench.certify(&request.csr);
    let config = AgentConfig { iat: now(), api: Vec::new(), hubs: vec!["h:1".to_owned()] };
    let answer = EnrollResponse {
        device_id: device(4),
        generation: 2,
        certificate,
        ca,
        trust: bench.organisation.signed_trust(),
        config: config.sign(&bench.organisation.command_key).unwrap(),
    };
    let body = serde_json::to_string(&answer).unwrap();
    let text = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    request
}

#[tokio::test]
async fn interrupted_enrollment_is_repeated_with_the_same_key_and_done_once() {
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = vec![listener.local_addr().unwrap().to_string()];
    let token = EnrollmentToken { secret: "s".to_owned(), api, ca_spki_sha256: bench.pin() };
    let folder = tempfile::tempdir().unwrap();
    let state = Arc::new(StateDir::open(&folder.path().join("state")).unwrap());
    let name = || "web-17".to_owned();
    let key = || KeyPair::load_or_make(&state.key_path(), &KeyPlace::file()).unwrap();

    let first_key = key();
    let lost = enroll(&state, &first_key, &token, name(), false);
    let (lost, first) = tokio::join!(lost, serve(&bench, &listener, true));
    assert!(matches!(lost, Err(EnrollError::Http(_))), "{lost:?}");
    assert!(state.enrollment().unwrap().is_none());

    let second_key = key();
    assert_eq!(second_key.public(), first_key.public());
    let done = enroll(&state, &second_key, &token, name(), false);
    let (done, second) = tokio::join!(done, serve(&bench, &listener, false));
    assert_eq!((done.unwrap().device_id, second.name), (device(4), name()));
    assert_eq!(first.secret, second.secret);
    let mode = std::fs::metadata(state.key_path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(TrustChain::load(&state).unwrap().in_force().version, 1);

    let again = enroll(&state, &second_key, &token, name(), false).await;
    assert!(matches!(again, Err(EnrollError::Enrolled(_))), "{again:?}");
}

#[tokio::test]
async fn server_of_another_authority_is_not_told_the_secret() {
    let (bench, liar) = (Bench::new(), Bench::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = vec![listener.local_addr().unwrap().to_string()];
    let token = EnrollmentToken { secret: "s".to_owned(), api, ca_spki_sha256: bench.pin() };
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let lying = async {
        let (stream, _) = listener.accept().await.unwrap();
        accept(stream, liar.tls(ClientAuth::None), GUARD).await.map(drop)
    };
    let key = KeyPair::load_or_make(&state.key_path(), &KeyPlace::file()).unwrap();
    let enrolling = enroll(&state, &key, &token, "n".to_owned(), false);
    let (enrolled, handshake) = tokio::join!(enrolling, lying);
    assert!(matches!(enrolled, Err(EnrollError::Http(_))), "{enrolled:?}");
    assert!(handshake.is_err());
}

#[tokio::test]
async fn certificate_is_renewed_over_the_old_one_while_the_session_goes_on() {
    let mut bench = Bench::new();
    bench.age();
    let mut server = bench.server().await;
    let agent = bench.start();
    let before = agent.status().certificate_ends_at;
    let (mut hub, mut renewal) = (None, None);
    while hub.is_none() || renewal.is_none() {
        match server.call().await {
            Call::Socket(session) => hub = Some(session),
            Call::Renewal { request, answer } => renewal = Some((request, answer)),
            Call::Exchange { .. } | Call::Collection(_) => {}
        }
    }
    let (mut hub, (request, answer)) = (hub.unwrap(), renewal.unwrap());
    hub.send(HubFrame::Command(bench.command(1, lock(), 1))).await;
    hub.receipt().await;
    let (certificate, ca) = bench.certify(&request.csr);
    let config = AgentConfig { iat: now(), api: Vec::new(), hubs: vec!["h:1".to_owned()] };
    let config = config.sign(&bench.organisation.command_key).unwrap();
    let renewed = RenewResponse { certificate: certificate.clone(), ca, config: config.clone() };
    answer.send(serde_json::to_string(&renewed).unwrap()).unwrap();
    until(|| agent.status().certificate_ends_at > before).await;
    // A hub ends a session with its certificate: one under the new one stands before.
    let _new = server.session().await;
    while hub.next().await.is_some() {}
    agent.drain().await.unwrap();
    let kept = StateDir::open(&bench.config.state_dir).unwrap().enrollment().unwrap().unwrap();
    assert_eq!((kept.certificate, kept.config), (certificate, config));
}
