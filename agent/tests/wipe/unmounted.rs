//! File systems that nothing encrypts and that nobody has mounted: a wipe knows of them as of those that are.

use std::fs;
use std::path::PathBuf;

use agent::execute::Executor as _;
use agent::execute::wipe::is_provable;
use protocol::action::WipeLevel;
use serde_json::json;

use crate::plain::xfs;
use crate::scene::{carry_out, wipe};
use crate::support::host::task;
use crate::targets::{Machine, laptop};

/// The laptop with a second drive, in two parts, of which nothing is mounted. The second holds a file system.
fn laptop_with_spare() -> (Machine, PathBuf) {
    let machine = laptop();
    machine.device("sdd", "8:48", &[]).device("sdd/sdd1", "8:49", &[]);
    machine.device("sdd/sdd2", "8:50", &[]);
    fs::create_dir(machine.host.path("/sys/block/sdd/device")).unwrap();
    for (name, bytes) in [("sdd", vec![0x5a; 8192]), ("sdd1", vec![0; 8192])] {
        machine.file(&format!("/dev/{name}"), bytes);
    }
    let path = xfs(&machine, "sdd2", 0x77);
    (machine, path)
}

/// A FAT with a number in place of that file system.
fn fat(machine: &Machine) {
    let mut bytes = vec![0; 96 * 1024];
    bytes[0x52..0x5a].copy_from_slice(b"FAT32   ");
    bytes[0x43..0x47].fill(0x77);
    machine.file("/dev/sdd2", bytes);
}

fn of_type(machine: &Machine, of_type: &str) {
    machine.file("/run/udev/data/b8:50", format!("S:disk\nE:ID_PART_ENTRY_TYPE={of_type}\n"));
}

#[test]
fn file_system_that_nobody_mounted_is_named_by_a_wipe_of_keys_and_erased_with_the_data() {
    let (machine, path) = laptop_with_spare();
    let provable = |machine: &Machine| is_provable(&machine.host);
    assert!(!provable(&machine), "its data stays readable");
    let keys = carry_out(&wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap();
    assert_eq!(keys.get("unencrypted"), Some(&json!([path])));

    let (machine, path) = laptop_with_spare();
    let (wipe, task) = (wipe(WipeLevel::Data), task(1));
    let plan = wipe.plan(&machine.host, &task).unwrap();
    let facts = plan.facts.get("file_systems").unwrap().as_array().unwrap();
    assert_eq!((facts.len(), &facts[0]["path"]), (1, &json!(path)), "an approval is bound to it");
    let evidence = carry_out(&wipe, &machine.host, &task).unwrap();
    assert_eq!(evidence.get("grade"), Some(&json!("proven_media")));
    assert_eq!(evidence.get("file_systems").unwrap()[0]["grade"], json!("proven_media"));
    assert_eq!(evidence.get("unencrypted"), None);
    assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));

    // A FAT that is known to be for data is data.
    let (machine, path) = laptop_with_spare();
    fat(&machine);
    of_type(&machine, "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7");
    let plan = wipe.plan(&machine.host, &task).unwrap();
    assert_eq!(plan.facts.get("file_systems").unwrap()[0]["path"], json!(path));
}

#[test]
fn what_a_machine_starts_from_what_is_in_use_and_what_is_not_its_own_is_no_data_of_it() {
    /// What is different about the second drive.
    type Change = fn(&Machine);
    let table: [(&str, Change); 10] = [
        ("EFI system partition", |machine| {
            of_type(machine, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        }),
        ("EFI system partition of an MBR", |machine| of_type(machine, "0xef")),
        ("kernels", |machine| of_type(machine, "bc13c2ff-59e6-4262-a352-b275fd6f7172")),
        ("a FAT of no known type", fat),
        ("/boot, mounted at times", |machine| {
            let link = machine.host.path("/dev/disk/by-uuid/7777");
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(machine.host.path("/dev/sdd2"), link).unwrap();
            machine.file("/etc/fstab", "# one\nUUID=\"7777\" /boot xfs noauto 0 2\n");
        }),
        ("a member of something that stands on it", |machine| {
            machine.device("sdd/sdd2", "8:50", &["md0"]).device("md0", "9:0", &[]);
        }),
        ("a drive in parts", |machine| {
            xfs(machine, "sdd", 0x78);
            machine.file("/dev/sdd2", [0; 8192]);
        }),
        ("in a container", |machine| machine.file("/.dockerenv", "")),
        ("a stick", |machine| machine.file("/sys/block/sdd/removable", "1\n")),
        ("NVMe over TCP", |machine| machine.file("/sys/block/sdd/device/transport", "tcp\n")),
    ];
    for (name, change) in table {
        let (machine, path) = laptop_with_spare();
        change(&machine);
        let before = fs::read(&path).unwrap();
        let plan = wipe(WipeLevel::Data).plan(&machine.host, &task(1)).unwrap();
        assert_eq!(plan.facts.get("file_systems"), None, "{name}");
        let evidence = carry_out(&wipe(WipeLevel::Data), &machine.host, &task(1)).unwrap();
        assert_eq!(evidence.get("unencrypted"), None, "{name}");
        assert_eq!(evidence.get("grade"), Some(&json!("proven_media")), "{name}");
        assert_eq!(fs::read(&path).unwrap(), before, "{name}");
    }
}
