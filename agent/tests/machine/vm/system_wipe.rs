//! Wipes of the volume that the running system itself lies on: whether the agent outlives what it runs from, and
//! what is left on the drive.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use protocol::action::{Action, Wipe, WipeLevel};
use serde_json::{Value, json};

use super::company::assert_destroyed;
use super::encrypted::{DATA, DOES_NOT_OPEN, VOLUME};
use super::wipe::{opened_by, succeeded};
use crate::on_a_machine;
use crate::scene::Scene;
use crate::vm::{Bus, Vm};

/// Bytes that are compared at a time: what the volume encrypts at a time.
const SECTOR: usize = 4096;
/// Bytes of the data in which a wipe is seen that has begun with it.
const BEGINNING: usize = 1 << 20;
/// Has the kernel forget what it knows of the disk, as where memory is short, but for a program that was just run.
const FORGET: &str = "sync; echo 3 > /proc/sys/vm/drop_caches; systemctl --version";

impl Vm {
    /// So many bytes of the system's volume, as the drive shows them.
    fn volume(&self, from: u64, bytes: usize) -> Vec<u8> {
        let mut found = vec![0; bytes];
        File::open(self.system()).unwrap().read_exact_at(&mut found, VOLUME.start + from).unwrap();
        found
    }

    /// Headers and keys of the system's volume.
    fn head(&self) -> Vec<u8> {
        self.volume(0, usize::try_from(DATA).unwrap())
    }

    fn data(&self) -> Vec<u8> {
        self.volume(DATA, usize::try_from(VOLUME.end - VOLUME.start - DATA).unwrap())
    }

    /// A file that is the system's volume.
    fn copied_volume(&self) -> PathBuf {
        let copy = self.base.join("copy");
        fs::write(&copy, self.volume(0, usize::try_from(VOLUME.end - VOLUME.start).unwrap()))
            .unwrap();
        copy
    }

    /// Puts headers and keys back that somebody had kept.
    fn put_back(&self, head: &[u8]) {
        let file = File::options().write(true).open(self.system()).unwrap();
        file.write_all_at(head, VOLUME.start).unwrap();
    }

    /// It does not start any more.
    fn assert_dead(&mut self) {
        self.power_up();
        assert_eq!(self.wait_until_off(), 0);
        assert!(self.said().contains(DOES_NOT_OPEN), "{}", self.said());
    }
}

async fn encrypted_machine(bus: Bus) -> Scene<Vm> {
    let mut scene = Scene::virtual_machine().await;
    (scene.machine.is_encrypted, scene.machine.system_bus) = (true, bus);
    scene.machine.boot();
    assert_eq!(scene.machine.sh("findmnt --noheadings --output SOURCE /"), "/dev/mapper/system");
    scene
}

fn wipe(level: WipeLevel) -> Action {
    Action::Wipe(Wipe { level, power_off: true })
}

