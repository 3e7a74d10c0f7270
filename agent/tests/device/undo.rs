//! A wipe waits in its undo window: nothing is destroyed in it, it outlasts crashes, others do not
//! wait behind it, and a signed cancel calls it back until it is over. Real volumes where it counts.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use agent::Agent;
use agent::journal::Journal;
use protocol::action::{Action, Cancel};
use protocol::envelope::Envelope;
use protocol::fixture::{command, lock, order, wipe};
use protocol::frame::{AgentFrame, CommandFrame, HubFrame};
use protocol::id::OrderId;
use protocol::ledger::{Held, Record};
use protocol::receipt::{Outcome, Receipt, RefusalReason};
use protocol::trust::{SignedTrustRoot, TrustRoot};

use crate::bench::{Bench, confirmed, now, reason, until};
use crate::budget::release;
use crate::disk::{Disk, bytes, in_mount_namespace, received, run};
use crate::power::scene_of;
use crate::server::HubSide;

/// Longer than any test takes.
const LONG: u32 = 3600;
/// Longer than a window of a second, and than it takes until a disk is tried again.
const MORE_THAN_A_WINDOW: Duration = Duration::from_millis(1100);

/// A wipe with that undo window, approved by two persons.
pub(crate) fn held(bench: &Bench, number: u8, seq: u64, undo_secs: u32) -> CommandFrame {
    deliver(bench, window(bench, number, seq, Some(undo_secs)))
}

fn window(bench: &Bench, number: u8, seq: u64, undo_secs: Option<u32>) -> Envelope {
    let mut envelope = bench.envelope(number, wipe(), seq);
    envelope.manifest.undo_secs = undo_secs;
    envelope
}

fn deliver(bench: &Bench, envelope: Envelope) -> CommandFrame {
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    bench.organisation.deliver(&bench.organisation.approved(envelope, &approvers), 0)
}

/// What calls that order back. Nobody approves it.
pub(crate) fn cancel(bench: &Bench, number: u8, seq: u64, order_id: OrderId) -> CommandFrame {
    bench.command(number, Action::Cancel(Cancel { order_id }), seq)
}

/// Waits until the window of that command is told to be open.
pub(crate) async fn held_told(hub: &mut HubSide, frame: &CommandFrame) -> String {
    let is_it = |told: &AgentFrame| {
        matches!(told, AgentFrame::Progress { command_id, stage, .. }
            if *command_id == frame.command_id && stage.starts_with("undo window until "))
    };
    let AgentFrame::Progress { stage, .. } = hub.wait_for(is_it).await else {
        unreachable!("it was waited for")
    };
    stage
}

pub(crate) async fn outcome(bench: &Bench, hub: &mut HubSide, frame: &CommandFrame) -> Receipt {
    let receipt = hub.receipt_of(frame.command_id).await;
    hub.send(confirmed(&receipt)).await;
    bench.receipt(&receipt)
}

/// What a cancel came to, by its own receipt.
pub(crate) fn result(receipt: &Receipt) -> (String, Option<String>) {
    let (Outcome::Succeeded { evidence } | Outcome::Failed { evidence, .. }) = &receipt.outcome
    else {
        panic!("{receipt:?}")
    };
    let word = |name: &str| Some(evidence.get(name)?.as_str()?.to_owned());
    (word("result").unwrap(), word("step"))
}

fn held_now(agent: &Agent) -> usize {
    agent.status().commands.held.len()
}

