//! Where the demo happens: one folder with everything in it, and what this machine allows.
//!
//! Owns paths and the finding of tools. Starts nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use runtime::Entropy;

use crate::platform::Config;

/// Address of the router inside the sandbox, by which its device reaches hub and control plane.
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Port of the control plane's relay on the router.
pub(super) const API_PORT: u16 = 7443;
/// Port of the hub's relay on the router.
pub(super) const HUB_PORT: u16 = 7444;

/// The demo's folder. A temporary one is removed in the end, however that comes.
#[derive(Debug)]
pub(super) struct Stage {
    folder: PathBuf,
    is_temporary: bool,
}

impl Stage {
    /// Makes the folder, mode 0700.
    pub(super) fn build(data: Option<&Path>) -> std::io::Result<Self> {
        let folder = data.map_or_else(temporary, Path::to_owned);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder: folder.canonicalize()?, is_temporary: data.is_none() })
    }

    /// A path in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The operator's profile.
    pub(super) fn profile(&self) -> PathBuf {
        self.path("profile.toml")
    }

    /// The platform on free ports of loopback, known inside the sandbox as the router.
    pub(super) fn platform_config(&self) -> Config {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = Config { admin_listen: anywhere, ..Config::default() };
        config.api.data_dir = self.path("platform");
        config.api.operator_listen = anywhere;
        config.api.agent_listen = anywhere;
        config.api.server_names = vec!["127.0.0.1".to_owned(), ROUTER.to_string()];
        config.hub.listen = anywhere;
        config
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_temporary {
            // What cannot be removed is in the folder for temporary files anyway.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

fn temporary() -> PathBuf {
    let random = u64::from_le_bytes(Entropy::system().bytes());
    std::env::temp_dir().join(format!("tocsin-demo-{random:016x}"))
}

/// What this machine allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Means {
    /// Network namespaces.
    pub(super) namespaces: bool,
    /// LUKS volumes in files.
    pub(super) luks: bool,
}

impl Means {
    /// Tries each once, in a namespace of its own.
    pub(super) fn find() -> Self {
        let mut unshare = Command::new("unshare");
        if !nix::unistd::Uid::effective().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare.args(["--net", "ip", "link", "set", "lo", "up"]);
        Self { namespaces: succeeds(unshare), luks: succeeds(with("cryptsetup", "--version")) }
    }

    /// The line that brings what is missing on Debian and its kin; `None` when nothing is.
    pub(super) const fn remedy(self) -> Option<&'static str> {
        match (self.namespaces, self.luks) {
            (true, true) => None,
            (false, true) => Some("apt install iproute2 util-linux"),
            (true, false) => Some("apt install cryptsetup-bin"),
            (false, false) => Some("apt install iproute2 util-linux cryptsetup-bin"),
        }
    }
}

fn with(program: &str, argument: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(argument);
    command
}

/// Programs of an administrator are not always on everybody's path.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn succeeds(mut command: Command) -> bool {
    let quiet = command.env("PATH", PATH).stdin(Stdio::null()).stdout(Stdio::null());
    quiet.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
