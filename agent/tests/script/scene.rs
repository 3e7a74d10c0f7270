//! A small endpoint in a chroot with the machine's own programs, in mount and process namespaces of
//! the test's own; and the real supervisor.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use agent::execute::script::RunScript;
use agent::execute::{Executor as _, Task};
use agent::host::Host;
use protocol::action;
use protocol::receipt::{Evidence, Failure};

use crate::namespaces;
use crate::support::host::{sandbox, task};

/// Accounts of the endpoint.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n\
                      swarm:x:65001:65001::/:/usr/sbin/nologin\n";
/// Where scripts lie.
pub(crate) const PLACE: &str = "/run/tocsin-scripts";

/// Runs a test's body in mount and process namespaces of its own.
pub(crate) fn in_namespaces(test: &str, body: impl FnOnce()) {
    namespaces::in_namespaces(&["--mount", "--pid", "--mount-proc"], test, body);
}

/// One endpoint.
pub(crate) struct Scene {
    pub(crate) host: Host,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let (mut host, folder) = sandbox();
        // Nobody removes it: this machine's own folders are in it as long as the namespaces are.
        let _kept = folder.keep();
        host.scripts.supervisor = Some(PathBuf::from(env!("CARGO_BIN_EXE_tocsin-agent")));
        for name in ["etc", "run", "tmp", "proc", "dev", "usr"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        show(Path::new("/usr"), &host);
        show(Path::new("/dev"), &host);
        mount(&["-t", "proc", "proc", text(&host.path("/proc"))]);
        for name in ["bin", "sbin", "lib", "lib64"] {
            let own = Path::new("/").join(name);
            match fs::read_link(&own) {
                Ok(target) => symlink(target, host.path(&own)).unwrap(),
                Err(_) if own.is_dir() => {
                    fs::create_dir(host.path(&own)).unwrap();
                    show(&own, &host);
                }
                Err(_) => {}
            }
        }
        fs::write(host.path("/etc/passwd"), PASSWD).unwrap();
        Self { host }
    }

    /// A folder of the endpoint that everybody may write to, where effects are counted.
    pub(crate) fn effects(&self) -> usize {
        fs::read_to_string(self.host.path("/tmp/effects")).unwrap_or_default().lines().count()
    }

    /// The folder of that command's script.
    pub(crate) fn folder(&self, task: &Task) -> PathBuf {
        self.host.path(PLACE).join(task.command_id.to_string())
    }
}

/// Shows a folder of this machine in the endpoint, where nothing can be removed from it.
fn show(own: &Path, host: &Host) {
    mount(&["--bind", "-o", "ro", text(own), text(&host.path(own))]);
}

pub(crate) fn mount(arguments: &[&str]) {
    let status = Command::new("mount").args(arguments).status();
    assert!(status.expect("util-linux is installed").success(), "mount {arguments:?}");
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// One order to run a script.
pub(crate) struct Run {
    pub(crate) executor: RunScript,
    pub(crate) task: Task,
}

impl Run {
    pub(crate) fn of(script: &str) -> Self {
        Self::with(script, |_| ())
    }

    pub(crate) fn with(script: &str, change: impl FnOnce(&mut action::RunScript)) -> Self {
        let mut params = action::RunScript::of(script, Vec::new(), 600);
        change(&mut params);
        let task = Task { script: Some(script.to_owned()), ..task(1) };
        Self { executor: RunScript::new(params), task }
    }

    /// The way that every command goes.
    pub(crate) fn carry_out(&self, scene: &Scene) -> Result<Evidence, Failure> {
        self.executor.plan(&scene.host, &self.task)?;
        self.executor.apply(&scene.host, &self.task)?;
        self.executor.prove(&scene.host, &self.task)
    }

    pub(crate) fn succeed(&self, scene: &Scene) -> Evidence {
        self.carry_out(scene).unwrap()
    }

    pub(crate) fn remains(&self, scene: &Scene) -> Evidence {
        self.executor.remains(&scene.host, &self.task)
    }
}

/// The lines of an output.
pub(crate) fn lines(evidence: &Evidence, name: &str) -> Vec<String> {
    serde_json::from_value(evidence.get(name).unwrap().clone()).unwrap()
}

/// Waits for a condition; the guard is against hanging only.
pub(crate) fn until(what: &str, is: impl Fn() -> bool) {
    for _ in 0..24_000 {
        if is() {
            return;
        }
        thread::park_timeout(Duration::from_millis(10));
    }
    panic!("waited in vain: {what}");
}

/// Processes of these namespaces whose command line has that word.
pub(crate) fn processes(word: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(word).then_some(pid)
    });
    pids.collect()
}
