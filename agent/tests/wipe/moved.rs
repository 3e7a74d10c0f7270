//! What has another name after a boot and says nothing of itself: swap that is being erased, and drives without a
//! serial number.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::execute::Executor as _;
use agent::execute::wipe::Wipe;
use agent::execute::wipe::volume::{Access, Disk, SystemDisk, Volume};
use drive::line::Line;
use drive::model::{Model, Speaks, controller, namespace};
use protocol::action::{self, WipeLevel};
use protocol::receipt::{Evidence, FailureKind};
use serde_json::{Value, json};

use crate::scene::carry_out;
use crate::support::host::task;
use crate::targets::{Machine, laptop, plain_swap};

/// What a drive holds, so that one sees it change.
const CONTENT: &[u8] = b"data";

/// Drives by their names, of one model each.
#[derive(Debug, Clone, Default)]
struct Drives(BTreeMap<PathBuf, Arc<Model>>);

impl Disk for Drives {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn Volume>> {
        SystemDisk.open(path, access)
    }

    fn drive(&self, path: &Path) -> Option<Arc<dyn Line>> {
        let model = self.0.get(path)?;
        Some(model.clone())
    }
}

impl Drives {
    fn wipe(&self, level: WipeLevel) -> Wipe {
        Wipe::on(action::Wipe { level, power_off: false }, Box::new(self.clone()))
    }

    /// A drive of that name and serial number, which can erase what lies at those names.
    fn attach(&mut self, machine: &Machine, name: &str, serial: &str, contents: &[&str]) {
        let path = |name: &str| machine.host.path("/dev").join(name);
        let mut page = controller(0b11, 0b10, 0b100);
        page[4..24].fill(b' ');
        page[4..4 + serial.len()].copy_from_slice(serial.as_bytes());
        let tongue = Speaks::Nvme(page, namespace(), vec![1]);
        let contents = [&[name], contents].concat().into_iter().map(path).collect();
        let mut model = Model::new(tongue, contents);
        model.takes_looks = 0;
        self.0.insert(path(name), Arc::new(model));
        fs::create_dir_all(machine.host.path("/sys/block").join(name).join("device")).unwrap();
    }
}

/// The laptop with swap behind its volumes, and another drive of the same model with swap of the same size.
fn with_swap() -> (Machine, Drives) {
    let mut machine = laptop();
    machine.device("sda/sda4", "8:4", &[]).file("/sys/block/sda/sda4/start", "4096\n");
    plain_swap(&machine, "sda4");
    machine.swap("/dev/sda4", "partition");
    machine.file("/dev/sda", CONTENT.repeat(4096));
    let mut drives = Drives::default();
    drives.attach(&machine, "sda", "first", &["sda1", "sda2", "sda3", "sda4"]);
    (machine, drives)
}

/// Gives what is below one name another one.
fn rename(machine: &Machine, from: &str, to: &str) {
    for folder in ["/sys/block", "/dev"] {
        let path = |name: &str| machine.host.path(folder).join(name);
        fs::rename(path(from), path(to)).unwrap();
    }
    for part in 1..=4 {
        let (from, to) = (format!("{from}{part}"), format!("{to}{part}"));
        let block = machine.host.path("/sys/block").join(to.trim_end_matches(char::is_numeric));
        fs::rename(block.join(&from), block.join(&to)).unwrap();
        let path = |name: &str| machine.host.path("/dev").join(name);
        fs::rename(path(&from), path(&to)).unwrap();
    }
}

/// After a boot: the drive is `sdb`, and another has its name, with swap of its own at the same place.
fn boot_with_another(machine: &Machine, serial: &str) -> Drives {
    rename(machine, "sda", "sdb");
    machine.device("sda", "8:16", &[]).device("sda/sda4", "8:20", &[]);
    machine.file("/sys/block/sda/sda4/start", "4096\n");
    machine.file("/dev/sda", [0x5a; 8192]);
    plain_swap(machine, "sda4");
    let mut drives = Drives::default();
    drives.attach(machine, "sda", serial, &["sda4"]);
    drives
}

fn read(machine: &Machine, name: &str) -> Vec<u8> {
    fs::read(machine.host.path("/dev").join(name)).unwrap()
}

fn entry<'a>(evidence: &'a Evidence, list: &str) -> &'a Value {
    &evidence.get(list).unwrap()[0]
}