#[tokio::test]
async fn wipe_is_called_back_in_its_window_and_both_receipts_say_so() {
    let (mut bench, _) = scene_of(wipe(), Duration::from_secs(3600));
    let volume = bench.config.host.wipe_targets[0].clone();
    let before = fs::read(&volume).unwrap();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let wipe = held(&bench, 1, 1, LONG);
    hub.send(HubFrame::Command(wipe.clone())).await;
    held_told(&mut hub, &wipe).await;
    // A command of the same lane does not wait behind it.
    let refused = bench.command(
        2,
        Action::Wipe(protocol::action::Wipe {
            level: protocol::action::WipeLevel::Keys,
            power_off: true,
        }),
        2,
    );
    hub.send(HubFrame::Command(refused.clone())).await;
    assert_eq!(reason(&outcome(&bench, &mut hub, &refused).await), RefusalReason::MissingApproval);

    let back = cancel(&bench, 3, 3, order(1));
    hub.send(HubFrame::Command(back.clone())).await;
    let receipt = bench.receipt(&hub.receipt_of(wipe.command_id).await);
    assert_eq!(reason(&receipt), RefusalReason::Cancelled);
    assert_eq!(result(&outcome(&bench, &mut hub, &back).await).0, "called_back");
    assert_eq!(held_now(&agent), 0);
    // Once more, by another order: it stays called back.
    let again = cancel(&bench, 4, 4, order(1));
    hub.send(HubFrame::Command(again.clone())).await;
    assert_eq!(result(&outcome(&bench, &mut hub, &again).await).0, "called_back");
    bench.kill(agent).await;
    drop(hub);
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(wipe.clone())).await;
    let receipt = bench.receipt(&hub.receipt_of(wipe.command_id).await);
    assert_eq!(reason(&receipt), RefusalReason::Cancelled);
    assert_eq!(fs::read(&volume).unwrap(), before);
    agent.drain().await.unwrap();
}

#[test]
fn acked_cancel_whose_outcome_does_not_fit_the_disk_is_overtaken_by_nothing() {
    in_mount_namespace(|| async {
        let mut bench = Bench::new();
        let mut server = bench.server().await;
        let wipe = held(&bench, 1, 1, 1);
        let back = cancel(&bench, 2, 2, order(1));
        let open = Held { command_id: wipe.command_id, since: now(), left_ms: 1000 };
        let both = bytes(&received(&bench, &wipe, 1)) + bytes(&received(&bench, &back, 2));
        // Then there is room for the end of the window and for an intent, and for no receipt.
        let room = both + bytes(&Record::Held(open)) + 300;
        let disk = Disk::with_room(&bench, room);
        let (agent, hand) = bench.start_by_hand();
        let mut hub = server.session().await;
        hub.send(HubFrame::Command(wipe.clone())).await;
        held_told(&mut hub, &wipe).await;
        hub.send(HubFrame::Command(back.clone())).await;
        let is_acked =
            |frame: &AgentFrame| *frame == AgentFrame::Ack { command_id: back.command_id };
        hub.wait_for(is_acked).await;
        until(|| agent.status().commands.journal_failing).await;
        // Beyond the end of the window: each time the disk is tried again, in vain.
        for _ in 0..2 {
            let before = tried_at(&bench);
            hand.advance(MORE_THAN_A_WINDOW);
            until(|| tried_at(&bench) != before).await;
            until(|| agent.status().commands.journal_failing).await;
        }
        assert!(bench.effects().is_empty(), "it was acked that nothing is destroyed");
        disk.free();
        hand.advance(MORE_THAN_A_WINDOW);
        let receipt = bench.receipt(&hub.receipt_of(wipe.command_id).await);
        assert_eq!(reason(&receipt), RefusalReason::Cancelled);
        assert!(bench.effects().is_empty());
        agent.drain().await.unwrap();
    });
}

/// When the agent last tried to write its journal, in vain or not.
fn tried_at(bench: &Bench) -> (i64, i64) {
    let file = fs::metadata(bench.journal_path()).unwrap();
    (file.ctime(), file.ctime_nsec())
}

