//! Commands on their way through ledger, journal and executor, across cuts and restarts.

use agent::Agent;
use agent::Deps;
use protocol::action::{Action, Refresh};
use protocol::fixture::{lock, wipe};
use protocol::frame::{AgentFrame, HubFrame};
use protocol::receipt::{Outcome, RefusalReason};
use protocol::trust::{SignedTrustRoot, TrustRoot};
use runtime::{Clock, Drain, Entropy};

use crate::bench::{Bench, confirmed, reason, until};

#[tokio::test]
async fn command_is_acked_only_once_it_is_on_disk() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let command = bench.command(1, lock(), 1);
    hub.send(HubFrame::Command(command.clone())).await;
    assert_eq!(hub.ack().await, AgentFrame::Ack { command_id: command.command_id });
    assert!(bench.journal().contains(command.jws.as_str()));
    let receipt = hub.receipt().await;
    let AgentFrame::Receipt { jws, .. } = &receipt else { unreachable!("it is a receipt") };
    assert!(bench.journal().contains(jws.as_str()));
    assert!(matches!(bench.receipt(&receipt).outcome, Outcome::Succeeded { .. }));
    assert_eq!(bench.effects(), [format!("lock {}", command.command_id)]);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn receipt_is_sent_again_until_confirmed_across_sessions_and_restarts() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(bench.command(1, lock(), 1))).await;
    let first = hub.receipt().await;
    assert_eq!(hub.receipt().await, first);
    drop(hub);
    let mut hub = server.session().await;
    assert_eq!(hub.receipt().await, first);
    drop(hub);
    bench.kill(agent).await;
    let agent = bench.start();
    let mut hub = server.session().await;
    assert_eq!(hub.hello.last_seq.urgent, 1);
    assert_eq!(hub.receipt().await, first);
    hub.send(confirmed(&first)).await;
    until(|| agent.status().commands.unconfirmed == 0).await;
    assert!(bench.journal().contains("confirmed"));
    assert_eq!(bench.effects().len(), 1);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn gap_in_a_lane_asks_for_everything() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let second = bench.organisation.deliver(&bench.envelope(2, lock(), 2), 1);
    hub.send(HubFrame::Command(second.clone())).await;
    let sync = hub.next().await.unwrap();
    assert!(matches!(sync, AgentFrame::Sync { last_seq } if last_seq.urgent == 0), "{sync:?}");
    let first = bench.command(1, lock(), 1);
    hub.send(HubFrame::Command(first.clone())).await;
    hub.send(HubFrame::Command(second.clone())).await;
    until(|| bench.effects().len() == 2).await;
    let order = [first.command_id, second.command_id].map(|id| format!("lock {id}"));
    assert_eq!(bench.effects(), order);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn command_has_one_effect_wherever_the_agent_is_killed() {
    let stages = ["ack", "plan", "apply", "prove", "receipt"];
    for stage in stages {
        let mut bench = Bench::new();
        let mut server = bench.server().await;
        let agent = bench.start();
        let mut hub = server.session().await;
        let command = bench.command(1, lock(), 1);
        hub.send(HubFrame::Command(command.clone())).await;
        hub.wait_for(|frame| match frame {
            AgentFrame::Ack { .. } => stage == "ack",
            AgentFrame::Progress { stage: reached, .. } => reached == stage,
            AgentFrame::Receipt { .. } => true,
            AgentFrame::Hello(_)
            | AgentFrame::Sync { .. }
            | AgentFrame::Notice { .. }
            | AgentFrame::Proof { .. }
            | AgentFrame::Escrow { .. }
            | AgentFrame::Unknown => false,
        })
        .await;
        bench.kill(agent).await;
        drop(hub);
        let agent = bench.start();
        let mut hub = server.session().await;
        // A redelivery at the worst moment changes nothing.
        hub.send(HubFrame::Command(command.clone())).await;
        let receipt = bench.receipt(&hub.receipt().await);
        assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{stage}: {receipt:?}");
        assert_eq!(bench.effects(), [format!("lock {}", command.command_id)], "{stage}");
        agent.drain().await.unwrap();
    }
}

