//! A disk that the kernel has made read-only after an error, for real: the state directory lies on
//! a small ext4 on a loop device, in a mount namespace that ends with the test.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use agent::{Agent, Deps};
use protocol::fixture::lock;
use protocol::frame::{AgentFrame, HubFrame};
use protocol::receipt::Outcome;
use runtime::{Clock, Drain, Entropy};

use crate::bench::{Bench, confirmed, until};
use crate::disk::{in_mount_namespace, run};

/// Bytes of the disk.
const SIZE: u64 = 16 * 1024 * 1024;

/// The disk under a device's state directory.
struct Disk {
    image: PathBuf,
    state: String,
}

impl Disk {
    fn under(bench: &Bench) -> Self {
        let state = bench.config.state_dir.clone();
        let image = state.with_file_name("disk.ext4");
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let former = state.with_file_name("former");
        run("mkfs.ext4", &["-q", "-E", "nodiscard", image.to_str().unwrap()]);
        std::fs::rename(&state, &former).unwrap();
        std::fs::create_dir(&state).unwrap();
        let disk = Self { image, state: state.to_str().unwrap().to_owned() };
        disk.mount();
        run("cp", &["-a", &format!("{}/.", former.to_str().unwrap()), &disk.state]);
        run("sync", &["-f", &disk.state]);
        disk
    }

    fn mount(&self) {
        run("mount", &["-o", "loop", self.image.to_str().unwrap(), &self.state]);
    }

    /// What `errors=remount-ro` does when the device fails: files stay open, and nothing is
    /// written any more.
    fn fails(&self) {
        run("mount", &["-o", "remount,abort", &self.state]);
        assert!(File::create(format!("{}/probe", self.state)).is_err(), "it can be written");
    }

    /// What a person does about it.
    async fn repair(&self) {
        // The last thread of the agent that was killed may have a file open yet.
        let unmounted = || Command::new("umount").arg(&self.state).output().unwrap().status;
        until(|| unmounted().success()).await;
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Before the folder goes; the loop device goes with its mount.
        let unmounting = Command::new("umount").args(["-l", &self.state]).status();
        drop(unmounting);
    }
}

#[test]
fn f03_read_only_disk_holds_commands_back_and_each_ends_once_when_it_is_repaired() {
    in_mount_namespace(|| async {
        let mut bench = Bench::new();
        let mut server = bench.server().await;
        let disk = Disk::under(&bench);
        let agent = bench.start();
        let mut hub = server.session().await;
        let before = bench.command(1, lock(), 1);
        hub.send(HubFrame::Command(before.clone())).await;
        let receipt = hub.receipt().await;
        hub.send(confirmed(&receipt)).await;
        until(|| agent.status().commands.unconfirmed == 0).await;

        disk.fails();
        let held = [bench.command(2, lock(), 2), bench.command(3, lock(), 3)];
        for command in &held {
            hub.send(HubFrame::Command(command.clone())).await;
        }
        until(|| agent.status().commands.journal_failing).await;
        assert_eq!(bench.effects(), [format!("lock {}", before.command_id)]);
        drop(agent);
        while let Some(frame) = hub.next().await {
            let is_word = matches!(frame, AgentFrame::Ack { .. } | AgentFrame::Receipt { .. });
            assert!(!is_word, "not on disk, and said: {frame:?}");
        }
        // It does not run on what it cannot write.
        let deps = Deps { clock: Clock::system(), entropy: Entropy::system(), drain: Drain::new() };
        assert!(Agent::start(bench.config.clone(), deps).is_err());

        disk.repair().await;
        let agent = bench.start();
        let mut hub = server.session().await;
        assert_eq!(hub.hello.last_seq.urgent, 1, "nothing was taken");
        for command in &held {
            hub.send(HubFrame::Command(command.clone())).await;
            let receipt = bench.receipt(&hub.receipt_of(command.command_id).await);
            assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
        }
        let done =
            [&before, &held[0], &held[1]].map(|command| format!("lock {}", command.command_id));
        assert_eq!(bench.effects(), done);
        agent.drain().await.unwrap();
    });
}
