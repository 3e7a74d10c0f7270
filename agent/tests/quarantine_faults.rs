//! What can go wrong with a quarantine, injected for real: the agent killed at each step, a full
//! disk, no permission, no nf_tables, nobody who answers. Each has its failure, and leaves all or
//! nothing.
#![expect(clippy::unwrap_used, reason = "a test whose scene cannot be set should stop there")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent::execute::Executor as _;
use agent::execute::quarantine::{Quarantine, Release, Upheld, current, reassert, uphold};
use agent::host::Host;
use nix::sched::{CloneFlags, unshare};
use protocol::action;
use protocol::receipt::{Evidence, Failure, FailureKind};
use tempfile::TempDir;

use support::host::{sandbox, task};
use support::netns::{ELSEWHERE, GUARD, HUB, Lan, SILENCE, agent_reaches, tcp_answers};

#[path = "quarantine_faults/release.rs"]
mod release;
#[path = "support"]
mod support {
    pub(crate) mod host;
    #[expect(dead_code, reason = "shared with the tests of quarantine, which use the rest")]
    pub(crate) mod netns;
}

/// What a child of these tests finds in its environment: state directory and control plane.
const STATE: &str = "TOCSIN_TEST_STATE";
const CONTROL: &str = "TOCSIN_TEST_CONTROL";
/// All tables of a quarantine, as `nft list tables` names them.
const TABLES: &str = "table inet tocsin\ntable inet tocsin_canary\ntable netdev tocsin\n";

/// A network, and a host on its endpoint whose control plane is the hub.
struct Scene {
    lan: Lan,
    host: Host,
    elsewhere: SocketAddr,
    _folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let lan = Lan::new();
        let (mut host, folder) = sandbox();
        host.control_plane = vec![lan.peer_echo(HUB[0], 0)];
        let elsewhere = lan.peer_echo(ELSEWHERE[0], 0);
        Self { lan, host, elsewhere, _folder: folder }
    }

    /// This test program again, on the endpoint, as an agent that carries a quarantine out.
    fn child(&self, wrapper: &[&str]) -> Child {
        self.child_as("child", wrapper)
    }

    /// The same as the agent that this test is.
    fn child_as(&self, test: &str, wrapper: &[&str]) -> Child {
        let mut words: Vec<String> = wrapper.iter().map(|word| (*word).to_owned()).collect();
        words.push(std::env::current_exe().unwrap().display().to_string());
        words.extend(["--exact", test, "--nocapture"].map(str::to_owned));
        let (state, control) = (self.host.state_dir.clone(), self.host.control_plane[0]);
        self.lan.endpoint.run(move || {
            let mut command = Command::new(&words[0]);
            command
                .args(&words[1..])
                .env(STATE, state)
                .env(CONTROL, control.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
            command.spawn().unwrap()
        })
    }

    /// How it ended there: `None` when it was killed.
    fn in_child(&self, wrapper: &[&str]) -> Option<String> {
        let mut child = self.child(wrapper);
        let said = result(&mut child);
        drop(child.stdin.take());
        child.wait().unwrap();
        said
    }

    fn here<T: Send + 'static>(&self, work: impl FnOnce(&Host) -> T + Send + 'static) -> T {
        let host = self.host.clone();
        self.lan.endpoint.run(move || work(&host))
    }

    fn tables(&self) -> String {
        self.lan.endpoint.command("nft", &["list", "tables"])
    }

    fn is_cut(&self) -> bool {
        !tcp_answers(&self.lan.endpoint, self.elsewhere, SILENCE)
    }

    fn release(&self) {
        self.here(|host| {
            Release.apply(host, &task(9)).unwrap();
            Release.prove(host, &task(9)).unwrap();
        });
        assert_eq!(self.tables(), "");
    }
}

fn mount(words: &[&str]) {
    assert!(Command::new("mount").args(words).status().unwrap().success(), "mount {words:?}");
}

/// The line in which the child says how it ended.
fn result(child: &mut Child) -> Option<String> {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines.map_while(Result::ok).find_map(|line| Some(line.split_once("RESULT ")?.1.to_owned()))
}

fn carry_out(host: &Host) -> Result<Evidence, Failure> {
    let quarantine =
        Quarantine::new(action::Quarantine { allow: Vec::new(), resolver: false, until: None });
    quarantine.plan(host, &task(1))?;
    quarantine.apply(host, &task(1))?;
    quarantine.prove(host, &task(1))
}

fn apply(host: &Host) -> Result<(), Failure> {
    Quarantine::new(action::Quarantine { allow: Vec::new(), resolver: false, until: None })
        .apply(host, &task(1))
}

/// No test by itself: what [`Scene::child`] starts. Lives on until its input ends.
#[test]
fn child() {
    say(carry_out);
}