#[test]
fn swap_that_has_another_name_after_a_boot_is_found_again_and_its_double_is_spared() {
    for is_begun in [false, true] {
        let (machine, drives) = with_swap();
        drives.wipe(WipeLevel::Keys).apply(&machine.host, &task(1)).unwrap();
        let mut drives = boot_with_another(&machine, "second");
        if is_begun {
            // Cut off in its middle: it does not call itself swap any more.
            let record = machine.host.state_dir.join("wipe.json");
            let text = fs::read_to_string(&record).unwrap();
            assert!(text.contains("\"done\":0"), "{text}");
            fs::write(&record, text.replace("\"done\":0", "\"done\":1")).unwrap();
            machine.file("/dev/sdb4", vec![0x5a; 64 * 1024]);
        }
        let double = read(&machine, "sda4");
        // The first drive is away: what has its name is not taken for it.
        let lost = carry_out(&drives.wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap_err();
        assert_eq!(lost.kind, FailureKind::Precondition, "{lost:?}");
        assert_eq!(read(&machine, "sda4"), double);

        drives.attach(&machine, "sdb", "first", &["sdb1", "sdb2", "sdb3", "sdb4"]);
        let evidence = carry_out(&drives.wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap();
        assert_eq!(entry(&evidence, "swaps")["path"], json!(machine.host.path("/dev/sdb4")));
        assert_eq!(entry(&evidence, "swaps")["grade"], json!("proven_media"));
        assert!(read(&machine, "sdb4").iter().all(|byte| *byte == 0));
        assert_eq!(read(&machine, "sda4"), double, "it is not it");
    }
}

#[test]
fn logical_volume_that_is_swapped_to_is_known_by_the_uuid_of_its_mapping() {
    let mut machine = laptop();
    machine.device("sdc", "8:32", &["dm-5"]).device("dm-5", "253:5", &[]);
    machine.file("/sys/block/dm-5/dm/uuid", "LVM-swap\n");
    machine.file("/dev/sdc", [0x5a; 8192]);
    plain_swap(&machine, "dm-5");
    machine.swap("/dev/dm-5", "partition");
    let drives = Drives::default();
    drives.wipe(WipeLevel::Keys).apply(&machine.host, &task(1)).unwrap();
    for folder in ["/sys/block", "/dev"] {
        let path = |name: &str| machine.host.path(folder).join(name);
        fs::rename(path("dm-5"), path("dm-6")).unwrap();
    }
    machine.device("dm-5", "253:6", &[]).file("/sys/block/dm-5/dm/uuid", "LVM-other\n");
    plain_swap(&machine, "dm-5");
    let other = read(&machine, "dm-5");
    let evidence = carry_out(&drives.wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap();
    assert_eq!(entry(&evidence, "swaps")["path"], json!(machine.host.path("/dev/dm-6")));
    assert!(read(&machine, "dm-6").iter().all(|byte| *byte == 0));
    assert_eq!(read(&machine, "dm-5"), other);
}

#[test]
fn two_drives_that_changed_names_take_what_lies_on_them_along() {
    let (mut machine, mut drives) = with_swap();
    machine.device("sdb", "8:16", &[]).device("sdb/sdb4", "8:20", &[]);
    machine.file("/sys/block/sdb/sdb4/start", "4096\n");
    machine.file("/dev/sdb", CONTENT.repeat(4096));
    plain_swap(&machine, "sdb4");
    machine.swap("/dev/sdb4", "partition");
    for part in 1..=3 {
        machine.device(&format!("sdb/sdb{part}"), "8:17", &[]);
        machine.file(&format!("/dev/sdb{part}"), [0; 4096]);
    }
    // On the second drive there is a volume too.
    machine.luks("sdb2", "luks2");
    machine.file("/etc/crypttab", "more /dev/sdb2 none luks\n");
    drives.attach(&machine, "sdb", "second", &["sdb1", "sdb2", "sdb3", "sdb4"]);
    drives.wipe(WipeLevel::Data).apply(&machine.host, &task(1)).unwrap();

    for (from, to) in [("sda", "sdc"), ("sdb", "sda"), ("sdc", "sdb")] {
        rename(&machine, from, to);
    }
    let mut drives = Drives::default();
    drives.attach(&machine, "sda", "second", &["sda1", "sda2", "sda3", "sda4"]);
    drives.attach(&machine, "sdb", "first", &["sdb1", "sdb2", "sdb3", "sdb4"]);
    let evidence = carry_out(&drives.wipe(WipeLevel::Data), &machine.host, &task(1)).unwrap();
    assert_eq!(evidence.get("grade"), Some(&json!("proven_media")));
    for drive in evidence.get("drives").unwrap().as_array().unwrap() {
        assert_eq!(drive["method"], json!("nvme_sanitize_crypto"), "{drive}");
    }
    for target in evidence.get("targets").unwrap().as_array().unwrap() {
        assert_eq!(target["erasure"], json!("drive"), "{target}");
    }
    let record = fs::read_to_string(machine.host.state_dir.join("wipe.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    for drive in record["drives"].as_array().unwrap() {
        let name = drive["path"].as_str().unwrap();
        for carried in drive["carries"].as_array().unwrap() {
            assert!(carried.as_str().unwrap().starts_with(name), "{drive}");
        }
    }
}

#[test]
fn no_drive_is_looked_for_by_an_empty_serial_number() {
    let (machine, mut drives) = with_swap();
    drives.attach(&machine, "sda", "", &["sda1", "sda2", "sda3", "sda4"]);
    drives.wipe(WipeLevel::Data).apply(&machine.host, &task(1)).unwrap();
    // Another one of its model, and like it: it is nobody's target.
    rename(&machine, "sda", "sdb");
    let mut drives = Drives::default();
    drives.attach(&machine, "sdb", "", &["sdb1", "sdb2", "sdb3", "sdb4"]);
    let bytes = read(&machine, "sdb");
    let swap = read(&machine, "sdb4");
    let lost = carry_out(&drives.wipe(WipeLevel::Data), &machine.host, &task(1)).unwrap_err();
    assert_eq!(lost.kind, FailureKind::Io, "{lost:?}");
    let model = &drives.0[&machine.host.path("/dev/sdb")];
    assert_eq!(model.was_told(), [] as [u8; 0]);
    assert_eq!((read(&machine, "sdb"), read(&machine, "sdb4")), (bytes, swap));
}
