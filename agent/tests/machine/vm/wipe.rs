//! Wipes of volumes on drives of a machine that has real ones: it says what a receipt says, and what is left on
//! the drives is looked at from outside when the power is off.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use protocol::action::{Action, Wipe, WipeLevel};
use protocol::receipt::{Evidence, Outcome, Receipt};
use serde_json::{Value, json};

use crate::luks::{PASSPHRASES, format, opens};
use crate::on_a_machine;
use crate::scene::Scene;
use crate::vm::{Bus, Vm, company};

/// Bytes of a drive: a volume's headers and keys take the first half.
const DRIVE_BYTES: u64 = 32 << 20;
pub(super) const DATA: usize = 16 << 20;
/// Where the first passphrase's keyslot lies, as `cryptsetup luksFormat` lays volumes out.
pub(super) const FIRST_KEYSLOT: u64 = 32 * 1024;

/// Makes a volume on a drive that is not attached yet.
pub(super) fn make_volume(drive: &Path) {
    format(drive, DRIVE_BYTES, &["-q", "luksFormat", "--type", "luks2"]);
}

pub(super) fn uuid(drive: &Path) -> String {
    let output = Command::new("/usr/sbin/cryptsetup").arg("luksUUID").arg(drive).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Opens a volume inside, and fills it with somebody's files.
pub(super) fn use_volume(machine: &Vm, name: &str, uuid: &str) {
    let device = format!("/dev/disk/by-uuid/{uuid}");
    machine.sh(&format!(
        "while ! test -e {device}; do sleep 0.1; done && \
         printf '{first}' | cryptsetup open --key-file - {device} {name} && \
         mkfs.ext4 -q /dev/mapper/{name} && mkdir -p /srv/{name} && \
         mount /dev/mapper/{name} /srv/{name} && \
         dd if=/dev/urandom of=/srv/{name}/files bs=1M count=8 conv=fsync",
        first = PASSPHRASES[0]
    ));
}

pub(super) fn opened_by(drive: &Path) -> [bool; 2] {
    PASSPHRASES.map(|passphrase| opens(drive, passphrase))
}

pub(super) fn succeeded(receipt: Receipt) -> Evidence {
    let Outcome::Succeeded { evidence } = receipt.outcome else { panic!("{receipt:?}") };
    evidence
}

/// The entry about a path in one of a receipt's lists.
fn about<'a>(evidence: &'a Evidence, list: &str, path: &str) -> &'a Value {
    let list = evidence.get(list).and_then(Value::as_array).unwrap();
    list.iter().find(|entry| entry["path"] == json!(path)).unwrap()
}