/// What a child does, if this is one, and how it ended.
fn say(work: fn(&Host) -> Result<Evidence, Failure>) {
    let (Ok(state), Ok(control)) = (std::env::var(STATE), std::env::var(CONTROL)) else { return };
    let (mut host, _folder) = sandbox();
    host.state_dir = state.into();
    host.control_plane = vec![control.parse().unwrap()];
    let said = match work(&host) {
        Ok(_) => "done".to_owned(),
        Err(failure) => format!("{:?} {}", failure.kind, failure.stage),
    };
    let mut output = std::io::stdout();
    output.write_all(format!("\nRESULT {said}\n").as_bytes()).unwrap();
    output.flush().unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn agent_that_is_killed_leaves_the_device_cut() {
    let scene = Scene::new();
    let mut child = scene.child(&[]);
    assert_eq!(result(&mut child).as_deref(), Some("done"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(scene.is_cut());
    assert_eq!(scene.tables(), TABLES);
    assert!(agent_reaches(&scene.lan.endpoint, scene.host.control_plane[0]));
    // Its next start takes the tables over.
    assert_eq!(scene.here(reassert), Ok(true));
    scene.lan.endpoint.command("nft", &["flush", "ruleset"]);
    assert_eq!(scene.here(uphold).map(|upheld| matches!(upheld, Upheld::Mended(_))), Ok(true));
    assert!(scene.is_cut());
    scene.release();
}

#[test]
fn kill_at_every_step_leaves_all_or_nothing_and_is_recovered() {
    let scene = Scene::new();
    let mut kills = 0;
    for call in ["sendto", "fsync", "rename", "connect"] {
        for number in 1.. {
            let inject = format!("inject={call}:signal=SIGKILL:when={number}");
            let said = scene.in_child(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject]);
            let tables = scene.tables();
            if said.is_some() {
                assert_eq!((said.as_deref(), &*tables), (Some("done"), TABLES));
                scene.release();
                break;
            }
            kills += 1;
            assert!(tables.is_empty() || tables == TABLES, "{call} {number}: {tables}");
            // Without a record nothing may stand, for nothing would ever lift it.
            let recorded = scene.here(current).unwrap();
            assert!(recorded.is_some() || tables.is_empty(), "{call} {number}");
            assert!(scene.here(carry_out).is_ok(), "{call} {number}");
            scene.release();
        }
    }
    assert!(kills > 10, "{kills} kills");
}

#[test]
fn quarantine_whose_command_is_lost_is_confirmed_when_somebody_answers() {
    let scene = Scene::new();
    let inject = "inject=connect:signal=SIGKILL:when=2";
    assert_eq!(scene.in_child(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject]), None);
    assert!(!scene.here(current).unwrap().unwrap().is_confirmed);
    assert_eq!(scene.here(reassert), Ok(true));
    assert_eq!(scene.here(uphold), Ok(Upheld::Confirmed));
    assert!(scene.here(current).unwrap().unwrap().is_confirmed);
    assert!(scene.is_cut());
}

#[test]
fn quarantine_whose_command_is_lost_is_rolled_back_when_nobody_answers() {
    let mut scene = Scene::new();
    let inject = "inject=connect:signal=SIGKILL:when=2";
    assert_eq!(scene.in_child(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject]), None);
    assert_eq!(scene.tables(), TABLES);
    // The control plane is gone when the agent starts again, and nothing else is.
    scene.lan.peer.run(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/wire/promote_secondaries", "1").unwrap();
    });
    scene.lan.peer.ip(&format!("addr del {}/24 dev wire", HUB[0]));
    scene.host.confirm_within = Duration::from_millis(300);
    assert_eq!(scene.here(reassert), Ok(true));
    assert!(scene.is_cut(), "until the time is up");
    while scene.here(uphold).unwrap() != Upheld::RolledBack {}
    assert_eq!(scene.tables(), "");
    assert_eq!(scene.here(current), Ok(None));
    assert!(tcp_answers(&scene.lan.endpoint, scene.elsewhere, GUARD));
}

#[test]
fn lack_of_permission_and_of_nf_tables_are_told_before_anything_changes() {
    let scene = Scene::new();
    let stranger = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    assert_eq!(scene.in_child(&stranger).as_deref(), Some("Permission plan"));
    let inject = "inject=socket:error=EPROTONOSUPPORT:when=1";
    let said = scene.in_child(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject]);
    assert_eq!(said.as_deref(), Some("Precondition plan"));
    assert_eq!(scene.tables(), "");
    assert_eq!(scene.here(current), Ok(None));
}

#[test]
fn tables_of_another_program_are_left_alone() {
    let scene = Scene::new();
    let mut other = scene.child(&[]);
    assert_eq!(result(&mut other).as_deref(), Some("done"));
    let failure = scene.here(carry_out).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permission);
    assert!(failure.detail.contains("another program"), "{}", failure.detail);
    assert_eq!(scene.tables(), TABLES);
    drop(other.stdin.take());
    other.wait().unwrap();
}

#[test]
fn full_disk_is_a_failure_and_changes_nothing() {
    let scene = Scene::new();
    let failure = scene.here(|host| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(&["--make-rprivate", "/"]);
        let state = host.state_dir.display().to_string();
        mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs", &state]);
        let filler = std::fs::write(host.state_dir.join("filler"), vec![0; 128 * 1024]);
        assert!(filler.is_err(), "the disk is full");
        apply(host).unwrap_err()
    });
    assert_eq!((failure.kind, &*failure.stage), (FailureKind::Io, "apply"));
    assert_eq!(scene.tables(), "");
    assert!(!scene.is_cut());
}
