//! A disk that is full, for real: the journal lies on a small file system of its own, in a mount
//! namespace that ends with the test.

use std::fs::{self, File};
use std::io::Write as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::journal::Journal;
use nix::sched::{CloneFlags, unshare};
use protocol::fixture::lock;
use protocol::frame::{AgentFrame, CommandFrame, HubFrame};
use protocol::ledger::{Received, Record};
use protocol::receipt::Outcome;
use protocol::trust::{SignedTrustRoot, TrustRoot};

use crate::bench::{Bench, until};

/// What tmpfs gives out at a time.
const PAGE: usize = 4096;
/// Bytes that are left: fewer than any record has.
const REST: usize = 20;

/// Runs a test in a mount namespace of its own.
pub(crate) fn in_mount_namespace<F: Future<Output = ()>>(
    test: impl FnOnce() -> F + Send + 'static,
) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root (CAP_SYS_ADMIN)");
        run("mount", &["--make-rprivate", "/"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    thread.join().unwrap_or_else(|panic| resume_unwind(panic));
}

pub(crate) fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// The disk that the journal lies on.
pub(crate) struct Disk {
    filler: PathBuf,
}

impl Disk {
    /// A disk that has room for that many bytes of records, and for none beyond.
    pub(crate) fn with_room(bench: &Bench, room: usize) -> Self {
        let path = bench.journal_path();
        let len = pad(&path, room);
        let folder = bench.config.state_dir.with_file_name("disk");
        fs::create_dir(&folder).unwrap();
        let mounted = folder.to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=128k", "tocsin-journal", mounted]);
        let there = folder.join("journal");
        fs::copy(&path, &there).unwrap();
        let filler = folder.join("filler");
        let mut file = File::create(&filler).unwrap();
        let mut filled = 0;
        while file.write_all(&[1; PAGE]).is_ok() {
            filled += PAGE;
        }
        let pages = (len + room).div_ceil(PAGE) - len.div_ceil(PAGE);
        file.set_len((filled - pages * PAGE) as u64).unwrap();
        run("mount", &["--bind", there.to_str().unwrap(), path.to_str().unwrap()]);
        Self { filler }
    }

    /// Somebody makes room.
    pub(crate) fn free(&self) {
        fs::remove_file(&self.filler).unwrap();
    }
}

/// Lengthens a fresh journal, so that a page ends soon after `room` more bytes. Its length.
fn pad(path: &Path, room: usize) -> usize {
    let mut journal = Journal::open(path).unwrap().journal;
    // A confirmation of nothing changes nothing, and may be of any length.
    let padding = |len| Record::Confirmed { receipt_sha256: "x".repeat(len) };
    let len = usize::try_from(journal.len()).unwrap() + bytes(&padding(0)) + room + REST;
    journal.append(&[padding(len.next_multiple_of(PAGE) - len)]).unwrap();
    usize::try_from(journal.len()).unwrap()
}

/// The bytes of a record in the journal.
pub(crate) fn bytes(record: &Record) -> usize {
    8 + serde_json::to_vec(record).unwrap().len()
}

/// The record that a command becomes.
pub(crate) fn received(bench: &Bench, frame: &CommandFrame, seq: u64) -> Record {
    let envelope = bench.envelope(1, lock(), seq);
    Record::Received(Received {
        command_id: frame.command_id,
        order_id: envelope.order_id(),
        lane: frame.lane,
        seq,
        remember_until: envelope.manifest.expires_at,
        envelope: frame.jws.clone(),
        is_about_orders: false,
    })
}

#[test]
fn full_disk_keeps_commands_waiting_and_each_ends_once_when_there_is_room() {
    in_mount_namespace(|| async {
        let mut bench = Bench::new();
        let mut server = bench.server().await;
        let disk = Disk::with_room(&bench, 0);
        let (agent, hand) = bench.start_by_hand();
        let mut hub = server.session().await;
        assert!(!hub.hello.capabilities.iter().any(|word| word == "journal_failing"));
        let command = bench.command(1, lock(), 1);
        hub.send(HubFrame::Command(command.clone())).await;
        until(|| agent.status().commands.journal_failing).await;
        assert!(agent.status().commands.last_error.unwrap().contains("journal"));
        hub.send(HubFrame::Command(command.clone())).await;
        // What comes after it has been taken, so it was looked at as well.
        let root = TrustRoot { version: 2, ..bench.organisation.trust.clone() };
        let root = SignedTrustRoot::sign(&root, &[&bench.organisation.root_key]).unwrap();
        hub.send(HubFrame::Trust { root }).await;
        until(|| agent.status().commands.trust_version == 2).await;
        disk.free();
        hand.advance(Duration::from_secs(2));
        // The first thing it says is that it missed something: nothing was acked before.
        let frame = hub.next().await.unwrap();
        assert!(matches!(frame, AgentFrame::Sync { last_seq } if last_seq.urgent == 0));
        assert!(!bench.journal().contains(command.jws.as_str()));
        assert!(bench.effects().is_empty());
        hub.send(HubFrame::Command(command.clone())).await;
        assert_eq!(hub.ack().await, AgentFrame::Ack { command_id: command.command_id });
        let receipt = bench.receipt(&hub.receipt().await);
        assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }));
        until(|| !agent.status().commands.journal_failing).await;
        hub.send(HubFrame::Command(command.clone())).await;
        drop(hub);
        bench.kill(agent).await;
        let agent = bench.start();
        server.session().await.receipt().await;
        assert_eq!(bench.effects(), [format!("lock {}", command.command_id)]);
        assert!(!agent.status().commands.journal_damaged);
        agent.drain().await.unwrap();
    });
}

