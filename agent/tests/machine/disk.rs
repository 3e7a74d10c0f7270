//! The disk of a machine of the bench, seen from outside while the machine is off, and the network between
//! machine and test.
//!
//! An overlay over the Debian root, which ends with the test. How a machine is started from it is the part of
//! `container` and `vm`; nothing of either is known here.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::bench::BRIDGE;
use crate::root;

/// The machine's address; the test is at [`BRIDGE`].
pub(crate) const ADDRESS: &str = "10.78.0.2";
/// Brings the machine's side of the cable up, as a real machine's network scripts would.
const NETWORK_UNIT: &str = "[Unit]
DefaultDependencies=no
After=network-pre.target
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip address add 10.78.0.2/24 dev host0
ExecStart=/usr/sbin/ip link set host0 up
[Install]
WantedBy=sysinit.target
";

/// What both kinds of machine have.
pub(crate) struct Disk {
    /// Its root directory, seen from outside.
    pub(crate) root: PathBuf,
    /// A folder beside it, which no machine sees.
    pub(crate) base: PathBuf,
}

impl Disk {
    /// The disk of a machine that is off, and the network that it will find.
    pub(crate) fn new() -> Self {
        let lower = root::debian();
        let base = tempfile::tempdir().unwrap().keep();
        run("mount", &["-t", "tmpfs", "tocsin-machine", text(&base)]);
        let [upper, work, root] = ["upper", "work", "root"].map(|name| base.join(name));
        for folder in [&upper, &work, &root] {
            fs::create_dir(folder).unwrap();
        }
        let [low, up, space] = [&lower, &upper, &work].map(|path| path.display());
        let options = format!("lowerdir={low},upperdir={up},workdir={space}");
        run("mount", &["-t", "overlay", "tocsin-machine", "-o", &options, text(&root)]);
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", "bench", "type", "bridge"]);
        run("ip", &["address", "add", &format!("{BRIDGE}/24"), "dev", "bench"]);
        run("ip", &["link", "set", "bench", "up"]);
        let disk = Self { root, base };
        disk.write("/etc/hosts", "127.0.0.1 localhost machine\n", 0o644);
        disk.write("/etc/hostname", "machine\n", 0o644);
        disk.write("/etc/systemd/system/bench-network.service", NETWORK_UNIT, 0o644);
        disk.offline(&["systemctl", "enable", "bench-network.service"]);
        disk
    }

    /// A path of the machine, seen from outside.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Writes a file onto the machine's disk.
    pub(crate) fn write(&self, path: &str, content: &str, mode: u32) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Reads a file of the machine's disk.
    pub(crate) fn read(&self, path: &str) -> String {
        let path = self.path(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Runs a program on the disk of a machine that is off.
    pub(crate) fn offline(&self, command: &[&str]) -> String {
        let output = Command::new("chroot").arg(&self.root).args(command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether somebody gets a command run over SSH from outside, by password or, without one, by
    /// the key.
    pub(crate) fn lets_in(&self, user: &str, password: Option<&str>) -> bool {
        self.ssh(user, password, "echo inside").stdout == b"inside\n"
    }

    /// A command of somebody who logs in over SSH.
    pub(crate) fn ssh(&self, user: &str, password: Option<&str>, command: &str) -> Output {
        let (key, answer) = (self.base.join("key"), self.base.join("answer"));
        if !key.exists() {
            self.make_key(&key);
        }
        let script = format!("#!/bin/sh\necho '{}'\n", password.unwrap_or_default());
        fs::write(&answer, script).unwrap();
        fs::set_permissions(&answer, fs::Permissions::from_mode(0o700)).unwrap();
        let method = if password.is_some() { "password" } else { "publickey" };
        Command::new("ssh")
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "IdentityAgent=none"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "NumberOfPasswordPrompts=1"])
            .args(["-o", &format!("PreferredAuthentications={method}"), "-i", text(&key)])
            .args([&format!("{user}@{ADDRESS}"), command])
            .env("SSH_ASKPASS", &answer)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .stdin(Stdio::null())
            .output()
            .expect("the bench needs ssh (Debian package openssh-client)")
    }

    /// A key that opens every account that has a home.
    fn make_key(&self, key: &Path) {
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", text(key)]);
    }

    /// Puts the bench's key into an account's home.
    pub(crate) fn authorise(&self, user: &str, home: &str) {
        let key = self.base.join("key");
        if !key.exists() {
            self.make_key(&key);
        }
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        self.write(&format!("{home}/.ssh/authorized_keys"), &public, 0o600);
        self.offline(&["chown", "-R", &format!("{user}:"), &format!("{home}/.ssh")]);
    }
}

pub(crate) fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "the bench needs to run `{program} {}`: {said}",
        args.join(" ")
    );
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
