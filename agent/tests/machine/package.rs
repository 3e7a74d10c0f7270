//! The agent's Debian package on a machine: what it brings, what it refuses, and that it leaves
//! nothing.

use std::fs;
use std::process::Command;

use crate::container::Machine;
use crate::doors::{assert_same, tree};
use crate::on_a_machine;
use crate::scene::{ENABLED, people, source};

#[test]
fn package_arms_nothing_and_leaves_nothing() {
    on_a_machine("package::package_arms_nothing_and_leaves_nothing", || async {
        let mut machine = Machine::new();
        people(&machine);
        fs::copy(build("deb"), machine.path("/root/agent.deb")).unwrap();
        machine.boot();
        let before = tree(&machine);

        machine.sh("dpkg --install /root/agent.deb");
        for unit in ENABLED {
            assert_eq!(machine.sh(&format!("systemctl is-enabled {unit}")), "enabled", "{unit}");
        }
        assert!(!machine.succeeds("systemctl is-active --quiet tocsin-agent.service"));
        for unit in ["tocsin-agent-watch.timer", "tocsin-console.path"] {
            assert!(machine.succeeds(&format!("systemctl is-active --quiet {unit}")), "{unit}");
        }
        let modes = machine.sh("stat -c '%a %U' /var/lib/tocsin-agent /etc/tocsin/agent.toml");
        assert_eq!(modes, "700 root\n600 root");
        assert!(machine.read("/etc/tocsin/agent.toml").contains("\narming = \"off\"\n"));
        assert!(machine.sh("tocsin-agent --version").starts_with("tocsin-agent "));

        // Its PAM profile lets everybody pass, until a lock says who may.
        assert!(machine.lets_in("alice", None));
        machine.write("/etc/tocsin-lock.allow", "rescue\n", 0o644);
        assert!(!machine.lets_in("alice", None));
        assert!(machine.lets_in("rescue", None));
        fs::remove_file(machine.path("/etc/tocsin-lock.allow")).unwrap();

        machine.write("/var/lib/tocsin-agent/lock.json", "{}", 0o600);
        let refused = machine.enter(&["dpkg", "--remove", "tocsin-agent"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("under a lock"), "{said}");
        assert!(machine.path("/usr/bin/tocsin-agent").exists());
        fs::remove_file(machine.path("/var/lib/tocsin-agent/lock.json")).unwrap();

        machine.write("/var/lib/tocsin-agent/device.key", "who this is", 0o600);
        machine.sh("dpkg --remove tocsin-agent");
        assert!(machine.path("/var/lib/tocsin-agent/device.key").exists(), "it may come back");
        assert!(!machine.succeeds("systemctl cat tocsin-agent.service"));
        machine.sh("dpkg --purge tocsin-agent");
        assert!(!machine.path("/var/lib/tocsin-agent").exists());
        assert_same(&before, &tree(&machine));
        assert!(machine.lets_in("alice", None));
    });
}

#[test]
fn rpm_brings_the_same_with_the_same_modes() {
    let listed = Command::new("rpm").args(["-qplv", &build("rpm")]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut found: Vec<_> = listed
        .lines()
        .map(|line| (&line[..10], line.rsplit(' ').next().unwrap()))
        .filter(|(_, path)| !path.starts_with("/usr/share/doc/"))
        .collect();
    found.sort_by_key(|(_, path)| *path);
    let expected = [
        ("-rw-------", "/etc/tocsin/agent.toml"),
        ("-rwxr-xr-x", "/usr/bin/tocsin-agent"),
        ("-rw-r--r--", "/usr/lib/systemd/system/tocsin-agent-watch.service"),
        ("-rw-r--r--", "/usr/lib/systemd/system/tocsin-agent-watch.timer"),
        ("-rw-r--r--", "/usr/lib/systemd/system/tocsin-agent.service"),
        ("-rw-r--r--", "/usr/lib/systemd/system/tocsin-console.path"),
        ("-rw-r--r--", "/usr/lib/systemd/system/tocsin-console.service"),
        ("-rw-r--r--", "/usr/lib/systemd/system/tocsin-reassert.service"),
        ("drwx------", "/var/lib/tocsin-agent"),
    ];
    assert_eq!(found, expected);
}

/// Builds a package of this build's agent.
fn build(kind: &str) -> String {
    let folder = tempfile::tempdir().unwrap().keep();
    let output = Command::new(source("scripts/package"))
        .args([kind, env!("CARGO_BIN_EXE_tocsin-agent"), folder.to_str().unwrap()])
        .env("TOCSIN_PACKAGE_COMPRESSION", "none")
        .env("TOCSIN_PACKAGE_PAYLOAD", "w0.gzdio")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "a package needs dpkg-deb, strip (binutils) and rpm: {said}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
