//! A whole Debian system with systemd as its first process, in namespaces of its own.
//!
//! It is the only place where an armed agent runs in tests, so it must never reach the machine
//! around it: process, mount, network, host name and message namespaces are its own, its root is
//! pivoted, it has no block device, may make none, and meets no bus of the outer machine. Powering
//! it off ends its first process. Everything dies with the test that made it.

use std::fs;
use std::io::Write as _;
use std::ops::Deref;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::disk::{Disk, run, text};
use crate::namespaces::in_namespaces;
use crate::root;
use crate::scene::Body;

/// What the agent may use and its first process has, but a shell that was put into the machine from
/// outside must not have either: the rest of root's capabilities.
const DROPPED: &str = "--bounding-set=-mknod,-sys_module,-sys_rawio,-sys_time,-syslog,-bpf,-perfmon,\
-mac_admin,-mac_override,-wake_alarm,-block_suspend,-sys_pacct";
/// Starts a program in a control group of its own, of that name. Machines in the group of whoever
/// runs the tests would share the groups of their users, and end each other's sessions.
const IN_A_GROUP: &str = "
for top in $(echo \"$1\"); do
    mkdir -p \"$top/$2\" && echo $$ > \"$top/$2/cgroup.procs\" || exit 1
done
shift 2
exec \"$@\"
";
/// The second process of a machine without a service manager.
const RESPAWN: &str = "
ip address add 10.78.0.2/24 dev host0 && ip link set host0 up
while :; do tocsin-agent run --config /etc/tocsin/agent.toml; done
";

/// Where control groups are made: one place where there is the unified hierarchy alone, else the
/// two that a service manager uses.
fn group_tops() -> Vec<&'static str> {
    let tops = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];
    tops.into_iter().filter(|top| Path::new(top).join("cgroup.procs").exists()).collect()
}

/// Runs a test's body where machines may be booted.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    // Its packages come over the network, which ends here.
    root::debian();
    let kinds = ["--mount", "--pid", "--net", "--uts", "--ipc", "--mount-proc"];
    in_namespaces(&kinds, test, body);
}

/// One machine: its disk, and its power.
pub(crate) struct Machine {
    disk: Disk,
    running: Option<Running>,
}

struct Running {
    container: Child,
    /// Its first process, as seen from outside.
    leader: String,
    told: UnixDatagram,
}

impl Deref for Machine {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.disk
    }
}

impl Machine {
    /// A machine that is off. Its disk is an overlay that ends with the test.
    pub(crate) fn new() -> Self {
        let program = Path::new("/usr/bin/systemd-nspawn");
        assert!(program.exists(), "the bench needs {} (systemd-container)", program.display());
        // What nspawn leaves for its own service manager must not reach the outer machine's.
        fs::create_dir_all("/run/systemd").unwrap();
        run("mount", &["-t", "tmpfs", "tocsin-machine", "/run/systemd"]);
        Self { disk: Disk::new(), running: None }
    }

    /// Switches it on, and returns as soon as its first process runs.
    pub(crate) fn switch_on(&mut self) {
        self.start(&["--boot", "--notify-ready=yes"], &[]);
    }

    /// Switches it on without a service manager, a bus or a login manager: its first process only asks how others
    /// ended, and the second starts the agent again whenever it does, as inittab(5) would.
    pub(crate) fn switch_on_without_systemd(&mut self) {
        self.start(&["--as-pid2", "--notify-ready=no"], &["/bin/sh", "-c", RESPAWN]);
    }

