//! Quarantine and release with real nftables and real sockets, in network namespaces of their
//! own: what dies, what lives, and what is left exactly as it was.
#![expect(clippy::unwrap_used, reason = "a test whose scene cannot be set should stop there")]

use std::net::SocketAddr;
use std::time::Duration;

use agent::execute::quarantine::{Firewall, Lacks, Quarantine, Release, reassert};
use agent::execute::{Executor, Task};
use agent::host::Host;
use protocol::action::{self, AllowedPeer};
use protocol::receipt::{Evidence, Failure, FailureKind};
use serde_json::json;
use tempfile::TempDir;

use support::host::{sandbox, task};
use support::netns::{
    ELSEWHERE, ENDPOINT, GUARD, HUB, Lan, SILENCE, SINKS, agent_reaches, agent_session, carries,
    open_session, stranger_reaches, tcp_answers, udp_answers,
};

#[path = "support"]
mod support {
    pub(crate) mod host;
    #[expect(dead_code, reason = "shared with the tests of all paths, which use the rest")]
    pub(crate) mod netns;
}

/// The machine's own firewall, as an administrator may have it.
const OWN_TABLES: &str = "table inet firewall {
    set ports { type inet_service; elements = { 22 }; }
    chain input { type filter hook input priority 0; policy accept; tcp dport @ports accept; }
}
table ip nat {
    chain out { type nat hook postrouting priority 100; ip daddr 10.99.0.0/16 masquerade; }
}";

/// A network, and a host on its endpoint whose control plane is the hub's two addresses.
struct Scene {
    lan: Lan,
    host: Host,
    hubs: Vec<SocketAddr>,
    _folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let lan = Lan::new();
        let hubs: Vec<_> = HUB.iter().map(|address| lan.peer_echo(address, 0)).collect();
        let (mut host, folder) = sandbox();
        host.control_plane = hubs.clone();
        Self { lan, host, hubs, _folder: folder }
    }

    /// Runs an executor as the agent would, on the endpoint.
    fn carry_out(
        &self,
        executor: impl Executor + 'static,
        task: Task,
    ) -> Result<Evidence, Failure> {
        let host = self.host.clone();
        self.lan.endpoint.run(move || {
            executor.plan(&host, &task)?;
            executor.apply(&host, &task)?;
            executor.prove(&host, &task)
        })
    }

    fn only_apply(&self, executor: Quarantine, number: u8) -> Result<(), Failure> {
        let host = self.host.clone();
        self.lan.endpoint.run(move || executor.apply(&host, &task(number)))
    }

    fn prove(&self, number: u8) -> Result<Evidence, Failure> {
        let host = self.host.clone();
        self.lan.endpoint.run(move || quarantine(vec![]).prove(&host, &task(number)))
    }

    fn nft(&self, words: &str) -> String {
        self.lan.endpoint.command("nft", &words.split(' ').collect::<Vec<_>>())
    }

    fn load(&self, ruleset: &str) {
        self.lan.endpoint.command("nft", &[ruleset]);
    }

    /// Takes away what a reboot takes away: every table, and the process that held them.
    fn reboot(&self) {
        self.host.firewall.let_go();
        self.nft("flush ruleset");
    }

    fn answers(&self, to: SocketAddr) -> bool {
        tcp_answers(&self.lan.endpoint, to, GUARD)
    }

    /// Whether the state directory says that a quarantine stands.
    fn is_recorded(&self) -> bool {
        self.host.state_dir.join("quarantine.json").exists()
    }
}

fn quarantine(allow: Vec<AllowedPeer>) -> Quarantine {
    Quarantine::new(action::Quarantine { allow, resolver: false, until: None })
}

fn allowed(peer: SocketAddr) -> AllowedPeer {
    AllowedPeer { address: peer.ip(), tcp_port: peer.port() }
}

