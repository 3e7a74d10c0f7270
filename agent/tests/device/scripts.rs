//! Scripts through the whole agent: approved by hash, run once, and in doubt where nobody can know.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use agent::config::ArmingConfig;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use protocol::action::{Action, RunScript};
use protocol::advance::Tail;
use protocol::envelope::Envelope;
use protocol::fixture::order as order_id;
use protocol::frame::{AgentFrame, HubFrame};
use protocol::receipt::{Outcome, RefusalReason};

use crate::bench::{Bench, reason, until};
use crate::disk::{in_mount_namespace, run};
use crate::server::HubSide;
use crate::undo::{cancel, outcome, result};

/// Counts itself, and then goes on until a file says that it may end, or its device is no more.
const PATIENT: &str = "#!/bin/sh\necho >> /tmp/effects\n\
    until [ -e /tmp/enough ] || ! [ -e /tmp/effects ]; do sleep 0.01; done\necho done\n";

/// Lets the scripts in a root end with the test, also with one that fails: they outlive agent and test.
struct Enough(PathBuf);

impl Drop for Enough {
    fn drop(&mut self) {
        drop(fs::write(self.0.join("tmp/enough"), ""));
    }
}

/// A device whose scripts run in a chroot with the machine's own programs.
fn bench() -> (Bench, Enough) {
    let mut bench = Bench::new();
    let root = bench.config.state_dir.with_file_name("root");
    let inside = |name: &str| root.join(name).display().to_string();
    for name in ["etc", "run", "tmp", "proc", "usr"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    // So that nobody who removes the bench removes anything of this machine.
    run("mount", &["--bind", "-o", "ro", "/usr", &inside("usr")]);
    for name in ["bin", "lib", "lib64"] {
        // Debian's are links into `/usr`.
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    run("mount", &["--bind", "/proc", &inside("proc")]);
    run("chmod", &["1777", &inside("tmp")]);
    fs::write(root.join("etc/passwd"), "nobody:x:65534:65534::/:/usr/sbin/nologin\n").unwrap();
    bench.config.host.arming = ArmingConfig::Sandboxed;
    bench.config.host.root = root.clone();
    bench.config.host.dbus = Some(String::new());
    bench.config.host.scripts.supervisor = Some(env!("CARGO_BIN_EXE_tocsin-agent").into());
    (bench, Enough(root))
}

fn order(bench: &Bench, number: u8, script: &str) -> Envelope {
    let action = Action::RunScript(RunScript::of(script, Vec::new(), 600));
    let mut envelope = bench.envelope(number, action, number.into());
    envelope.script = Some(script.to_owned());
    bench.organisation.approved(envelope, &[&bench.organisation.alice])
}

fn effects(bench: &Bench) -> usize {
    let file = bench.config.host.root.join("tmp/effects");
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn script_is_refused_unless_it_is_the_very_one_that_a_person_approved() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let good = order(&bench, 1, PATIENT);
    let other = Envelope { script: Some(format!("{PATIENT}rm -r /\n")), ..good.clone() };
    let none = Envelope { script: None, ..order(&bench, 2, PATIENT) };
    let nobody = Envelope { approvals: Vec::new(), ..order(&bench, 3, PATIENT) };
    let widened = RefusalReason::WidenedManifest;
    for (envelope, why) in
        [(other, widened), (none, widened), (nobody, RefusalReason::MissingApproval)]
    {
        hub.send(HubFrame::Command(bench.organisation.deliver(&envelope, 0))).await;
        let receipt = bench.receipt(&hub.receipt_of(envelope.jti).await);
        assert_eq!(reason(&receipt), why);
    }
    assert_eq!(bench.effects(), Vec::<String>::new());
    agent.drain().await.unwrap();
}

#[test]
fn script_outlives_the_agent_and_has_its_receipt_from_the_next_one() {
    in_mount_namespace(|| async {
        let (mut bench, _enough) = bench();
        let mut server = bench.server().await;
        let agent = bench.start();
        let mut hub = server.session().await;
        let command = bench.organisation.deliver(&order(&bench, 1, PATIENT), 0);
        hub.send(HubFrame::Command(command)).await;
        until(|| effects(&bench) == 1).await;
        // It says that it goes on, now and then.
        let is_told = |frame: &AgentFrame| matches!(frame, AgentFrame::Progress { advance: Some(advance), .. } if advance.secs.is_some());
        hub.wait_for(is_told).await;
        bench.kill(agent).await;
        drop(hub);
        let agent = bench.start();
        let mut hub = server.session().await;
        fs::write(bench.config.host.root.join("tmp/enough"), "").unwrap();
        let receipt = bench.receipt(&hub.receipt().await);
        let Outcome::Succeeded { evidence } = receipt.outcome else { panic!("{receipt:?}") };
        assert_eq!(evidence.get("stdout"), Some(&serde_json::json!(["done"])));
        assert_eq!(effects(&bench), 1);
        agent.drain().await.unwrap();
    });
}

/// Says a line for each that it is given, and ends with them.
const ECHO: &str = "#!/bin/sh\nwhile read -r line; do echo \"$line\"; done < /tmp/lines\n";

/// Waits until that is the end of what the script is said to have said; how far it is then.
async fn heard(hub: &mut HubSide, word: &str) -> Tail {
    let said = |frame: &AgentFrame| {
        let AgentFrame::Progress { advance: Some(advance), .. } = frame else { return None };
        advance.output.clone()?.stdout
    };
    let is_it =
        |frame: &AgentFrame| said(frame).is_some_and(|t| t.bytes.ends_with(word.as_bytes()));
    said(&hub.wait_for(is_it).await).unwrap()
}

#[test]
fn output_goes_on_where_it_was_when_session_and_agent_are_others() {
    in_mount_namespace(|| async {
        let (mut bench, _enough) = bench();
        let pipe = bench.config.host.root.join("tmp/lines");
        nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o644)).unwrap();
        // Both ends, so that nobody waits for the other and the script sees an end when this is closed.
        let mut lines = fs::File::options().read(true).write(true).open(&pipe).unwrap();
        let mut server = bench.server().await;
        let agent = bench.start();
        let mut hub = server.session().await;
        let command = bench.organisation.deliver(&order(&bench, 1, ECHO), 0);
        hub.send(HubFrame::Command(command)).await;
        writeln!(lines, "one").unwrap();
        assert_eq!(heard(&mut hub, "one\n").await, Tail { from: 0, bytes: b"one\n".to_vec() });
        // Another session of the same agent.
        drop(hub);
        let mut hub = server.session().await;
        writeln!(lines, "two").unwrap();
        assert_eq!(heard(&mut hub, "two\n").await.end(), 8);
        bench.kill(agent).await;
        drop(hub);
        // Said while no agent was there.
        writeln!(lines, "{}", "x".repeat(5000)).unwrap();
        let agent = bench.start();
        let mut hub = server.session().await;
        let tail = heard(&mut hub, "x\n").await;
        assert_eq!((tail.after(8).0, tail.end()), (8 + 5001 - 2048 - 8, 8 + 5001));
        drop(lines);
        let receipt = bench.receipt(&hub.receipt().await);
        let Outcome::Succeeded { evidence } = receipt.outcome else { panic!("{receipt:?}") };
        assert_eq!(evidence.get("stdout_bytes"), Some(&(8 + 5001).into()));
        agent.drain().await.unwrap();
    });
}