#[tokio::test]
async fn urgent_command_does_not_wait_for_bulk() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let refresh = bench.command(1, Action::Refresh(Refresh {}), 1);
    hub.send(HubFrame::Command(refresh)).await;
    hub.send(HubFrame::Command(bench.command(2, lock(), 1))).await;
    until(|| bench.effects().len() == 2).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn next_trust_root_is_kept_and_an_earlier_one_is_not() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let version = |version| {
        let root = TrustRoot { version, ..bench.organisation.trust.clone() };
        let root = SignedTrustRoot::sign(&root, &[&bench.organisation.root_key]).unwrap();
        HubFrame::Trust { root }
    };
    hub.send(version(2)).await;
    until(|| agent.status().commands.trust_version == 2).await;
    hub.send(version(1)).await;
    until(|| agent.status().commands.last_error.is_some()).await;
    assert_eq!(agent.status().commands.trust_version, 2);
    drop(hub);
    bench.kill(agent).await;
    let agent = bench.start();
    assert_eq!(server.session().await.hello.trust_version, 2);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn device_whose_trust_root_was_put_back_obeys_only_when_the_newest_is_there_again() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let file = bench.config.state_dir.join("trust-roots.json");
    let earlier = std::fs::read(&file).unwrap();
    let second = TrustRoot { version: 2, ..bench.organisation.trust.clone() };
    let root = SignedTrustRoot::sign(&second, &[&bench.organisation.root_key]).unwrap();
    hub.send(HubFrame::Trust { root: root.clone() }).await;
    until(|| agent.status().commands.trust_version == 2).await;
    bench.kill(agent).await;
    drop(hub);
    std::fs::write(&file, earlier).unwrap();

    let agent = bench.start();
    let mut hub = server.session().await;
    assert_eq!(hub.hello.trust_version, 1);
    assert!(hub.hello.capabilities.iter().any(|word| word == "trust_rolled_back"));
    let command = HubFrame::Command(bench.command(1, lock(), 1));
    hub.send(command.clone()).await;
    // Not taken, but asked for again.
    assert!(matches!(hub.next().await, Some(AgentFrame::Sync { .. })));
    assert!(bench.effects().is_empty());
    hub.send(HubFrame::Trust { root }).await;
    hub.send(command).await;
    hub.receipt().await;
    assert_eq!(bench.effects().len(), 1);
    assert!(!agent.status().commands.trust_rolled_back);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn lost_journal_makes_older_commands_unbelievable() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let command = bench.command(1, lock(), 1);
    hub.send(HubFrame::Command(command.clone())).await;
    hub.receipt().await;
    bench.kill(agent).await;
    drop(hub);
    std::fs::remove_file(bench.journal_path()).unwrap();

    let agent = bench.start();
    let mut hub = server.session().await;
    assert!(hub.hello.capabilities.iter().any(|word| word == "journal_damaged"));
    hub.send(HubFrame::Command(command)).await;
    let receipt = bench.receipt(&hub.receipt().await);
    assert_eq!(reason(&receipt), RefusalReason::Replayed);
    assert_eq!(bench.effects().len(), 1);
    assert!(agent.status().commands.journal_damaged);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn damaged_journal_finds_out_about_open_commands_instead_of_beginning_again() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(bench.command(1, lock(), 1))).await;
    hub.receipt().await;
    bench.kill(agent).await;
    drop(hub);
    // The intent becomes unreadable; the outcome beyond it is still there.
    let mut bytes = std::fs::read(bench.journal_path()).unwrap();
    let intent = b"\"intent\"";
    let at = bytes.windows(intent.len()).position(|part| part == intent).unwrap();
    bytes[at] ^= 1;
    std::fs::write(bench.journal_path(), bytes).unwrap();

    let agent = bench.start();
    let receipt = bench.receipt(&server.session().await.receipt().await);
    assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
    assert_eq!(bench.effects().len(), 1);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn approved_wipe_is_carried_out() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    let approved = bench.organisation.approved(bench.envelope(1, wipe(), 1), &approvers);
    hub.send(HubFrame::Command(bench.organisation.deliver(&approved, 0))).await;
    let receipt = hub.receipt().await;
    assert!(matches!(bench.receipt(&receipt).outcome, Outcome::Succeeded { .. }));
    assert!(!bench.power_log().exists(), "a simulated wipe powers nothing off");
    agent.drain().await.unwrap();
}

#[test]
fn agent_without_enrollment_does_not_start() {
    let mut bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    bench.config.state_dir = folder.path().join("empty");
    let deps = Deps { clock: Clock::system(), entropy: Entropy::system(), drain: Drain::new() };
    let error = Agent::start(bench.config.clone(), deps).unwrap_err();
    assert!(matches!(error, agent::StartError::State(_)), "{error:?}");
}