#[test]
fn quarantine_cuts_every_path_but_the_control_plane() {
    let scene = Scene::new();
    let (endpoint, peer) = (&scene.lan.endpoint, &scene.lan.peer);
    let elsewhere = ELSEWHERE.map(|address| scene.lan.peer_echo(address, 0));
    let sinks = SINKS.map(|address| scene.lan.peer_echo(address, 9));
    let other_ports = HUB.map(|address| scene.lan.peer_echo(address, 0));
    let services = ENDPOINT.map(|address| scene.lan.endpoint_echo(address));
    let outside: Vec<_> = [elsewhere, sinks, other_ports].concat();

    let mut outbound = elsewhere.map(|to| open_session(endpoint, to));
    let mut inbound = services.map(|to| open_session(peer, to));
    for to in &outside {
        assert!(scene.answers(*to), "{to} before");
        assert!(udp_answers(endpoint, *to, GUARD), "{to} by UDP before");
    }
    assert!(stranger_reaches(endpoint, scene.hubs[0]));

    let evidence = scene.carry_out(quarantine(vec![]), task(1)).unwrap();

    for session in outbound.iter_mut().chain(&mut inbound) {
        session.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(!carries(session), "an open session survived");
    }
    for to in &outside {
        assert!(!scene.answers(*to), "{to} after");
        assert!(!udp_answers(endpoint, *to, SILENCE), "{to} by UDP after");
    }
    for to in services {
        assert!(!tcp_answers(peer, to, SILENCE), "inbound to {to}");
        assert!(!udp_answers(peer, to, SILENCE), "inbound to {to} by UDP");
    }
    for hub in &scene.hubs {
        assert!(agent_reaches(endpoint, *hub), "the hub {hub}");
        assert!(!scene.answers(*hub), "another process of the agent's user reached {hub}");
        assert!(!stranger_reaches(endpoint, *hub), "another user reached {hub}");
    }
    let expected = json!({ "forward": "drop", "input": "drop", "output": "drop" });
    assert_eq!(evidence.get("policies"), Some(&expected));
    let sinks = json!({ "v4": "filtered", "v6": "filtered", "raw": "filtered" });
    assert_eq!(evidence.get("sinks"), Some(&sinks));
    assert_eq!(evidence.get("agent_told_by"), Some(&"mark_and_uid".into()));
    assert_eq!(evidence.get("others_unchanged"), Some(&true.into()));
}

#[test]
fn loopback_and_sessions_with_the_hub_stay_alive() {
    let scene = Scene::new();
    let mut session = agent_session(&scene.lan.endpoint, scene.hubs[1]);
    let local = ["127.0.0.1", "::1"].map(|address| scene.lan.endpoint_echo(address));
    scene.carry_out(quarantine(vec![]), task(1)).unwrap();
    assert!(carries(&mut session), "the agent's own session died");
    for to in local {
        assert!(scene.answers(to), "{to}");
        assert!(udp_answers(&scene.lan.endpoint, to, GUARD), "{to} by UDP");
    }
}

#[test]
fn allowed_peer_is_open_to_everybody_on_its_port_only() {
    let scene = Scene::new();
    let jump_host = ELSEWHERE.map(|address| scene.lan.peer_echo(address, 0));
    let other_port = scene.lan.peer_echo(ELSEWHERE[0], 0);
    scene.carry_out(quarantine(jump_host.map(allowed).to_vec()), task(1)).unwrap();
    for to in jump_host {
        assert!(scene.answers(to), "{to}");
        assert!(stranger_reaches(&scene.lan.endpoint, to), "{to} for another user");
        assert!(!udp_answers(&scene.lan.endpoint, to, SILENCE), "{to} by UDP");
    }
    assert!(!scene.answers(other_port));
}

#[test]
fn control_plane_cannot_open_a_connection_to_the_device() {
    let mut scene = Scene::new();
    let service = scene.lan.endpoint_echo(ENDPOINT[0]);
    // An address of the control plane at which nobody listens, so that its port is free to use.
    let source: SocketAddr = format!("{}:4444", HUB[0]).parse().unwrap();
    scene.host.control_plane.push(source);
    assert!(connects_from(&scene, source, service), "before");
    scene.carry_out(quarantine(vec![]), task(1)).unwrap();
    assert!(!connects_from(&scene, source, service), "after");
}

#[test]
fn release_leaves_the_machines_own_tables_as_they_were() {
    let scene = Scene::new();
    let elsewhere = ELSEWHERE.map(|address| scene.lan.peer_echo(address, 0));
    scene.load(OWN_TABLES);
    let before = scene.nft("-a list ruleset");

    scene.carry_out(quarantine(vec![]), task(1)).unwrap();
    assert!(!scene.answers(elsewhere[0]));
    assert!(scene.is_recorded());
    let evidence = scene.carry_out(Release, task(2)).unwrap();

    assert_eq!(scene.nft("-a list ruleset"), before);
    assert!(!scene.is_recorded());
    assert!(elsewhere.into_iter().all(|to| scene.answers(to)));
    assert_eq!(evidence.get("table_present"), Some(&false.into()));
    assert_eq!(evidence.get("others_unchanged"), Some(&true.into()));
    assert_eq!(evidence.get("lifted"), Some(&task(1).command_id.to_string().into()));
}

#[test]
fn release_without_quarantine_succeeds_and_changes_nothing() {
    let scene = Scene::new();
    scene.load(OWN_TABLES);
    let before = scene.nft("-a list ruleset");
    let evidence = scene.carry_out(Release, task(2)).unwrap();
    assert_eq!(scene.nft("-a list ruleset"), before);
    assert_eq!(evidence.get("lifted"), Some(&json!(null)));
}