#[test]
fn drives_show_from_outside_what_the_receipt_says_of_them() {
    let test = "vm::wipe::drives_show_from_outside_what_the_receipt_says_of_them";
    on_a_machine(test, || async {
        let mut scene = Scene::virtual_machine().await;
        let nvme = scene.machine.attach(Bus::Nvme, "flash");
        let ata = scene.machine.attach(Bus::Ata, "ata");
        let swap = scene.machine.attach(Bus::Nvme, "swap");
        fs::File::create(&swap).unwrap().set_len(DRIVE_BYTES).unwrap();
        let uuids = [&nvme, &ata].map(|drive| {
            make_volume(drive);
            uuid(drive)
        });
        let company = company::attach(&mut scene.machine);
        scene.machine.boot();
        use_volume(&scene.machine, "flash", &uuids[0]);
        use_volume(&scene.machine, "ata", &uuids[1]);
        company::scripts_are_not_spared_like_the_agent(&mut scene).await;
        company.goes_alone(&mut scene, &nvme).await;
        let device = |serial: &str| {
            let list = "lsblk --nodeps --noheadings --output PATH,SERIAL";
            scene.machine.sh(&format!("{list} | sed -n 's/ *{serial}$//p'"))
        };
        let (flash_path, ata_path) = (device("flash"), device("ata"));
        let swap_path = device("swap");
        let system = scene.machine.sh("findmnt --noheadings --output SOURCE /");
        scene.machine.sh(&format!("mkswap {swap_path} && swapon {swap_path}"));

        let wipe = Wipe { level: WipeLevel::Data, power_off: true };
        let command = scene.give(Action::Wipe(wipe)).await;
        let proof = scene.proof(&command).await;
        company::assert_score(&scene.machine, "-1000");
        for (drive, path) in [(&nvme, &flash_path), (&ata, &ata_path)] {
            assert_eq!(about(&proof.evidence, "targets", path)["keyslots_left"], json!(0));
            assert_eq!(opened_by(drive), [false, false], "while the power is on");
        }
        let evidence = succeeded(scene.outcome(&command).await);
        assert_eq!(evidence.get("grade"), Some(&json!("proven")));
        assert_eq!(evidence.get("header_backup_opens"), Some(&json!(false)));
        assert_eq!(about(&evidence, "drives", &flash_path)["method"], json!("nvme_format_erase"));
        assert_eq!(about(&evidence, "targets", &flash_path)["erasure"], json!("drive"));
        // This one has no way to erase itself, nor to give space back and show zeros.
        assert_eq!(about(&evidence, "drives", &ata_path)["method"], Value::Null);
        assert_eq!(about(&evidence, "targets", &ata_path)["erasure"], json!("overwritten"));
        // Nor do the other drives go with it: its swap was in use, and is given back.
        assert_eq!(about(&evidence, "swaps", &swap_path)["grade"], json!("proven_media"));
        assert_eq!(about(&evidence, "swaps", &swap_path)["erasure"], json!("unmapped"));
        // No program that lies on the disk need start any more: its file system is erased as well.
        let swaps = "while read -r line; do last=$line; done < /proc/swaps; echo \"$last\"";
        assert!(scene.machine.sh(swaps).starts_with("Filename"), "nothing is swapped to");
        let root = about(&evidence, "file_systems", &system);
        // Given back it is too, but what runs writes, so that it does not show zeros.
        assert_eq!((&root["erasure"], &root["grade"]), (&json!("overwritten"), &json!("unproven")));
        assert_eq!(evidence.get("still_open"), Some(&json!([system])));
        assert_eq!(scene.machine.wait_until_off(), 0, "and the power went");

        // The file systems were mounted to the end. What they wrote meanwhile went nowhere.
        let [flash, ata, swap] = [&nvme, &ata, &swap].map(|drive| fs::read(drive).unwrap());
        for (name, bytes) in [("flash", &flash[..]), ("ata", &ata[DATA..]), ("swap", &swap)] {
            let left = bytes.iter().filter(|byte| **byte != 0).count();
            assert_eq!(left, 0, "bytes that are left on {name}");
        }
        assert_eq!(opened_by(&nvme), [false, false]);
        // The system was written to until the power went: a few blocks, and nothing to start from.
        let system = fs::read(scene.machine.system()).unwrap();
        let written =
            system.chunks(4096).filter(|block| block.iter().any(|byte| *byte != 0)).count();
        assert!(written < system.len() / 4096 / 20, "{written} blocks of {}", system.len());
    });
}

#[test]
fn wipe_whose_power_was_cut_is_gone_on_with_before_anybody_logs_in() {
    let test = "vm::wipe::wipe_whose_power_was_cut_is_gone_on_with_before_anybody_logs_in";
    on_a_machine(test, || async {
        let mut scene = Scene::virtual_machine().await;
        let drive = scene.machine.attach(Bus::Nvme, "flash");
        make_volume(&drive);
        let crypttab = format!("files UUID={} none noauto\n", uuid(&drive));
        scene.machine.write("/etc/crypttab", &crypttab, 0o644);
        scene.machine.boot();
        // So slow that there is a middle: the second keyslot comes with the second request, 8 s after the first.
        let slow = json!({ "device": "flash", "bps": 0, "bps_rd": 0, "bps_wr": 16 * 1024,
            "iops": 0, "iops_rd": 0, "iops_wr": 0 });
        scene.machine.monitor().ask("block_set_io_throttle", &slow);
        let keyslot = || {
            let mut bytes = vec![0; 512];
            fs::File::open(&drive).unwrap().read_exact_at(&mut bytes, FIRST_KEYSLOT).unwrap();
            bytes
        };
        let before = keyslot();
        let wipe = Wipe { level: WipeLevel::Keys, power_off: true };
        let command = scene.give(Action::Wipe(wipe)).await;
        while keyslot() == before {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        scene.machine.cut_power();
        assert_eq!(opened_by(&drive), [false, true], "in the middle of it");

        // Drives answer in another order this time, and have each other's names.
        scene.machine.system_is_last = true;
        scene.machine.boot();
        assert_eq!(opened_by(&drive), [false, false]);
        let gone_on = scene.machine.entered("tocsin-reassert.service");
        assert!(0 < gone_on && gone_on < scene.machine.entered("systemd-user-sessions.service"));
        let evidence = succeeded(scene.outcome(&command).await);
        assert_eq!(evidence.get("grade"), Some(&json!("proven")));
        assert_eq!(evidence.get("targets").unwrap()[0]["keyslots_before"], json!(2));
        assert_eq!(scene.machine.wait_until_off(), 0);
        assert_eq!(opened_by(&drive), [false, false]);
    });
}