/// Between the end of a step and its record a cancel may come first, if the disk was full for both.
#[test]
fn end_of_a_command_that_was_called_back_before_it_was_written_is_dropped() {
    in_mount_namespace(|| async {
        let (mut bench, wipe) = scene_of(wipe(), Duration::from_secs(LONG.into()));
        let mut server = bench.server().await;
        let back = cancel(&bench, 2, 2, order(1));
        // Then there is room for neither outcome.
        let both = bytes(&received(&bench, &wipe, 1)) + bytes(&received(&bench, &back, 2));
        let disk = Disk::with_room(&bench, both + 60);
        let agent = bench.start();
        let mut hub = server.session().await;
        // The plan hangs where it looks for the record of an earlier wipe.
        let pipe = bench.config.state_dir.join("wipe.json");
        run("mkfifo", &[pipe.to_str().unwrap()]);
        for frame in [&wipe, &back] {
            hub.send(HubFrame::Command(frame.clone())).await;
            let ack = AgentFrame::Ack { command_id: frame.command_id };
            hub.wait_for(|said| *said == ack).await;
        }
        until(|| agent.status().commands.journal_failing).await;
        // Now it fails, and that does not fit the disk either: it was tried since.
        until(|| release(&pipe)).await;
        until(|| !release(&pipe)).await;
        for _ in 0..2 {
            let before = tried_at(&bench);
            until(|| tried_at(&bench) != before).await;
        }
        disk.free();
        let first = hub.receipt_of(wipe.command_id).await;
        assert_eq!(reason(&bench.receipt(&first)), RefusalReason::Cancelled);
        // Nothing else is ever said of it.
        let next = bench.command(3, lock(), 3);
        hub.send(HubFrame::Command(next.clone())).await;
        let is_said = |frame: &AgentFrame| matches!(frame, AgentFrame::Receipt { .. });
        loop {
            let said = hub.wait_for(is_said).await;
            let AgentFrame::Receipt { command_id, .. } = &said else { unreachable!("a receipt") };
            if *command_id == next.command_id {
                break;
            }
            assert!(*command_id != wipe.command_id || said == first, "{:?}", bench.receipt(&said));
        }
        let records = Journal::peek(&bench.journal_path()).unwrap().unwrap();
        let id = wipe.command_id;
        let is_end =
            |r: &&Record| matches!(r, Record::Done { command_id, .. } if *command_id == id);
        assert_eq!(records.iter().filter(is_end).count(), 1);
        agent.drain().await.unwrap();
    });
}

#[tokio::test]
async fn wipe_that_nobody_calls_back_begins_when_its_window_is_over() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let wipe = held(&bench, 1, 1, 1);
    hub.send(HubFrame::Command(wipe.clone())).await;
    held_told(&mut hub, &wipe).await;
    let receipt = outcome(&bench, &mut hub, &wipe).await;
    assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
    let journal = bench.journal();
    let at = |text: &str| journal.find(text).unwrap_or_else(|| panic!("no {text}"));
    assert!(at("\"left_ms\":1000") < at("\"left_ms\":0"));
    assert!(at("\"left_ms\":0") < at("\"intent\""));

    let late = cancel(&bench, 2, 2, order(1));
    hub.send(HubFrame::Command(late.clone())).await;
    let receipt = outcome(&bench, &mut hub, &late).await;
    assert_eq!(result(&receipt), ("too_late".to_owned(), Some("ended".to_owned())));
    assert_eq!(bench.effects().len(), 1);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn held_wipe_has_one_effect_wherever_the_agent_is_killed() {
    for stage in ["plan", "undo window until ", "apply", "prove"] {
        let mut bench = Bench::new();
        let mut server = bench.server().await;
        let agent = bench.start();
        let mut hub = server.session().await;
        let wipe = held(&bench, 1, 1, 1);
        hub.send(HubFrame::Command(wipe.clone())).await;
        let is_there = |frame: &AgentFrame| matches!(frame, AgentFrame::Progress { stage: reached, .. } if reached.starts_with(stage));
        hub.wait_for(is_there).await;
        bench.kill(agent).await;
        drop(hub);
        let agent = bench.start();
        let mut hub = server.session().await;
        let receipt = outcome(&bench, &mut hub, &wipe).await;
        assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{stage}: {receipt:?}");
        assert_eq!(bench.effects().len(), 1, "{stage}");
        agent.drain().await.unwrap();
    }
}