#[test]
fn running_system_whose_keys_went_starts_by_a_backup_alone_and_its_keys_go_before_its_data() {
    let test = "vm::system_wipe::running_system_whose_keys_went_starts_by_a_backup_alone_and_its_keys_go_before_its_data";
    on_a_machine(test, || async {
        let mut scene = encrypted_machine(Bus::Nvme).await;
        let before = scene.machine.head();
        let command = scene.give(wipe(WipeLevel::Keys)).await;
        let evidence = succeeded(scene.outcome(&command).await);
        assert_eq!(evidence.get("grade"), Some(&json!("proven")));
        assert_eq!(evidence.get("targets").unwrap()[0]["keyslots_left"], json!(0));
        assert_eq!(evidence.get("still_open"), Some(&json!(["/dev/nvme0n1p2"])));
        assert_eq!(evidence.get("header_backup_opens"), Some(&json!(true)));
        assert_eq!(scene.machine.wait_until_off(), 0, "and the power went");
        assert_destroyed(&scene.machine.copied_volume(), &before);
        scene.machine.assert_dead();

        // The receipt said so: whoever has the keys of before has everything.
        scene.machine.put_back(&before);
        scene.machine.system_bus = Bus::Virtio;
        scene.machine.boot();
        let data = scene.machine.data();
        let slow = json!({ "device": "system", "bps": 0, "bps_rd": 0, "bps_wr": 4 << 20,
            "iops": 0, "iops_rd": 0, "iops_wr": 0 });
        scene.machine.monitor().ask("block_set_io_throttle", &slow);
        let command = scene.give(wipe(WipeLevel::Data)).await;
        let proof = scene.proof(&command).await;
        assert_eq!(proof.evidence.get("targets").unwrap()[0]["keyslots_left"], json!(0));
        // Whichever: the running system may write some of them again.
        let is_erased = |(was, now): (&[u8], &[u8])| was != [0; SECTOR] && now == [0; SECTOR];
        let has_begun = |now: &[u8]| data.chunks(SECTOR).zip(now.chunks(SECTOR)).any(is_erased);
        while !has_begun(&scene.machine.volume(DATA, BEGINNING)) {
            assert!(!scene.machine.is_off(), "it went down before anybody saw data go");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        scene.machine.cut_power();
        let after = scene.machine.data();
        assert_eq!(after[after.len() - SECTOR..], data[data.len() - SECTOR..], "in the middle");
        assert_destroyed(&scene.machine.copied_volume(), &before);
        scene.machine.assert_dead();
        // What is not erased yet opens with the keys of before, and is no system any more.
        scene.machine.put_back(&before);
        assert_eq!(opened_by(&scene.machine.copied_volume()), [true, true]);
        scene.machine.assert_dead();
    });
}

#[test]
fn running_system_is_erased_from_under_the_agent_which_proves_it_and_powers_off() {
    let test = "vm::system_wipe::running_system_is_erased_from_under_the_agent_which_proves_it_and_powers_off";
    on_a_machine(test, || all_data_goes(Bus::Virtio, "/dev/vda2", "overwritten"));
}

#[test]
fn running_systems_drive_erases_itself_from_under_the_agent_which_proves_it_and_powers_off() {
    let test = "vm::system_wipe::running_systems_drive_erases_itself_from_under_the_agent_which_proves_it_and_powers_off";
    on_a_machine(test, || all_data_goes(Bus::Nvme, "/dev/nvme0n1p2", "drive"));
}

async fn all_data_goes(bus: Bus, path: &str, erasure: &str) {
    let mut scene = encrypted_machine(bus).await;
    let head = scene.machine.head();
    let command = scene.give(wipe(WipeLevel::Data)).await;
    let proof = scene.unconfirmed_proof(&command).await;
    assert_eq!(proof.evidence.get("targets").unwrap()[0]["keyslots_left"], json!(0));
    assert_destroyed(&scene.machine.copied_volume(), &head);
    scene.machine.sh(FORGET);
    scene.proof(&command).await;
    let evidence = succeeded(scene.outcome(&command).await);
    let target = &evidence.get("targets").unwrap()[0];
    assert_eq!((&target["path"], &target["erasure"]), (&json!(path), &json!(erasure)));
    // The system still writes, and claims no more.
    assert_eq!(evidence.get("grade"), Some(&json!("proven")));
    assert_eq!(evidence.get("still_open"), Some(&json!([path])));
    assert_eq!(evidence.get("unencrypted").unwrap_or(&Value::Null), &Value::Null);
    assert_eq!(scene.machine.wait_until_off(), 0, "and the power went");

    let after = scene.machine.data();
    let sectors = || after.chunks(SECTOR);
    let written = sectors().filter(|now| now.iter().any(|byte| *byte != 0)).count();
    // What the running system wrote behind the eraser, until the power went.
    assert!(written < sectors().count() / 10, "{written} sectors");
    scene.machine.put_back(&head);
    assert_eq!(opened_by(&scene.machine.copied_volume()), [true, true], "to nothing");
}
