//! Pinned authorities: a control plane that names another one, as only its thief would, is not believed.

use protocol::frame::HubFrame;
use protocol::trust::{AuthorityPin, SignedTrustRoot, TrustRoot};
use runtime::tls::ClientAuth;

use crate::bench::Bench;
use crate::server::{Call, Server};

/// The pins of the organisation's authority, and of one that nobody uses.
fn pins(bench: &Bench) -> std::collections::BTreeSet<AuthorityPin> {
    [bench.pin().parse().unwrap(), AuthorityPin::from_bytes([7; 32])].into()
}

#[tokio::test]
async fn session_under_new_pins_takes_over_from_the_one_that_stood() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut old = server.session().await;
    let trust = &bench.organisation.trust;
    let root = TrustRoot { version: 2, authority_pins: pins(&bench), ..trust.clone() };
    let root = SignedTrustRoot::sign(&root, &[&bench.organisation.root_key]).unwrap();
    old.send(HubFrame::Trust { root }).await;
    let new = server.session().await;
    while old.next().await.is_some() {}
    assert_eq!(new.hello.trust_version, 2);
    agent.drain().await.unwrap();
}

/// A device that was told to believe another authority as well, as a stolen control plane would at a
/// renewal, and the only hub that it knows, which has a certificate of that one.
async fn led_astray(bench: &mut Bench) -> (Server, Server) {
    let thief = Bench::new();
    let ours = bench.server().await;
    let any = "127.0.0.1:0".parse().unwrap();
    let theirs = Server::listen(any, thief.tls(ClientAuth::None)).await;
    bench.config.addresses.hubs = vec![theirs.address.to_string()];
    bench.believe(&thief);
    (ours, theirs)
}

#[tokio::test]
async fn hostile_authority_that_is_not_pinned_vouches_for_no_hub() {
    let mut bench = Bench::new();
    let (mut ours, mut theirs) = led_astray(&mut bench).await;
    let pinned = pins(&bench);
    bench.change_trust(|root| root.authority_pins = pinned);
    let agent = bench.start();
    assert!(matches!(ours.call().await, Call::Exchange { .. }), "past all of its hubs");
    assert!(theirs.is_untouched());
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn authority_that_the_control_plane_names_is_believed_where_none_is_pinned() {
    let mut bench = Bench::new();
    let (_ours, mut theirs) = led_astray(&mut bench).await;
    let agent = bench.start();
    theirs.session().await;
    agent.drain().await.unwrap();
}
