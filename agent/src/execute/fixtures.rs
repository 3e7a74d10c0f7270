//! What the executors' unit tests share: a sandboxed host, tasks, and programs that only tell how they
//! were called.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use protocol::id::CommandId;
use protocol::time::Timestamp;

use super::Task;
use super::course::Course;
use super::quarantine::Firewall;
use crate::addresses::AddressBook;
use crate::host::{Arming, Ground, Host, Power, Psids, ScriptConfig, Superuser, WipedTpm};

/// A host whose every path is below one temporary folder.
pub(crate) struct Sandbox {
    /// The host.
    pub(crate) host: Host,
    _folder: tempfile::TempDir,
}

impl Sandbox {
    /// A new, empty sandbox with a `root` and a `state` folder.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (root, state_dir) = (folder.path().join("root"), folder.path().join("state"));
        for path in [&root, &state_dir] {
            std::fs::create_dir(path).expect("the temporary folder is empty");
        }
        let host = Host {
            root,
            state_dir,
            dbus_address: None,
            control_plane: Vec::new(),
            book: AddressBook::default(),
            recognise: std::sync::Arc::new(crate::recognise::Nobody),
            firewall: Firewall::default(),
            confirm_within: Duration::from_secs(60),
            wipe_targets: Vec::new(),
            company_volumes: Vec::new(),
            company_directories: Vec::new(),
            company_homes: Vec::new(),
            psids: Psids::default(),
            tpm: WipedTpm::default(),
            ground: Ground::default(),
            break_glass: Vec::new(),
            superuser: Superuser::default(),
            power: Power::Recorded(folder.path().join("power.log")),
            arming: Arming::Sandboxed,
            scripts: ScriptConfig::default(),
            course: Course::default(),
        };
        Self { host, _folder: folder }
    }

    /// Writes a file of the endpoint, with its folders.
    pub(crate) fn write(&self, absolute: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.host.path(absolute);
        std::fs::create_dir_all(path.parent().expect("an absolute path has a parent"))
            .expect("the sandbox is writable");
        std::fs::write(&path, content).expect("the sandbox is writable");
        path
    }
}

/// What the system's program at that path is called with by `body`, line by line. It is replaced by
/// one that does nothing else than write that down, in a mount namespace that ends with `body`.
/// `None`, said aloud, where nobody may make one.
pub(crate) fn calls(program: &str, body: impl FnOnce() + Send) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (stand_in, log) = (folder.path().join("program"), folder.path().join("log"));
    let script = format!("#!/bin/sh\necho \"$*\" >> {}\n", log.display());
    std::fs::write(&stand_in, script).expect("the temporary folder is writable");
    let runnable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&stand_in, runnable).expect("it is ours");
    let is_alone = std::thread::scope(|scope| {
        let alone = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
                println!("skipped: no mount namespace ({error}), as for anybody but root");
                return false;
            }
            let (none, private) = (None::<&Path>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
            mount(none, "/", none, private, none).expect("its own mounts");
            mount(Some(&stand_in), program, none, MsFlags::MS_BIND, none).expect("it is installed");
            body();
            true
        });
        alone.join().expect("the body does not panic")
    });
    let log = std::fs::read_to_string(log).unwrap_or_default();
    is_alone.then(|| log.lines().map(str::to_owned).collect())
}

/// The task of the command with that number.
pub(crate) fn task(number: u8) -> Task {
    let started_at = Timestamp::from_millis(1_700_000_000_000);
    Task {
        command_id: CommandId::new(started_at, [number; 10]),
        envelope: format!("envelope-{number}"),
        started_at,
        script: None,
        course: Course::default(),
    }
}
