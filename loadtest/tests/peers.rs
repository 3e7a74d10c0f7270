//! The comparison with the real servers of Debian's packages, tiny.

use std::path::PathBuf;
use std::process::Command;

use loadtest::peers::{Comparison, Measured, Server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tocsin-loadtest");

#[test]
fn every_peer_is_measured_beside_tocsin() {
    let tocsin = PathBuf::from(PROGRAM).with_file_name("tocsin");
    let programs = [
        tocsin.clone(),
        "/usr/sbin/nats-server".into(),
        "/usr/sbin/nginx".into(),
        "/usr/lib/nginx/modules/ngx_nchan_module.so".into(),
        "/usr/sbin/mosquitto".into(),
    ];
    if let Some(missing) = programs.iter().find(|program: &&PathBuf| !program.is_file()) {
        println!("skipped: {} is not there; see scripts/packages", missing.display());
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (json, html) = (folder.path().join("peers.json"), folder.path().join("peers.html"));
    let output = Command::new(PROGRAM)
        .args(["peers", "--connections", "10", "--rounds", "1", "--messages", "20"])
        .args(["--rate", "50/s", "--idle-secs", "0", "--broadcasts", "1", "--tocsin"])
        .arg(tocsin)
        .args(["--require", "ratio.nats.unicast_p50_ms>=0", "--json"])
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let text = std::fs::read_to_string(json).expect("the comparison is written");
    let comparison: Comparison = serde_json::from_str(&text).expect("it is one");
    let servers: Vec<_> = comparison.servers.iter().map(|measured| measured.server).collect();
    assert_eq!(servers, Server::ALL);
    for Measured { server, rounds, .. } in &comparison.servers {
        let [round] = &rounds[..] else { panic!("one round: {rounds:?}") };
        assert_eq!(round.unicast_ms.count, 20, "{server:?} {round:?}");
        assert!(round.broadcast_last_ms > 0.0, "{server:?} {round:?}");
        assert!(round.connects_per_sec > 0.0 && round.storm_secs > 0.0, "{server:?} {round:?}");
    }
    assert!(said.contains("in brackets the ratio to tocsin"), "{said}");
    let page = std::fs::read_to_string(html).expect("the page is written");
    assert_eq!(page.matches("<polyline").count(), 4, "one line for each server");
}