    fn start(&mut self, how: &[&str], program: &[&str]) {
        assert!(self.running.is_none(), "the machine runs");
        let socket = self.base.join("told");
        drop(fs::remove_file(&socket));
        let told = UnixDatagram::bind(&socket).unwrap();
        let console = fs::File::create(self.base.join("console")).unwrap();
        let container = Command::new("sh")
            .args(["-c", IN_A_GROUP, "group", &group_tops().join(" "), &self.group()])
            .args(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit"])
            .args(how)
            .args(["--machine=machine", "--network-bridge=bench", "--console=pipe"])
            .args(["--link-journal=no", "--resolv-conf=off", "--timezone=off"])
            .arg("--drop-capability=CAP_MKNOD,CAP_SYS_RAWIO,CAP_SYS_MODULE,CAP_SYS_TIME")
            // A wipe keeps its program in memory.
            .arg("--capability=CAP_IPC_LOCK")
            .args(["--directory", text(&self.root), "--"])
            .args(program)
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        let leader = wait_for(&told, "X_NSPAWN_LEADER_PID=");
        self.running = Some(Running { container, leader, told });
    }

    /// Waits until it has booted, whatever failed on the way.
    pub(crate) fn wait_until_booted(&self) {
        wait_for(&self.running().told, "READY=1");
    }

    /// Switches it on and waits until it has booted.
    pub(crate) fn boot(&mut self) {
        self.switch_on();
        self.wait_until_booted();
    }

    /// Shuts it down in order.
    pub(crate) fn shut_down(&mut self) {
        self.sh("systemctl poweroff --no-block");
        self.wait_until_off();
    }

    /// Waits until it is off, and tells what the container ended with.
    pub(crate) fn wait_until_off(&mut self) -> i32 {
        let mut running = self.running.take().expect("the machine runs");
        running.container.wait().unwrap().code().expect("the container ends by itself")
    }

    /// Takes its power away: nothing in it gets to do anything more.
    pub(crate) fn cut_power(&mut self) {
        let mut running = self.running.take().expect("the machine runs");
        // With its first process all others end, and then the container by itself.
        run("kill", &["-KILL", &running.leader]);
        running.container.wait().unwrap();
    }

    /// Its first process, as seen from outside.
    pub(crate) fn leader(&self) -> &str {
        &self.running().leader
    }

    /// The name of its control group, which is as unique as its folder.
    fn group(&self) -> String {
        format!("tocsin-machine{}", self.base.file_name().unwrap().to_str().unwrap())
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the machine runs")
    }

    /// Runs a program inside as root, outside of every session, unit and capability that the
    /// machine's own root does not have.
    pub(crate) fn enter(&self, command: &[&str]) -> Output {
        Command::new("nsenter")
            .args(["--target", &self.running().leader, "--all"])
            .args(["setpriv", DROPPED])
            .args(command)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Whether a line of shell succeeds inside.
    pub(crate) fn succeeds(&self, script: &str) -> bool {
        self.enter(&["sh", "-c", script]).status.success()
    }

    /// What a line of shell prints inside.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.enter(&["sh", "-c", script]);
        assert!(output.status.success(), "{script}: {output:?}\n{}", self.journal());
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

impl Body for Machine {
    fn journal(&self) -> String {
        let lines =
            self.enter(&["journalctl", "--no-pager", "-b", "-n", "200", "-o", "short-monotonic"]);
        String::from_utf8_lossy(&lines.stdout).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.running.is_some() {
            let told = fs::read_to_string(self.base.join("console")).unwrap_or_default();
            let journal = self.journal();
            drop(std::io::stderr().write_all(format!("{told}\n{journal}\n").as_bytes()));
        }
        if let Some(mut running) = self.running.take() {
            // With its first process all others end, and then the container by itself.
            run("kill", &["-KILL", &running.leader]);
            drop(running.container.wait());
        }
        for top in group_tops() {
            remove_groups(&Path::new(top).join(self.group()));
        }
    }
}

/// Removes empty control groups; one that is not empty yet ends with its last process, and stays.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    drop(fs::remove_dir(group));
}

/// Waits until the container says that, and gives the rest of its line.
fn wait_for(told: &UnixDatagram, word: &str) -> String {
    let mut bytes = [0; 4096];
    loop {
        let length = told.recv(&mut bytes).unwrap();
        let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
        if let Some(rest) = message.lines().find_map(|line| line.strip_prefix(word)) {
            return rest.to_owned();
        }
    }
}
