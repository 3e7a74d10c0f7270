//! A rotation at the agent: what the control plane itself confirms counts, and nothing that a hub
//! says. A real volume, and a file that stands for the power switch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::config::ArmingConfig;
use agent::execute::rotate::{Manage, ManagedVolumes};
use protocol::action::{Action, Credential};
use protocol::escrow::{self, Credential as Opened};
use protocol::fixture::{crypto_lock, rotate};
use protocol::frame::{AgentFrame, CHECK_IN_PATH, CommandFrame, HubFrame};
use protocol::jws::CompactJws;
use protocol::receipt::{FailureKind, Outcome};
use protocol::sealed::CaseSecret;
use runtime::Entropy;
use tokio::sync::oneshot;

use crate::bench::{Bench, confirmed, until};
use crate::power;
use crate::server::{HubSide, Server, greeting};

const HOUR: Duration = Duration::from_secs(3600);

/// A device that manages one volume, and an approved order.
fn scene(action: Action, escrow_wait: Duration) -> (Bench, CommandFrame, PathBuf) {
    let (mut bench, command) = power::scene_of(action, HOUR);
    let volume = bench.config.host.wipe_targets[0].clone();
    bench.config.host.arming = ArmingConfig::Sandboxed;
    bench.config.ladder.escrow_wait = escrow_wait;
    let manage = Manage { path: volume.clone(), recovery_slot: None, in_the_clear: true };
    let host = bench.config.host();
    ManagedVolumes::add(&host, &manage, b"passphrase", &Entropy::system()).unwrap();
    (bench, command, volume)
}

/// The escrow that the agent brings to the control plane, and where its answer goes.
async fn brought(server: &mut Server) -> (CompactJws, oneshot::Sender<Vec<HubFrame>>) {
    loop {
        let (frames, answer) = server.exchange(CHECK_IN_PATH).await;
        let is_escrow = |frame: &AgentFrame| matches!(frame, AgentFrame::Escrow { .. });
        let jws = frames.into_iter().find(is_escrow).map(|frame| {
            let AgentFrame::Escrow { jws, .. } = frame else { unreachable!("it is an escrow") };
            jws
        });
        match jws {
            Some(jws) => return (jws, answer),
            None => drop(answer.send(vec![greeting()])),
        }
    }
}

fn opened(bench: &Bench, jws: &CompactJws) -> String {
    let escrow = escrow::verify(jws, &bench.key).unwrap();
    let opened: Vec<Opened> = escrow::open(&escrow, &CaseSecret::new([9; 32])).unwrap();
    opened[0].secret.clone()
}

fn holds(jws: &CompactJws) -> Vec<HubFrame> {
    vec![greeting(), HubFrame::Confirmed { receipts: vec![jws.sha256()] }]
}

fn outcome(bench: &Bench, receipt: &AgentFrame) -> Outcome {
    bench.receipt(receipt).outcome
}

fn slots(volume: &Path) -> usize {
    let dump = Command::new("/usr/sbin/cryptsetup").arg("luksDump").arg(volume).output();
    String::from_utf8_lossy(&dump.unwrap().stdout)
        .lines()
        .filter(|line| line.ends_with(": luks2"))
        .count()
}

async fn started(bench: &mut Bench, command: &CommandFrame) -> (Server, agent::Agent, HubSide) {
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command.clone())).await;
    (server, agent, hub)
}

