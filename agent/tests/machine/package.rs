//! The agent's Debian package on a machine: what it brings, what it refuses, and that it leaves
//! nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use tempfile::TempDir;

use crate::container::Machine;
use crate::doors::{assert_same, tree};
use crate::on_a_machine;
use crate::scene::{ENABLED, people, source};

/// Records of a wipe, whose files have odd names.
const UNFINISHED: &str = r#"{"finished":false,"files":["/etc/\"finished\":true"]}"#;
pub(crate) const FINISHED: &str = r#"{"finished":true,"files":["/etc/\"finished\":false"]}"#;

#[test]
fn package_arms_nothing_and_leaves_nothing() {
    on_a_machine("package::package_arms_nothing_and_leaves_nothing", || async {
        let mut machine = Machine::new();
        people(&machine);
        let (_folder, package) = build("deb");
        fs::copy(package, machine.path("/root/agent.deb")).unwrap();
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
        machine.write("/var/lib/tocsin-agent/wipe.json", UNFINISHED, 0o600);
        let refused = machine.enter(&["dpkg", "--remove", "tocsin-agent"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("delete that file"), "{said}");
        // One that ended, as after a selective wipe, is remembered and hinders nobody once the doors are open.
        machine.write("/var/lib/tocsin-agent/wipe.json", FINISHED, 0o600);
        machine.write("/var/lib/tocsin-agent/wipe-doors.json", "{}", 0o600);
        assert!(!machine.succeeds("dpkg --remove tocsin-agent"), "they are closed");
        fs::remove_file(machine.path("/var/lib/tocsin-agent/wipe-doors.json")).unwrap();

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
    let (_folder, package) = build("rpm");
    let listed = Command::new("rpm").args(["-qplv", &package]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut found: Vec<_> = listed
        .lines()
        .map(|line| (&line[..10], line.rsplit(' ').next().unwrap()))
        .filter(|(_, path)| !path.starts_with("/usr/share/doc/"))
        .collect();
    found.sort_by_key(|(_, path)| *path);
    let expected = [
        ("drwxr-xr-x", "/etc/tocsin"),
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
    let flags = ["-qp", "--queryformat", "[%{FILEFLAGS:fflags} %{FILENAMES}\n]", &package];
    let flags = Command::new("rpm").args(flags).output().unwrap();
    let kept = "\ncn /etc/tocsin/agent.toml\n";
    assert!(String::from_utf8(flags.stdout).unwrap().contains(kept), "what somebody wrote stays");
}

#[test]
fn rpm_is_removed_after_a_wipe_and_not_in_the_middle_of_one() {
    let (_built, package) = build("rpm");
    let query = ["-qp", "--queryformat", "%{PREUN}", &package];
    let script = Command::new("rpm").args(query).output().unwrap();
    let script = String::from_utf8(script.stdout).unwrap();
    assert!(script.contains("/var/lib/tocsin-agent"), "{script}");
    let folder = tempfile::tempdir().unwrap();
    let script = script.replace("/var/lib/tocsin-agent", folder.path().to_str().unwrap());
    // It must not reach the services of the machine that tests it.
    let systemctl = folder.path().join("systemctl");
    fs::write(&systemctl, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let removes = || {
        let mut shell = Command::new("/bin/sh");
        let output = shell.args(["-c", &script, "preun", "0"]).env("PATH", &path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // No command ends a wipe.
        let is_told = said.contains("order a wipe that ends") != said.contains("by command first");
        assert_eq!(is_told, !output.status.success(), "{said}");
        output.status.success()
    };
    assert!(removes(), "nothing is under way");
    for (name, record, is_removed) in [
        ("lock", "{}", false),
        ("wipe", UNFINISHED, false),
        ("wipe", "what nobody can read", false),
        ("wipe", FINISHED, true),
        ("wipe-doors", "{}", false),
    ] {
        let file = folder.path().join(format!("{name}.json"));
        fs::write(&file, record).unwrap();
        assert_eq!(removes(), is_removed, "{name}: {record}");
        fs::remove_file(file).unwrap();
    }
}

/// Builds a package of this build's agent: the folder that it goes away with, and its path.
fn build(kind: &str) -> (TempDir, String) {
    build_version(kind, env!("CARGO_PKG_VERSION"))
}

/// The same under that version.
pub(crate) fn build_version(kind: &str, version: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(source("scripts/package"))
        .args([kind, env!("CARGO_BIN_EXE_tocsin-agent"), folder.path().to_str().unwrap()])
        .env("TOCSIN_PACKAGE_VERSION", version)
        .env("TOCSIN_PACKAGE_COMPRESSION", "none")
        .env("TOCSIN_PACKAGE_PAYLOAD", "w0.gzdio")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "a package needs dpkg-deb, strip (binutils) and rpm: {said}");
    (folder, String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
}
