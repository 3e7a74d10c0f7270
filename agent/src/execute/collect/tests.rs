//! What is collected of a made-up endpoint and of this very machine, and that only the case reads it.
//! `tests/sources` has what is beyond the first look.

use std::time::Duration;

use nix::sys::stat::Mode;
use protocol::action;
use protocol::limits;
use protocol::sealed::CaseSecret;
use serde_json::Value;

use super::CollectEvidence;
use super::look::{self, DOCUMENT_BYTES, collect, fitting, short};
use crate::execute::course::Course;
use crate::execute::fixtures::{Sandbox, task};
use crate::execute::{Executor as _, Task, sha256_hex};
use crate::host::Host;

mod sources;

/// Only against hanging.
const GUARD: Duration = Duration::from_secs(120);

fn case() -> CaseSecret {
    CaseSecret::new([9; 32])
}

/// The evidence of a host, and what the case reads in it.
fn collected(host: &Host, task: &Task) -> (Value, Value) {
    let executor = CollectEvidence::new(action::CollectEvidence {
        case_key: case().public().unwrap(),
        sources: None,
    });
    executor.plan(host, task).unwrap();
    executor.apply(host, task).unwrap();
    let evidence = serde_json::to_value(executor.prove(host, task).unwrap()).unwrap();
    let sealed = evidence["sealed"].as_str().unwrap();
    let opened = case().open(sealed, task.command_id.to_string().as_bytes()).unwrap();
    assert_eq!(evidence["evidence_sha256"], sha256_hex(&opened));
    (evidence.clone(), serde_json::from_slice(&opened).unwrap())
}

#[test]
fn hostile_endpoint_is_read_and_only_the_case_sees_it() {
    let sandbox = Sandbox::new();
    let stat = "7 (a) b\u{1b}[2J) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 4711 0";
    sandbox.write("/proc/7/stat", stat);
    sandbox.write("/proc/7/status", "Name:\tx\nUid:\t1000\t1000\t1000\t1000\n");
    sandbox.write("/proc/7/cmdline", "evil\0--secret\0");
    sandbox.write("/proc/net/tcp", "  sl  local_address rem_address\n   0: 0100007F:1F90 0:0\n");
    sandbox.write("/run/systemd/sessions/3", "UID=0\nUSER=root\nREMOTE_HOST=203.0.113.9\n");
    sandbox.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    sandbox.write("/proc/uptime", "1 1\n");
    sandbox.write("/proc/sys/kernel/random/boot_id", "00000000-0000-0000-0000-000000000000\n");
    let (evidence, document) = collected(&sandbox.host, &task(1));
    assert_eq!(document["processes"][0], "7 1 1000 4711 [a) b\u{1b}[2J] evil --secret");
    assert_eq!(document["sockets"][1], "0: 0100007F:1F90 0:0");
    assert_eq!(document["sessions"][0], "3 USER=root REMOTE_HOST=203.0.113.9");
    assert_eq!(document["accounts"][0], "root:x:0:0::/root:/bin/sh");
    let signed = evidence.to_string();
    for secret in ["evil", "203.0.113.9", "/bin/sh"] {
        assert!(!signed.contains(secret), "{secret} is not sealed");
    }
    let sections = evidence["sections"].as_array().unwrap();
    assert_eq!(sections.len(), look::SECTIONS.len());
    assert!(sections.iter().all(|section| section["bytes"] == section["kept"]), "{sections:?}");
}

#[test]
fn endless_sections_are_cut_and_say_so_and_all_of_it_fits_into_a_receipt() {
    let sandbox = Sandbox::new();
    for path in ["/proc/net/tcp", "/proc/modules", "/proc/1/mounts", "/etc/passwd"] {
        // Each character is six in JSON.
        sandbox.write(path, "\u{1}\u{2}x\n".repeat(100_000));
    }
    for pid in 1..500 {
        let stat = format!("{pid} (p) S 1 0 0 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 {pid} 0");
        sandbox.write(&format!("/proc/{pid}/stat"), stat);
    }
    sandbox.write("/proc/uptime", "1 1\n");
    sandbox.write("/proc/sys/kernel/random/boot_id", "00000000-0000-0000-0000-000000000000\n");
    let (evidence, document) = collected(&sandbox.host, &task(1));
    assert!(serde_json::to_vec(&document).unwrap().len() <= DOCUMENT_BYTES);
    let text = evidence.to_string();
    // As a JWS has it: base64url of all claims, with room for the others.
    assert!((text.len() + 1024) * 4 / 3 + 400 < limits::RECEIPT_BYTES, "{} bytes", text.len());
    let sections = evidence["sections"].as_array().unwrap();
    let cut = sections
        .iter()
        .filter(|section| section["kept"].as_u64().unwrap() < section["bytes"].as_u64().unwrap());
    assert_eq!(cut.count(), 5);
    assert!(document["processes"][0].as_str().unwrap().starts_with("499 1 "), "the youngest first");
}

#[test]
fn this_very_machine_is_read() {
    let mut sandbox = Sandbox::new();
    sandbox.host.root = "/".into();
    let (_, document) = collected(&sandbox.host, &task(1));
    assert!(!document["processes"].as_array().unwrap().is_empty());
    assert!(!document["mounts"].as_array().unwrap().is_empty());
}

#[test]
fn one_endless_line_hides_no_other() {
    let lines = ["\u{1}".repeat(5000), "an honest line".to_owned()].map(|line| short(&line));
    assert_eq!(fitting(&lines, 2000), ["an honest line"]);
    assert_eq!(fitting(&lines, 6000).len(), 2);
}

#[test]
fn what_cannot_be_read_costs_its_own_section_and_says_so() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    sandbox.write("/proc/net/udp", "");
    // Whoever opens it waits for somebody who writes.
    let path = sandbox.host.path("/proc/net/tcp");
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut patience = Duration::from_millis(200);
    let (late, document) = loop {
        let (mut sections, document) = collect(&sandbox.host, patience, &Course::default());
        sections.retain(|section| section["timed_out"] == true);
        // On a busy machine others may be late as well.
        if sections.len() <= 1 || patience > GUARD {
            break (sections, document);
        }
        patience *= 2;
    };
    assert_eq!(late.len(), 1, "{late:?}");
    assert_eq!((&late[0]["name"], &late[0]["bytes"]), (&"sockets".into(), &0.into()));
    let modules = document["modules"][0].as_str().unwrap();
    assert!(modules.starts_with("/proc/modules: No such file"), "{modules}");
    assert_eq!(document["accounts"][0], "root:x:0:0::/root:/bin/sh");
}