#[tokio::test]
async fn hostile_hub_that_confirms_an_escrow_is_not_believed_and_the_control_plane_is() {
    let (mut bench, command, volume) = scene(rotate(Credential::Volumes), HOUR);
    let (mut server, agent, mut hub) = started(&mut bench, &command).await;
    let (jws, answer) = brought(&mut server).await;
    drop(answer.send(vec![greeting()]));
    hub.send(HubFrame::Confirmed { receipts: vec![jws.sha256()] }).await;
    // It is brought again, so the hub's word changed nothing.
    let (again, answer) = brought(&mut server).await;
    assert_eq!(again, jws);
    let record = fs::read_to_string(bench.config.state_dir.join("rotation.json")).unwrap();
    assert!(record.contains("\"added\""), "{record}");
    drop(answer.send(holds(&jws)));
    let receipt = hub.receipt().await;
    let Outcome::Succeeded { evidence } = outcome(&bench, &receipt) else { panic!("{receipt:?}") };
    assert_eq!(evidence.get("credential"), Some(&"volumes".into()));
    assert!(power::opens_with(&volume, &opened(&bench, &jws)));
    assert_eq!(slots(&volume), 3);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn credential_that_nobody_confirms_is_taken_back() {
    // Less than what ends a session.
    let wait = Duration::from_secs(40);
    let (mut bench, command, volume) = scene(rotate(Credential::Volumes), wait);
    let mut server = bench.server().await;
    let (agent, hand) = bench.start_by_hand();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command.clone())).await;
    let (jws, answer) = brought(&mut server).await;
    drop(answer);
    hand.advance(wait);
    // Each word from the hub makes the agent look at what is due.
    hub.send(HubFrame::Command(command)).await;
    let receipt = hub.receipt().await;
    let Outcome::Failed { failure, .. } = outcome(&bench, &receipt) else { panic!("{receipt:?}") };
    assert_eq!((failure.kind, &*failure.stage), (FailureKind::Timeout, "escrow"));
    assert!(!power::opens_with(&volume, &opened(&bench, &jws)));
    assert!(power::opens_with(&volume, "passphrase"));
    assert_eq!(slots(&volume), 2);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn agent_that_is_killed_before_the_confirmation_brings_the_same_credential_again() {
    let (mut bench, command, volume) = scene(rotate(Credential::Volumes), HOUR);
    let (mut server, agent, hub) = started(&mut bench, &command).await;
    let (jws, answer) = brought(&mut server).await;
    drop(answer);
    bench.kill(agent).await;
    drop(hub);
    let agent = bench.start();
    let mut hub = server.session().await;
    let (again, answer) = brought(&mut server).await;
    assert_eq!(opened(&bench, &again), opened(&bench, &jws));
    drop(answer.send(holds(&again)));
    let receipt = hub.receipt().await;
    assert!(matches!(outcome(&bench, &receipt), Outcome::Succeeded { .. }), "{receipt:?}");
    assert!(power::opens_with(&volume, &opened(&bench, &jws)));
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn crypto_lock_powers_off_once_its_key_is_in_escrow_and_the_users_are_out() {
    let (mut bench, command, volume) = scene(crypto_lock(), HOUR);
    let (mut server, agent, mut hub) = started(&mut bench, &command).await;
    let (jws, answer) = brought(&mut server).await;
    assert!(power::opens_with(&volume, "passphrase"), "not before it is confirmed");
    drop(answer.send(holds(&jws)));
    let receipt = hub.receipt().await;
    let Outcome::Succeeded { evidence } = outcome(&bench, &receipt) else { panic!("{receipt:?}") };
    assert_eq!(evidence.get("grade"), Some(&"proven".into()));
    assert!(!power::opens_with(&volume, "passphrase"));
    assert!(power::opens_with(&volume, &opened(&bench, &jws)));
    assert_eq!((slots(&volume), power::pressed(&bench)), (1, 0));
    hub.send(confirmed(&receipt)).await;
    until(|| power::pressed(&bench) == 1).await;
    agent.drain().await.unwrap();
    // Still on, in the very boot of the lock: the switch did not work, and is pressed again.
    drop((hub, server.is_untouched()));
    let agent = bench.start();
    until(|| power::pressed(&bench) == 2).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn rotation_that_nobody_approved_is_refused() {
    let (mut bench, _, volume) = scene(rotate(Credential::Volumes), HOUR);
    let before = slots(&volume);
    let command = bench.command(1, rotate(Credential::Volumes), 1);
    let reason = bench.refusal(command).await;
    assert_eq!(reason, protocol::receipt::RefusalReason::MissingApproval);
    assert_eq!(slots(&volume), before);
}
