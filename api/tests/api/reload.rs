//! The authority is read again while everything runs: what stands stays, and who comes next meets the other.

use std::sync::Arc;

use api::{AuthorityError, InstallationError, pki};
use protocol::enrollment::RenewRequest;
use protocol::frame::{AgentFrame, Exchange};
use protocol::trust::AuthorityPin;
use reqwest::StatusCode;
use runtime::Entropy;
use runtime::tls::TlsConnector;
use runtime::tls::pki_types::pem::PemObject as _;
use runtime::tls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::actors::TestAgent;
use super::bench::{Bench, GUARD, client as operator, csr, json_of};

/// A connection to the agent port that stays.
struct Standing<S>(S);

async fn open(
    bench: &Bench,
    agent: &TestAgent,
) -> std::io::Result<Standing<impl AsyncRead + AsyncWrite + Unpin + use<>>> {
    let stream = TcpStream::connect(bench.api.agent_addr).await?;
    let connector = TlsConnector::from(Arc::new(agent.tls.clone()));
    let name = ServerName::try_from("localhost").unwrap();
    Ok(Standing(connector.connect(name, stream).await?))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Standing<S> {
    /// The status of a check-in.
    async fn check_in(&mut self, hello: AgentFrame) -> std::io::Result<String> {
        let body = serde_json::to_string(&Exchange { frames: vec![hello] }).unwrap();
        let head = format!(
            "POST /agent/v1/checkin HTTP/1.1\r\nhost: localhost\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all((head + &body).as_bytes()).await?;
        let mut answer = String::new();
        let whole = |answer: &str| {
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
            (body.len() >= length.parse::<usize>().ok()?).then_some(())
        };
        while whole(&answer).is_none() {
            let mut bytes = [0; 4096];
            let reading = tokio::time::timeout(GUARD, self.0.read(&mut bytes));
            match reading.await.expect("an answer comes")? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => answer.push_str(std::str::from_utf8(&bytes[..count]).unwrap()),
            }
        }
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    }
}

/// Takes a step with the authority of that bench, and has it read.
async fn step(bench: &mut Bench, step: impl FnOnce(&std::path::Path)) {
    step(&bench.place.config().data_dir);
    assert!(bench.api.reload().follow_authority().await.unwrap());
    // A profile keeps the authorities that it was made with.
    bench.http = operator(&bench.api.authority().trusted(), None);
}

/// The device, believing the authority of now, with its certificate of before unless it is given another.
fn believing(bench: &Bench, agent: &TestAgent, certificate: Option<&str>) -> TestAgent {
    let key = rcgen::KeyPair::try_from(agent.key.serialize_der()).unwrap();
    let mut enrolled = bench.enrolled(agent);
    enrolled["ca"] = bench.api.authority().trusted_pem().into();
    if let Some(certificate) = certificate {
        enrolled["certificate"] = certificate.into();
    }
    bench.agent_of(key, enrolled)
}

fn prepare(bench: &Bench) -> impl FnOnce(&std::path::Path) + use<> {
    let now = bench.now();
    move |folder| pki::prepare(folder, now, &Entropy::system()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn authority_is_replaced_and_no_connection_ends() {
    let mut bench = Bench::start().await;
    let reload = bench.api.reload();
    assert!(!reload.follow_authority().await.unwrap(), "it is the same");
    let former = bench.api.authority();
    let agent = bench.agent("a", None).await;
    let mut standing = open(&bench, &agent).await.unwrap();
    assert_eq!(standing.check_in(agent.hello()).await.unwrap(), "HTTP/1.1 200 OK");

    let prepared = prepare(&bench);
    step(&mut bench, prepared).await;
    let present = bench.api.authority();
    assert_eq!((present.pin(), present.trusted().len()), (former.pin(), 2), "it issues as before");
    step(&mut bench, |folder| pki::switch(folder).unwrap()).await;
    let present = bench.api.authority();
    assert_ne!(present.pin(), former.pin());
    assert_eq!(present.trusted()[1], *former.certificate());
    assert_eq!(bench.events("authority_changed").await.len(), 1);

    // Who enrolls, and who renews over a certificate of the former, has one of the present.
    let issuer = |certificate: &str| {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
        chain.last().unwrap().unwrap() == *present.certificate()
    };
    let fresh = bench.agent("b", None).await;
    fresh.check_in(&bench, Vec::new()).await;
    assert!(issuer(&fresh.enrolled.certificate));
    let believing_agent = believing(&bench, &agent, None);
    believing_agent.check_in(&bench, Vec::new()).await;
    let asked = RenewRequest { csr: csr(&agent.key) };
    let answer = believing_agent.http.post(bench.agent_url("/agent/v1/renew")).json(&asked).send();
    let answer = json_of(answer.await.unwrap(), StatusCode::OK).await;
    let certificate = answer["certificate"].as_str().unwrap();
    assert!(issuer(certificate));

    step(&mut bench, |folder| pki::retire(folder).unwrap()).await;
    believing(&bench, &agent, Some(certificate)).check_in(&bench, Vec::new()).await;
    let gone = believing(&bench, &agent, None);
    let refused = async { open(&bench, &gone).await?.check_in(gone.hello()).await };
    refused.await.expect_err("nobody vouches for it any more");
    assert_eq!(standing.check_in(agent.hello()).await.unwrap(), "HTTP/1.1 200 OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn authority_that_cannot_be_used_changes_nothing() {
    let bench = Bench::start().await;
    let (reload, before) = (bench.api.reload(), bench.api.authority().trusted_pem());
    let folder = bench.place.config().data_dir;
    let [certificate, key] = ["ca.crt", "ca.key"].map(|name| folder.join(name));
    let ours = [&certificate, &key].map(|path| std::fs::read(path).unwrap());
    let put = |files: &[Vec<u8>; 2]| {
        std::fs::write(&certificate, &files[0]).unwrap();
        std::fs::write(&key, &files[1]).unwrap();
    };
    let stranger = tempfile::tempdir().unwrap();
    pki::Authority::load_or_create(stranger.path(), bench.now(), Entropy::system()).unwrap();
    let theirs =
        ["ca.crt", "ca.key"].map(|name| std::fs::read(stranger.path().join(name)).unwrap());

    put(&[ours[0].clone(), b"no key".to_vec()]);
    let error = reload.follow_authority().await.unwrap_err();
    assert!(matches!(error, AuthorityError::Files(_)), "{error:?}");
    put(&[theirs[0].clone(), ours[1].clone()]);
    let error = reload.follow_authority().await.unwrap_err();
    assert!(matches!(error, AuthorityError::Files(_)), "{error:?}");
    put(&theirs);
    let error = reload.follow_authority().await.unwrap_err();
    assert!(matches!(error, AuthorityError::Installation(_)), "{error:?}");

    assert_eq!(bench.api.authority().trusted_pem(), before);
    let agent = bench.agent("a", None).await;
    assert_eq!(agent.enrolled.ca, before);
    agent.check_in(&bench, Vec::new()).await;
    assert!(bench.events("authority_changed").await.is_empty());
    put(&ours);
    assert!(!reload.follow_authority().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_authority_that_the_trust_root_does_not_pin_is_not_taken() {
    let mut bench = Bench::start().await;
    let prepared = prepare(&bench);
    step(&mut bench, prepared).await;
    let pins = [bench.api.authority().trust_pin(), AuthorityPin::from_bytes([8; 32])];
    bench.change_trust(|root| root.authority_pins = pins.into()).await;
    pki::switch(&bench.place.config().data_dir).unwrap();
    let error = bench.api.reload().follow_authority().await.unwrap_err();
    let is_unpinned = matches!(error, AuthorityError::Installation(InstallationError::Unpinned(_)));
    assert!(is_unpinned, "{error:?}");
    assert_eq!(bench.api.authority().trust_pin(), pins[0]);
    bench.agent("a", None).await.check_in(&bench, Vec::new()).await;
}
