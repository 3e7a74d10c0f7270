//! What stood before a reboot stands again before the agent talks to anybody.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use agent::config::ArmingConfig;
use agent::execute::course::Course;
use agent::execute::lock::{LockState, Phase};
use agent::execute::quarantine::{self, Holder, Quarantine};
use agent::execute::{Executor as _, Task};
use agent::host::{Host, Superuser};
use agent::status::{LockStatus, QuarantineStatus};
use protocol::action::{self, LockLevel};
use protocol::fixture::command;
use protocol::time::Timestamp;

use crate::bench::{Bench, GUARD, until};
use crate::host::Anybody;
use crate::netns::{ENDPOINT, HUB, Lan, SILENCE, tcp_answers};

const GATE: &str = "# tocsin lock: begin";

/// What the hub saw of the endpoint in the moment of its first connection.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    is_open_to_others: bool,
    is_gated: bool,
}

/// An endpoint's root with what a lock needs of it.
pub(crate) fn write_root(root: &Path) {
    fs::create_dir_all(root.join("etc/pam.d")).unwrap();
    fs::create_dir_all(root.join("run")).unwrap();
    let passwd = "root:x:0:0:root:/root:/bin/sh\nrescue:x:1900:1900::/home/rescue:/bin/sh\n";
    for (name, text) in [
        ("passwd", passwd),
        ("shadow", "root:*:19000:0:99999:7:::\nrescue:x:19000:0:99999:7:::\n"),
        (".pwd.lock", ""),
        ("pam.d/common-account", "account required pam_permit.so\n"),
    ] {
        fs::write(root.join("etc").join(name), text).unwrap();
    }
}

/// The record of a lock, as its executor leaves it.
pub(crate) fn write_lock(host: &Host) {
    let state = LockState {
        phase: Phase::Locked,
        command_id: command(8),
        envelope: "the envelope".to_owned(),
        offline_code: None,
        level: LockLevel::Session,
        message: None,
        break_glass: vec!["rescue".to_owned()],
        strangers: Vec::new(),
        superuser: Superuser::default(),
        applied_at: Timestamp::default(),
    };
    fs::write(host.state_dir.join("lock.json"), serde_json::to_vec(&state).unwrap()).unwrap();
}

/// A hub that only looks: at the endpoint, when somebody connects for the first time.
fn watch(lan: &Lan, service: SocketAddr, gate: &Path) -> (SocketAddr, Receiver<Seen>) {
    let (address, gate) = (format!("{}:0", HUB[0]), gate.to_owned());
    lan.peer.run(move || {
        let listener = TcpListener::bind(address).unwrap();
        let at = listener.local_addr().unwrap();
        let (told, seen) = sync_channel(1);
        thread::spawn(move || {
            let _connection = listener.accept().unwrap();
            let is_gated = fs::read_to_string(gate).unwrap().contains(GATE);
            let is_open_to_others = TcpStream::connect_timeout(&service, SILENCE).is_ok();
            told.send(Seen { is_open_to_others, is_gated }).unwrap();
        });
        (at, seen)
    })
}

/// What nft says in the namespace of this thread.
fn nft(words: &str) -> String {
    let output = Command::new("nft").args(words.split(' ')).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn quarantine_and_lock_stand_again_before_the_first_connection() {
    let lan = Lan::new();
    let mut bench = Bench::new();
    let root = bench.config.state_dir.with_file_name("root");
    write_root(&root);
    bench.config.host.arming = ArmingConfig::Sandboxed;
    bench.config.host.root = root.clone();
    bench.config.host.dbus = Some(String::new());
    bench.config.ladder.uphold = Duration::from_millis(50);
    let mut host = bench.config.host();
    write_lock(&host);
    host.control_plane = vec![lan.peer_echo(HUB[1], 0)];
    host.recognise = Arc::new(Anybody);
    lan.endpoint.run(move || {
        let (envelope, started_at) = ("the envelope".to_owned(), Timestamp::default());
        let task = Task {
            command_id: command(9),
            envelope,
            started_at,
            script: None,
            course: Course::default(),
        };
        Quarantine::new(action::Quarantine { allow: Vec::new(), resolver: false, until: None })
            .apply(&host, &task)
            .unwrap();
        assert!(quarantine::current(&host).unwrap().unwrap().is_confirmed);
    });
    // The reboot.
    lan.endpoint.command("nft", &["flush", "ruleset"]);
    let service = lan.endpoint_echo(ENDPOINT[0]);
    assert!(tcp_answers(&lan.peer, service, GUARD));
    let gate = root.join("etc/pam.d/common-account");
    let (hub, seen) = watch(&lan, service, &gate);
    bench.config.addresses.hubs = vec![hub.to_string()];
    bench.config.addresses.api = vec![hub.to_string()];

    lan.endpoint.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let agent = bench.start();
            let seen = tokio::task::spawn_blocking(move || seen.recv_timeout(GUARD));
            let seen = seen.await.unwrap().expect("the agent connects through its quarantine");
            assert_eq!(seen, Seen { is_open_to_others: false, is_gated: true });
            until(|| agent.status().quarantine != QuarantineStatus::Open).await;
            let QuarantineStatus::Confirmed { command_id, level: Some(level), until: None } =
                agent.status().quarantine
            else {
                panic!("{:?}", agent.status().quarantine)
            };
            assert_eq!(command_id, command(9));
            // As the table itself says: the kernel names its owner, where it can have one.
            let table = nft("list table inet tocsin");
            let held_by = if table.contains("flags owner") { Holder::Owner } else { Holder::Watch };
            assert_eq!(level.held_by, held_by, "{table}");
            let judged = nft("list tables").contains("table netdev tocsin");
            assert_eq!(level.egress, judged);
            let (level, command_id) = (LockLevel::Session, command(8));
            let (superuser, break_glass) = (Superuser::default(), vec!["rescue".to_owned()]);
            let locked = LockStatus::Locked { level, command_id, superuser, break_glass };
            assert_eq!(agent.status().lock, locked);
            // Somebody flushes it away, or opens it: it does not stay so.
            for words in ["flush ruleset", "insert rule inet tocsin output accept"] {
                let before = nft("list table inet tocsin");
                nft(words);
                until(|| nft("list table inet tocsin") == before).await;
            }
            agent.drain().await.unwrap();
        });
    });
}