#[test]
fn script_whose_supervisor_dies_is_in_doubt_and_never_begun_again() {
    in_mount_namespace(|| async {
        let (mut bench, _enough) = bench();
        let mut server = bench.server().await;
        let agent = bench.start();
        let mut hub = server.session().await;
        let command = bench.organisation.deliver(&order(&bench, 1, PATIENT), 0);
        hub.send(HubFrame::Command(command.clone())).await;
        until(|| effects(&bench) == 1).await;
        // It is this test's alone: its root is in the command line.
        let root = bench.config.host.root.display().to_string();
        let found = Command::new("pgrep").args(["-f", &format!("supervise.*{root}")]).output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        for pid in found.lines() {
            kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
        }
        let first = hub.receipt().await;
        let receipt = bench.receipt(&first);
        let in_doubt = Outcome::InDoubt { stage: "apply".to_owned() };
        assert_eq!(receipt.outcome, in_doubt);
        bench.kill(agent).await;
        drop(hub);
        let agent = bench.start();
        let mut hub = server.session().await;
        assert_eq!(hub.receipt().await, first);
        hub.send(HubFrame::Command(command)).await;
        assert_eq!(hub.receipt().await, first);
        assert_eq!(effects(&bench), 1);
        fs::write(bench.config.host.root.join("tmp/enough"), "").unwrap();
        agent.drain().await.unwrap();
    });
}

#[test]
fn script_that_waits_is_called_back_and_the_one_that_runs_is_not() {
    in_mount_namespace(|| async {
        let (mut bench, _enough) = bench();
        let mut server = bench.server().await;
        let agent = bench.start();
        let mut hub = server.session().await;
        let [runs, waits, barred] =
            [1, 2, 3].map(|number| bench.organisation.deliver(&order(&bench, number, PATIENT), 0));
        for frame in [&runs, &waits] {
            hub.send(HubFrame::Command(frame.clone())).await;
        }
        until(|| effects(&bench) == 1).await;
        let back = |number, seq, of| cancel(&bench, number, seq, order_id(of));
        let (late, in_time, early) = (back(11, 1, 1), back(12, 2, 2), back(13, 3, 3));
        hub.send(HubFrame::Command(late.clone())).await;
        let (word, step) = result(&outcome(&bench, &mut hub, &late).await);
        assert_eq!((&*word, step.as_deref()), ("too_late", Some("apply")));
        hub.send(HubFrame::Command(in_time.clone())).await;
        assert_eq!(reason(&outcome(&bench, &mut hub, &waits).await), RefusalReason::Cancelled);
        assert_eq!(result(&outcome(&bench, &mut hub, &in_time).await).0, "called_back");
        // Before it came.
        hub.send(HubFrame::Command(early.clone())).await;
        outcome(&bench, &mut hub, &early).await;
        hub.send(HubFrame::Command(barred.clone())).await;
        assert_eq!(reason(&outcome(&bench, &mut hub, &barred).await), RefusalReason::Cancelled);
        fs::write(bench.config.host.root.join("tmp/enough"), "").unwrap();
        let ended = outcome(&bench, &mut hub, &runs).await;
        assert!(matches!(ended.outcome, Outcome::Succeeded { .. }), "{ended:?}");
        assert_eq!(effects(&bench), 1);
        agent.drain().await.unwrap();
    });
}