#[tokio::test]
async fn window_outlasts_a_crash_and_is_told_and_closed_after_it() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let wipe = held(&bench, 1, 1, LONG);
    hub.send(HubFrame::Command(wipe.clone())).await;
    held_told(&mut hub, &wipe).await;
    bench.kill(agent).await;
    drop(hub);
    let agent = bench.start();
    assert_eq!(held_now(&agent), 1);
    let mut hub = server.session().await;
    held_told(&mut hub, &wipe).await;
    // And an orderly stop.
    drop(hub);
    agent.drain().await.unwrap();
    let agent = bench.start();
    let mut hub = server.session().await;
    held_told(&mut hub, &wipe).await;
    let lock = bench.command(2, lock(), 2);
    hub.send(HubFrame::Command(lock.clone())).await;
    let receipt = outcome(&bench, &mut hub, &lock).await;
    assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
    let back = cancel(&bench, 3, 3, order(1));
    hub.send(HubFrame::Command(back.clone())).await;
    assert_eq!(result(&outcome(&bench, &mut hub, &back).await).0, "called_back");
    assert_eq!(bench.effects(), [format!("lock {}", lock.command_id)]);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn cancel_that_comes_before_its_order_bars_it() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let early = cancel(&bench, 2, 1, order(1));
    hub.send(HubFrame::Command(early.clone())).await;
    assert_eq!(result(&outcome(&bench, &mut hub, &early).await).0, "unknown");
    bench.kill(agent).await;
    drop(hub);
    let agent = bench.start();
    let mut hub = server.session().await;
    let wipe = held(&bench, 1, 2, 0);
    hub.send(HubFrame::Command(wipe.clone())).await;
    assert_eq!(reason(&outcome(&bench, &mut hub, &wipe).await), RefusalReason::Cancelled);
    // What destroys nothing is not barred by that.
    let lock = bench.command(3, lock(), 3);
    let early = cancel(&bench, 4, 4, order(5));
    for frame in [&lock, &early] {
        hub.send(HubFrame::Command(frame.clone())).await;
        outcome(&bench, &mut hub, frame).await;
    }
    let unlock = bench.command(5, Action::Unlock(protocol::action::Unlock {}), 5);
    hub.send(HubFrame::Command(unlock.clone())).await;
    outcome(&bench, &mut hub, &unlock).await;
    assert_eq!(bench.effects().len(), 2);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_cancel_takes_back_nothing_that_can_be_undone() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let lock = bench.command(1, lock(), 1);
    hub.send(HubFrame::Command(lock.clone())).await;
    let locked = outcome(&bench, &mut hub, &lock).await;
    assert!(matches!(locked.outcome, Outcome::Succeeded { .. }));
    let fake = cancel(&bench, 2, 2, order(1));
    hub.send(HubFrame::Command(fake.clone())).await;
    let receipt = outcome(&bench, &mut hub, &fake).await;
    assert!(!matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
    assert_eq!(bench.effects(), [format!("lock {}", lock.command_id)]);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_control_plane_does_not_shorten_a_window() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    // Approved with an hour, and sent without one.
    let mut shortened = window(&bench, 1, 1, Some(LONG));
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    shortened = bench.organisation.approved(shortened, &approvers);
    shortened.manifest.undo_secs = Some(0);
    let shortened = bench.organisation.deliver(&shortened, 0);
    hub.send(HubFrame::Command(shortened.clone())).await;
    let receipt = outcome(&bench, &mut hub, &shortened).await;
    assert_eq!(reason(&receipt), RefusalReason::WidenedManifest);
    // Approved without one, where the trust root asks for an hour.
    let undo_secs = [("wipe".to_owned(), LONG)].into();
    let root = TrustRoot { version: 2, undo_secs, ..bench.organisation.trust.clone() };
    let root = SignedTrustRoot::sign(&root, &[&bench.organisation.root_key]).unwrap();
    hub.send(HubFrame::Trust { root }).await;
    until(|| agent.status().commands.trust_version == 2).await;
    let wipe = deliver(&bench, window(&bench, 2, 2, Some(0)));
    hub.send(HubFrame::Command(wipe.clone())).await;
    held_told(&mut hub, &wipe).await;
    // A trust root that asks for less comes too late for this one.
    let root = TrustRoot { version: 3, ..bench.organisation.trust.clone() };
    let root = SignedTrustRoot::sign(&root, &[&bench.organisation.root_key]).unwrap();
    hub.send(HubFrame::Trust { root }).await;
    until(|| agent.status().commands.trust_version == 3).await;
    assert_eq!(held_now(&agent), 1);
    assert!(bench.effects().is_empty());
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn clock_that_is_set_ends_no_window_and_who_approves_no_more_does() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let (agent, hand) = bench.start_by_hand();
    let mut hub = server.session().await;
    let wipe = held(&bench, 1, 1, LONG);
    hub.send(HubFrame::Command(wipe.clone())).await;
    held_told(&mut hub, &wipe).await;
    // Each word from the hub makes the agent look at what is due.
    hand.set_unix_millis(now().plus(Duration::from_secs(30 * 24 * 3600)).as_millis());
    let mut approvers = bench.organisation.trust.approvers.clone();
    approvers.retain(|approver| approver.person.as_str() != "bob");
    let root = TrustRoot { version: 2, approvers, ..bench.organisation.trust.clone() };
    let root = SignedTrustRoot::sign(&root, &[&bench.organisation.root_key]).unwrap();
    hub.send(HubFrame::Trust { root }).await;
    until(|| agent.status().commands.trust_version == 2).await;
    assert_eq!(held_now(&agent), 1);
    hand.advance(Duration::from_secs(LONG.into()));
    hub.send(HubFrame::Command(bench.command(2, lock(), 2))).await;
    let receipt = bench.receipt(&hub.receipt_of(wipe.command_id).await);
    assert_eq!(reason(&receipt), RefusalReason::BadApproval);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn damaged_journal_does_not_begin_a_wipe_that_may_have_been_called_back() {
    let (mut bench, _) = scene_of(wipe(), Duration::from_secs(3600));
    let volume = bench.config.host.wipe_targets[0].clone();
    let before = fs::read(&volume).unwrap();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let wipe = held(&bench, 1, 1, LONG);
    hub.send(HubFrame::Command(wipe.clone())).await;
    held_told(&mut hub, &wipe).await;
    let back = cancel(&bench, 2, 2, order(1));
    hub.send(HubFrame::Command(back.clone())).await;
    outcome(&bench, &mut hub, &back).await;
    bench.kill(agent).await;
    drop(hub);
    // The record of the cancel is the one that is damaged.
    let mut journal = fs::read(bench.journal_path()).unwrap();
    let text = String::from_utf8_lossy(&journal).into_owned();
    let at = text.find("\"done\"").expect("the end of the wipe");
    journal[at] ^= 1;
    fs::write(bench.journal_path(), journal).unwrap();
    let agent = bench.start();
    assert!(agent.status().commands.journal_damaged);
    let mut hub = server.session().await;
    let receipt = outcome(&bench, &mut hub, &wipe).await;
    assert!(matches!(receipt.outcome, Outcome::InDoubt { .. }), "{receipt:?}");
    assert_eq!(receipt.command_id, command(1));
    assert_eq!(fs::read(&volume).unwrap(), before);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn damaged_journal_does_not_repeat_a_wipe_of_which_nothing_shows_that_it_began() {
    let (mut bench, _) = scene_of(wipe(), Duration::from_secs(3600));
    let volume = bench.config.host.wipe_targets[0].clone();
    let before = fs::read(&volume).unwrap();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    // There is no window in which it could have been called back.
    let wipe = deliver(&bench, window(&bench, 1, 1, None));
    hub.send(HubFrame::Command(wipe.clone())).await;
    let receipt = outcome(&bench, &mut hub, &wipe).await;
    assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
    // Its end is not the last that the journal knows: a torn last record would be no damage.
    let next = bench.command(2, Action::Refresh(protocol::action::Refresh {}), 2);
    hub.send(HubFrame::Command(next.clone())).await;
    outcome(&bench, &mut hub, &next).await;
    bench.kill(agent).await;
    drop(hub);
    let mut journal = fs::read(bench.journal_path()).unwrap();
    let text = String::from_utf8_lossy(&journal).into_owned();
    let at = text.find("\"done\"").expect("the end of the wipe");
    journal[at] ^= 1;
    fs::write(bench.journal_path(), journal).unwrap();
    // Somebody has set the device up anew since.
    fs::write(&volume, &before).unwrap();
    fs::remove_file(bench.config.state_dir.join("wipe.json")).unwrap();
    let agent = bench.start();
    assert!(agent.status().commands.journal_damaged);
    let mut hub = server.session().await;
    let receipt = outcome(&bench, &mut hub, &wipe).await;
    assert!(matches!(receipt.outcome, Outcome::InDoubt { .. }), "{receipt:?}");
    assert_eq!(fs::read(&volume).unwrap(), before);
    agent.drain().await.unwrap();
}
