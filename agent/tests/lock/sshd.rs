//! The real `sshd` on the sandbox's endpoint, and a key that is good for everybody on it.
//!
//! Server and client talk through a pipe (`sshd -i`), so there is no port.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sandbox::Sandbox;

const CONFIG: &str = "HostKey /etc/ssh/host_key
UsePAM yes
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile /etc/ssh/authorized_keys
";

/// A server that takes a key for every user.
#[derive(Debug)]
pub(crate) struct Sshd {
    root: PathBuf,
}

impl Sshd {
    /// Makes the keys and the configuration.
    pub(crate) fn start(sandbox: &Sandbox) -> Self {
        sandbox.write("/etc/ssh/sshd_config", CONFIG, 0o644);
        fs::create_dir_all(sandbox.host.path("/run/sshd")).unwrap();
        for (name, mode) in [("host_key", 0o600), ("user_key", 0o600)] {
            let path = format!("/etc/ssh/{name}");
            let made =
                sandbox.chroot(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path]);
            assert!(made.status.success(), "{made:?}");
            sandbox.write(&path, &sandbox.read(&path), mode);
        }
        sandbox.write("/etc/ssh/authorized_keys", &sandbox.read("/etc/ssh/user_key.pub"), 0o644);
        Self { root: sandbox.host.root.clone() }
    }

    /// Whether a user who holds the key gets a command run.
    pub(crate) fn lets_in(&self, user: &str) -> bool {
        let root = self.root.display();
        let server =
            format!("ProxyCommand=/usr/sbin/chroot {root} /usr/sbin/sshd -i -E /tmp/sshd.log");
        let output = Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentityAgent=none", "-o", &server])
            .arg("-i")
            .arg(self.root.join("etc/ssh/user_key"))
            .arg(format!("{user}@endpoint"))
            .args(["echo", "inside"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        output.stdout == b"inside\n"
    }

    /// What the server noted.
    pub(crate) fn log(&self) -> String {
        let path: &Path = &self.root.join("tmp/sshd.log");
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }
}