#[test]
fn disk_that_fills_up_before_the_effect_holds_the_effect_back() {
    in_mount_namespace(|| async {
        let mut bench = Bench::new();
        let mut server = bench.server().await;
        let command = bench.command(1, lock(), 1);
        let disk = Disk::with_room(&bench, bytes(&received(&bench, &command, 1)));
        let agent = bench.start();
        let mut hub = server.session().await;
        hub.send(HubFrame::Command(command.clone())).await;
        assert_eq!(hub.ack().await, AgentFrame::Ack { command_id: command.command_id });
        until(|| agent.status().commands.journal_failing).await;
        drop(hub);
        let mut hub = server.session().await;
        assert!(hub.hello.capabilities.iter().any(|word| word == "journal_failing"));
        assert!(bench.effects().is_empty(), "no intent, no effect");
        disk.free();
        let applies =
            |f: &AgentFrame| matches!(f, AgentFrame::Progress { stage, .. } if stage == "apply");
        hub.wait_for(applies).await;
        assert!(bench.journal().contains("\"intent\""));
        let receipt = bench.receipt(&hub.receipt().await);
        assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }));
        assert_eq!(bench.effects(), [format!("lock {}", command.command_id)]);
        agent.drain().await.unwrap();
    });
}

#[test]
fn disk_that_fills_up_after_the_effect_holds_the_receipt_back() {
    in_mount_namespace(|| async {
        let mut bench = Bench::new();
        let mut server = bench.server().await;
        let command = bench.command(1, lock(), 1);
        let intent = Record::Intent { command_id: command.command_id };
        let room = bytes(&received(&bench, &command, 1)) + bytes(&intent);
        let disk = Disk::with_room(&bench, room);
        let agent = bench.start();
        let mut hub = server.session().await;
        hub.send(HubFrame::Command(command.clone())).await;
        until(|| agent.status().commands.journal_failing).await;
        assert_eq!(bench.effects().len(), 1);
        // A power cut now: the next start finds out what happened, and does nothing again.
        bench.kill(agent).await;
        while let Some(frame) = hub.next().await {
            assert!(!matches!(frame, AgentFrame::Receipt { .. }), "not on disk, and sent");
        }
        disk.free();
        let agent = bench.start();
        let mut hub = server.session().await;
        let receipt = hub.receipt().await;
        let AgentFrame::Receipt { jws, .. } = &receipt else { unreachable!("it is a receipt") };
        assert!(bench.journal().contains(jws.as_str()));
        assert!(matches!(bench.receipt(&receipt).outcome, Outcome::Succeeded { .. }));
        assert_eq!(bench.effects(), [format!("lock {}", command.command_id)]);
        agent.drain().await.unwrap();
    });
}
