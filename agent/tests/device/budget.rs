//! Steps that hang: a disk that does not answer, played by a pipe that nobody writes to.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::config::ArmingConfig;
use nix::libc::O_NONBLOCK;
use protocol::action::{Action, Credential, Refresh};
use protocol::fixture::rotate;
use protocol::frame::{CommandFrame, HubFrame};
use protocol::receipt::{FailureKind, Outcome, Receipt};
use runtime::clock::ManualClock;

use crate::bench::{Bench, until};
use crate::server::HubSide;

/// The time of a step: less than what ends a session.
const STEP: Duration = Duration::from_secs(40);

/// A document that does not answer: nobody writes to it as long as this is there.
struct Pipe {
    path: PathBuf,
    _ours: File,
}

impl Pipe {
    fn new(path: PathBuf) -> Self {
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let ours = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Self { path, _ours: ours }
    }

    /// Whether somebody else of this process has it open, and so waits for it.
    fn is_waited_for(&self) -> bool {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
        open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|at| at == self.path)).count() > 1
    }
}

/// A device on which that document of the state directory does not answer.
fn scene(name: &str) -> (Bench, Pipe) {
    let mut bench = Bench::new();
    let root = bench.config.state_dir.with_file_name("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/shadow"), "rescue:$6$salt$former:19000:0:99999:7:::\n").unwrap();
    bench.config.host.arming = ArmingConfig::Sandboxed;
    bench.config.host.root = root;
    bench.config.host.dbus = Some(String::new());
    bench.config.ladder.step = STEP;
    let pipe = Pipe::new(bench.config.state_dir.join(name));
    (bench, pipe)
}

/// Lets whoever waits at the pipe go on. Whether anybody did.
pub(crate) fn release(pipe: &Path) -> bool {
    OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(pipe).is_ok()
}

/// An approved rotation, whose step hangs.
fn hanging(bench: &Bench, credential: Credential) -> CommandFrame {
    let envelope = bench.envelope(1, rotate(credential), 1);
    let approved = bench.organisation.approved(envelope, &[&bench.organisation.alice]);
    bench.organisation.deliver(&approved, 0)
}

async fn hung(
    (bench, pipe): (&Bench, &Pipe),
    hand: &ManualClock,
    hub: &mut HubSide,
    credential: Credential,
) -> Receipt {
    let hangs = hanging(bench, credential);
    let next = bench.command(2, Action::Refresh(Refresh {}), 2);
    hub.send(HubFrame::Command(hangs.clone())).await;
    until(|| pipe.is_waited_for()).await;
    hand.advance(STEP);
    hub.send(HubFrame::Command(next.clone())).await;
    let receipt = bench.receipt(&hub.receipt_of(hangs.command_id).await);
    // The lane goes on, though the thread is still there.
    let next = bench.receipt(&hub.receipt_of(next.command_id).await);
    assert!(matches!(next.outcome, Outcome::Succeeded { .. }), "{next:?}");
    receipt
}

#[tokio::test]
async fn plan_that_hangs_has_failed_in_time_and_its_lane_goes_on() {
    let (mut bench, pipe) = scene("volumes.json");
    let mut server = bench.server().await;
    let (agent, hand) = bench.start_by_hand();
    let mut hub = server.session().await;
    let receipt = hung((&bench, &pipe), &hand, &mut hub, Credential::Volumes).await;
    let Outcome::Failed { failure, .. } = &receipt.outcome else { panic!("{receipt:?}") };
    assert_eq!((failure.kind, &*failure.stage), (FailureKind::Timeout, "plan"));
    // An agent that stops does not wait for it either.
    agent.drain().await.unwrap();
    assert!(pipe.is_waited_for());
}

/// The agent wakes for the end of a step by itself.
#[tokio::test]
async fn plan_that_hangs_has_failed_in_time_also_when_nobody_says_anything() {
    let (mut bench, pipe) = scene("volumes.json");
    // Whatever else this step takes, it ends like this.
    bench.config.ladder.step = Duration::from_millis(500);
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(hanging(&bench, Credential::Volumes))).await;
    let receipt = bench.receipt(&hub.receipt().await);
    let Outcome::Failed { failure, .. } = &receipt.outcome else { panic!("{receipt:?}") };
    assert_eq!((failure.kind, &*failure.stage), (FailureKind::Timeout, "plan"));
    agent.drain().await.unwrap();
    drop(pipe);
}

#[tokio::test]
async fn step_that_acts_and_hangs_is_in_doubt_and_what_it_comes_to_changes_no_receipt() {
    let (mut bench, pipe) = scene("rotation.json");
    let mut server = bench.server().await;
    let (agent, hand) = bench.start_by_hand();
    let mut hub = server.session().await;
    let account = Credential::Account("rescue".to_owned());
    let receipt = hung((&bench, &pipe), &hand, &mut hub, account).await;
    assert_eq!(receipt.outcome, Outcome::InDoubt { stage: "apply".to_owned() });
    drop(pipe);
    // What comes next in the lane has its own outcome, and not that of the thread that came back.
    let next = bench.command(3, Action::Refresh(Refresh {}), 3);
    hub.send(HubFrame::Command(next.clone())).await;
    let next = bench.receipt(&hub.receipt_of(next.command_id).await);
    assert!(matches!(next.outcome, Outcome::Succeeded { .. }), "{next:?}");
    agent.drain().await.unwrap();
}