#[test]
fn quarantine_is_rolled_back_when_no_control_plane_answers() {
    let mut scene = Scene::new();
    let elsewhere = scene.lan.peer_echo(ELSEWHERE[0], 0);
    scene.load(OWN_TABLES);
    let before = scene.nft("-a list ruleset");
    scene.host.control_plane = vec![closed_port()];

    let patient = quarantine(vec![]).confirm_within(Duration::from_secs(1));
    let failure = scene.carry_out(patient, task(1)).unwrap_err();
    assert_eq!((failure.kind, &*failure.stage), (FailureKind::Precondition, "plan"));

    let patient = quarantine(vec![]).confirm_within(Duration::from_secs(1));
    let failure = scene.only_apply(patient, 1).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotProven);
    assert!(failure.detail.starts_with("rolled back: "), "{}", failure.detail);
    assert_eq!(scene.nft("-a list ruleset"), before);
    assert!(!scene.is_recorded());
    assert!(scene.answers(elsewhere));
}

#[test]
fn failed_replacement_returns_to_the_former_quarantine() {
    let mut scene = Scene::new();
    let elsewhere = scene.lan.peer_echo(ELSEWHERE[0], 0);
    scene.carry_out(quarantine(vec![]), task(1)).unwrap();
    let former = scene.nft("-n list table inet tocsin");

    let control_plane = std::mem::replace(&mut scene.host.control_plane, vec![closed_port()]);
    let wider = quarantine(vec![allowed(elsewhere)]).confirm_within(Duration::from_secs(1));
    scene.only_apply(wider, 2).unwrap_err();

    scene.host.control_plane = control_plane;
    assert_eq!(scene.nft("-n list table inet tocsin"), former);
    assert!(!scene.answers(elsewhere));
    scene.prove(1).unwrap();
}

#[test]
fn newer_quarantine_replaces_the_older_in_place() {
    let scene = Scene::new();
    let elsewhere = scene.lan.peer_echo(ELSEWHERE[0], 0);
    scene.carry_out(quarantine(vec![]), task(1)).unwrap();
    scene.carry_out(quarantine(vec![]), task(1)).unwrap();
    scene.carry_out(quarantine(vec![allowed(elsewhere)]), task(2)).unwrap();
    let tables = "table inet tocsin\ntable inet tocsin_canary\ntable netdev tocsin\n";
    assert_eq!(scene.nft("list tables"), tables);
    assert!(scene.answers(elsewhere));
    assert!(scene.prove(1).is_err(), "the older command is not what stands");
    scene.prove(2).unwrap();
}

#[test]
fn reassert_puts_a_recorded_quarantine_up_again() {
    let scene = Scene::new();
    let elsewhere = scene.lan.peer_echo(ELSEWHERE[0], 0);
    let host = scene.host.clone();
    let again = move || reassert(&host);
    assert_eq!(scene.lan.endpoint.run(again.clone()), Ok(false));

    scene.carry_out(quarantine(vec![]), task(1)).unwrap();
    scene.reboot();
    assert!(scene.answers(elsewhere), "nothing stands after a reboot");
    assert_eq!(scene.lan.endpoint.run(again.clone()), Ok(true));
    assert!(!scene.answers(elsewhere));
    scene.prove(1).unwrap();

    scene.carry_out(Release, task(2)).unwrap();
    assert_eq!(scene.lan.endpoint.run(again), Ok(false));
    assert!(scene.answers(elsewhere));
}

#[test]
fn table_that_was_tampered_with_is_not_proven() {
    let mut scene = Scene::new();
    scene.host.firewall = Firewall::lacking(Lacks { owner: true, ..Lacks::default() });
    let evidence = scene.carry_out(quarantine(vec![]), task(1)).unwrap();
    assert_eq!(evidence.get("owned"), Some(&false.into()));
    scene.nft("insert rule inet tocsin output accept");
    assert_eq!(scene.prove(1).unwrap_err().kind, FailureKind::NotProven);
    scene.nft("delete table inet tocsin");
    assert!(scene.prove(1).is_err());
}

/// A port of the peer that refuses connections.
fn closed_port() -> SocketAddr {
    format!("{}:1", HUB[0]).parse().unwrap()
}

/// Whether the peer reaches a service of the endpoint from that address and port.
fn connects_from(scene: &Scene, source: SocketAddr, service: SocketAddr) -> bool {
    let script = "import socket, sys
s = socket.socket(); s.settimeout(1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2]))); s.connect((sys.argv[3], int(sys.argv[4])))";
    let ports = (source.port().to_string(), service.port().to_string());
    let ips = (source.ip().to_string(), service.ip().to_string());
    scene.lan.peer.try_command("python3", &["-c", script, &ips.0, &ports.0, &ips.1, &ports.1]).0
}
