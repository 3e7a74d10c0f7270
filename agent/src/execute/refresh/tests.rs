//! The inventory of a sandbox, honest and hostile.

use serde_json::{Value, json};

use super::{Refresh, TEXT_CHARS, limits};
use crate::execute::{Executor, fixtures};

#[test]
fn inventory_names_host_system_and_volumes() {
    let mut sandbox = fixtures::Sandbox::new();
    sandbox.write("/etc/hostname", "web-17\n");
    sandbox.write("/etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n");
    sandbox.write("/proc/sys/kernel/osrelease", "6.1.0-amd64\n");
    sandbox.write("/proc/uptime", "3723.41 900.00\n");
    let luks = sandbox.write("/disk", b"LUKS\xba\xbe\x00\x02");
    let plain = sandbox.write("/plain", [0; 512]);
    sandbox.host.wipe_targets = vec![luks.clone(), plain.clone(), "/nonexistent".into()];

    let evidence = Refresh.prove(&sandbox.host, &fixtures::task(1)).unwrap();
    let expected = json!({
        "agent_version": env!("CARGO_PKG_VERSION"),
        "hostname": "web-17",
        "kernel": "6.1.0-amd64",
        "os": "Debian GNU/Linux 12",
        "uptime_secs": 3723,
        "volumes": [
            { "path": super::printable(&luks.to_string_lossy()), "encrypted": true, "destroyable": false },
            { "path": super::printable(&plain.to_string_lossy()), "encrypted": false, "destroyable": false },
            { "path": "/nonexistent", "encrypted": null, "destroyable": null },
        ],
    });
    assert_eq!(serde_json::to_value(evidence).unwrap(), expected);
}

#[test]
fn hostile_texts_are_bounded_and_stripped() {
    let sandbox = fixtures::Sandbox::new();
    sandbox.write("/etc/hostname", format!("a\u{1b}[2J\u{202e}b{}", "x".repeat(100_000)));
    let evidence = Refresh.prove(&sandbox.host, &fixtures::task(1)).unwrap();
    let Some(Value::String(hostname)) = evidence.get("hostname") else { panic!("no hostname") };
    assert!(hostname.starts_with("a[2Jbxxx"));
    assert_eq!(hostname.chars().count(), TEXT_CHARS);
}

#[test]
fn empty_host_has_an_inventory_too() {
    let sandbox = fixtures::Sandbox::new();
    let evidence = Refresh.prove(&sandbox.host, &fixtures::task(1)).unwrap();
    assert_eq!(evidence.get("hostname"), Some(&Value::Null));
    assert_eq!(evidence.get("uptime_secs"), Some(&Value::Null));
}

#[test]
fn volumes_are_bounded_and_the_rest_is_counted() {
    let mut sandbox = fixtures::Sandbox::new();
    let path = |n: usize| sandbox.host.root.join(format!("a\u{202e}{n}"));
    sandbox.host.wipe_targets = (0..limits::LIST_ENTRIES + 3).map(path).collect();
    let evidence = Refresh.prove(&sandbox.host, &fixtures::task(1)).unwrap();
    let volumes = evidence.get("volumes").unwrap().as_array().unwrap();
    assert_eq!(volumes.len(), limits::LIST_ENTRIES);
    assert!(volumes.iter().all(|volume| !volume["path"].as_str().unwrap().contains('\u{202e}')));
    assert_eq!(evidence.get("volumes_unnamed"), Some(&3.into()));
}
