//! Who confirms a quarantine: a hub of ours that takes this device, and nobody in its place.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agent::config::ArmingConfig;
use agent::execute::quarantine::{self, Quarantine};
use agent::execute::{Executor as _, Task};
use agent::host::Host;
use agent::identity::{Identity, KeyPair, certificates};
use agent::recognise::ByTls;
use agent::state::StateDir;
use protocol::action;
use protocol::fixture::device;
use protocol::receipt::{Failure, FailureKind};
use runtime::tls::ClientAuth;
use rustls::{ServerConfig, ServerConnection};

use crate::bench::Bench;
use crate::host::task;
use crate::netns::{HUB, Lan};

/// How long an impostor may try: whatever it does, it must not be enough.
const PATIENCE: Duration = Duration::from_millis(500);

fn quarantine() -> Quarantine {
    Quarantine::new(action::Quarantine { allow: Vec::new(), resolver: false, until: None })
}

/// A host of that device whose hub is at that address.
fn host(bench: &mut Bench, hub: SocketAddr) -> Host {
    bench.config.host.arming = ArmingConfig::Sandboxed;
    let state = StateDir::open(&bench.config.state_dir).unwrap();
    let enrollment = state.enrollment().unwrap().unwrap();
    let key = KeyPair::load(&state.key_path(), &bench.config.key.tpm).unwrap();
    let authorities = certificates(&enrollment.ca).unwrap();
    let who = (device(1), enrollment.generation);
    let identity = Identity::new(who, &key, &enrollment.certificate, (&authorities, &[])).unwrap();
    let mut host = bench.config.host();
    host.control_plane = vec![hub];
    // Other hubs have the same port, and other names.
    let places = ["hub-9.example", HUB[0]].map(|name| format!("https://{name}:{}", hub.port()));
    let known = move || (identity.tls.clone(), places.to_vec());
    host.recognise = Arc::new(ByTls::new(known));
    host
}

/// Somebody who takes every connection at the hub's address, with that side of TLS or without a word.
fn stand_in(lan: &Lan, tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    busy(lan, tls, 0)
}

/// The same, but so many connections are ended at once before.
fn busy(lan: &Lan, tls: Option<Arc<ServerConfig>>, turned_away: usize) -> SocketAddr {
    lan.peer.run(move || {
        let listener = TcpListener::bind((HUB[0], 0)).unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut silent = Vec::new();
            // `skip` drops them, and so ends them.
            for stream in listener.incoming().skip(turned_away) {
                let mut stream = stream.unwrap();
                let Some(tls) = tls.clone() else {
                    silent.push(stream);
                    continue;
                };
                thread::spawn(move || {
                    let mut session = ServerConnection::new(tls).unwrap();
                    while session.complete_io(&mut stream).is_ok_and(|(read, _)| read > 0) {}
                });
            }
        });
        at
    })
}

/// What planning and applying come to on the endpoint.
fn tried(lan: &Lan, host: &Host, task: Task) -> (Option<Failure>, Option<Failure>) {
    let host = host.clone();
    lan.endpoint.run(move || {
        let plan = quarantine().confirm_within(PATIENCE).plan(&host, &task).err();
        (plan, quarantine().confirm_within(PATIENCE).apply(&host, &task).err())
    })
}

#[test]
fn hostile_machine_in_the_hubs_place_confirms_no_quarantine() {
    let lan = Lan::new();
    let mut bench = Bench::new();
    let stranger = Bench::new();
    let impostors = [
        ("echoes", lan.peer_echo(HUB[0], 0)),
        ("says nothing", stand_in(&lan, None)),
        ("has another authority", stand_in(&lan, Some(stranger.tls(ClientAuth::None)))),
        // The certificate is right, and the device is none of its.
        ("turns it down", stand_in(&lan, Some(bench.tls(ClientAuth::Required(stranger.ca()))))),
    ];
    for (who, hub) in impostors {
        let host = host(&mut bench, hub);
        let (plan, apply) = tried(&lan, &host, task(1));
        assert_eq!(plan.map(|failure| failure.kind), Some(FailureKind::Precondition), "{who}");
        assert_eq!(apply.map(|failure| failure.kind), Some(FailureKind::NotProven), "{who}");
        assert_eq!(quarantine::current(&host).unwrap(), None, "{who}");
        let tables = lan.endpoint.command("nft", &["list", "tables"]);
        assert!(!tables.contains("tocsin"), "{who}: {tables}");
    }
}

#[test]
fn hub_of_ours_confirms_the_quarantine_by_its_certificate_and_ticket() {
    let lan = Lan::new();
    let mut bench = Bench::new();
    let hub = stand_in(&lan, Some(bench.tls(ClientAuth::Required(bench.ca()))));
    let host = host(&mut bench, hub);
    let there = host.clone();
    let evidence = lan.endpoint.run(move || {
        quarantine().plan(&there, &task(1)).unwrap();
        quarantine().apply(&there, &task(1)).unwrap();
        quarantine().prove(&there, &task(1)).unwrap()
    });
    assert_eq!(evidence.get("reachable"), Some(&hub.to_string().into()));
    assert!(quarantine::current(&host).unwrap().unwrap().is_confirmed);
}

#[test]
fn hub_that_turns_connections_away_at_first_is_tried_again_and_confirms() {
    let lan = Lan::new();
    let mut bench = Bench::new();
    let hub = busy(&lan, Some(bench.tls(ClientAuth::Required(bench.ca()))), 4);
    let host = host(&mut bench, hub);
    let there = host.clone();
    lan.endpoint.run(move || quarantine().apply(&there, &task(1)).unwrap());
    assert!(quarantine::current(&host).unwrap().unwrap().is_confirmed);
}
