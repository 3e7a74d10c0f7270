//! Drives that erase themselves, as models that answer like drives: none that could be erased is in a machine that
//! runs tests. The volumes on them are real, and what is left of these is looked at as ever.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::execute::Executor as _;
use agent::execute::wipe::Wipe;
use agent::execute::wipe::volume::{Access, Disk, SystemDisk, Volume};
use drive::ata::{self, Data};
use drive::line::{Line, LineError};
use drive::model::{Model, Speaks, ata_page, controller, namespace};
use drive::nvme;
use protocol::action::{self, WipeLevel};
use protocol::receipt::Evidence;
use serde_json::{Value, json};

use crate::plain::xfs;
use crate::scene::{DATA, carry_out, opens_with_any};
use crate::support::host::task;
use crate::targets::{Machine, laptop};

/// The machine's disk, and the one drive in it.
#[derive(Debug, Clone)]
struct DriveDisk {
    drive: PathBuf,
    model: Arc<Model>,
    /// The power goes when the drive is asked how far it is.
    loses_power: bool,
}

impl Disk for DriveDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn Volume>> {
        SystemDisk.open(path, access)
    }

    fn drive(&self, path: &Path) -> Option<Arc<dyn Line>> {
        let is_there = path == self.drive;
        is_there.then(|| -> Arc<dyn Line> {
            if self.loses_power {
                Arc::new(Unpowered(self.model.clone()))
            } else {
                self.model.clone()
            }
        })
    }
}

/// A drive in a machine whose power goes.
#[derive(Debug)]
struct Unpowered(Arc<Model>);

impl Line for Unpowered {
    fn namespace(&self) -> Result<u32, LineError> {
        self.0.namespace()
    }

    fn nvme(&self, command: &nvme::Command, data: &mut [u8]) -> Result<(), LineError> {
        if command.opcode == nvme::GET_LOG_PAGE && !self.0.was_told().is_empty() {
            resume_unwind(Box::new("the power is gone"));
        }
        self.0.nvme(command, data)
    }

    fn ata(&self, command: &ata::Command, data: Data<'_>) -> Result<(), LineError> {
        self.0.ata(command, data)
    }

    fn opal_flags(&self) -> Result<u32, LineError> {
        self.0.opal_flags()
    }

    fn opal_revert(&self, psid: &str) -> Result<(), LineError> {
        self.0.opal_revert(psid)
    }
}

/// The laptop, whose disk is a drive that speaks so.
struct Scene {
    machine: Machine,
    disk: DriveDisk,
}

impl Scene {
    fn new(tongue: Speaks, change: impl FnOnce(&mut Model)) -> Self {
        let machine = laptop();
        fs::create_dir(machine.host.path("/sys/block/sda/device")).unwrap();
        let path = |name: &str| machine.host.path("/dev").join(name);
        let bytes: Vec<u8> = (0..256 * 1024u32).map(|at| (at % 251) as u8).collect();
        fs::write(path("sda"), bytes).unwrap();
        // Data that is nobody's yet, so that one sees it go.
        for name in ["sda2", "sda3"] {
            let mut bytes = fs::read(path(name)).unwrap();
            bytes[DATA..].fill(0x5a);
            fs::write(path(name), bytes).unwrap();
        }
        xfs(&machine, "sda4", 0x77);
        let parts = ["sda", "sda1", "sda2", "sda3", "sda4"];
        let mut model = Model::new(tongue, parts.map(path).to_vec());
        model.takes_looks = 0;
        change(&mut model);
        let disk = DriveDisk { drive: path("sda"), model: Arc::new(model), loses_power: false };
        Self { machine, disk }
    }

    fn nvme(change: impl FnOnce(&mut Model)) -> Self {
        Self::new(Speaks::Nvme(controller(0b11, 0b10, 0b100), namespace(), vec![1]), change)
    }

    fn wipe(&self) -> Wipe {
        let params = action::Wipe { level: WipeLevel::Data, power_off: false };
        Wipe::on(params, Box::new(self.disk.clone()))
    }

    fn steps(&self) -> Vec<String> {
        self.wipe().plan(&self.machine.host, &task(1)).unwrap().steps
    }

    fn carry_out(&self) -> Evidence {
        carry_out(&self.wipe(), &self.machine.host, &task(1)).unwrap()
    }

    fn assert_data_gone(&self) {
        for name in ["sda2", "sda3"] {
            let path = self.machine.host.path("/dev").join(name);
            assert!(!fs::read(&path).unwrap()[DATA..].contains(&0x5a), "{name}");
            assert!(!opens_with_any(&path), "{name}");
        }
    }
}

fn drive_of(evidence: &Evidence) -> Value {
    let drives = evidence.get("drives").unwrap().as_array().unwrap();
    assert_eq!(drives.len(), 1);
    drives[0].clone()
}

#[test]
fn drive_erases_itself_after_the_keys_are_proven_and_everything_on_it_goes() {
    let mut scene = Scene::nvme(|_| {});
    // Not encrypted, and on the same drive.
    scene.machine.device("sda/sda4", "8:4", &[]);
    scene.machine.file("/dev/sda4", [0x5a; 8192]);
    scene.machine.mount("8:4", "/srv", "xfs /dev/sda4");
    let steps = scene.steps().join("\n");
    let planned =
        "sda (Model of an NVMe drive S1234567): erase the whole drive and everything on it";
    assert!(steps.contains(planned) && !steps.contains("left as it is"), "{steps}");

    let (wipe, host) = (scene.wipe(), &scene.machine.host);
    wipe.apply(host, &task(1)).unwrap();
    let first = wipe.prove(host, &task(1)).unwrap();
    assert_eq!(first.get("grade"), Some(&json!("proven")));
    assert_eq!(scene.disk.model.was_told(), [] as [u8; 0], "its proof has not left yet");
    wipe.finish(host, &task(1)).unwrap();
    let evidence = wipe.prove(host, &task(1)).unwrap();

    assert_eq!(scene.disk.model.was_told(), [nvme::SANITIZE]);
    assert_eq!(evidence.get("grade"), Some(&json!("proven_media")));
    assert_eq!(evidence.get("unencrypted"), None);
    let drive = drive_of(&evidence);
    assert_eq!(drive["method"], json!("nvme_sanitize_crypto"));
    assert_eq!(drive["passed_over"], json!([]));
    assert!(drive["places_changed"].as_u64().unwrap() > 2);
    for target in evidence.get("targets").unwrap().as_array().unwrap() {
        assert_eq!(
            (&target["erasure"], &target["headers_after_sha256"]),
            (&json!("drive"), &Value::Null)
        );
    }
    scene.assert_data_gone();
}

#[test]
fn plain_file_system_goes_with_its_drive_and_is_overwritten_where_that_would_not() {
    for (lies, erasure) in [(false, "drive"), (true, "overwritten")] {
        let mut scene = Scene::nvme(|model| model.lies = lies);
        scene.machine.device("sda/sda4", "8:4", &[]);
        scene.machine.mount("8:4", "/srv", "xfs /dev/sda4");
        assert!(!scene.steps().join("\n").contains("not encrypted"), "it is the drive's");
        let evidence = scene.carry_out();
        let file_system = &evidence.get("file_systems").unwrap()[0];
        assert_eq!(file_system["erasure"], json!(erasure));
        let left = fs::read(scene.machine.host.path("/dev/sda4")).unwrap();
        assert!(!left.contains(&0x5a), "{erasure}");
    }
}

#[test]
fn drive_that_cannot_or_would_not_is_erased_by_the_next_best_way() {
    type PassedOver<'a> = &'a [(&'a str, &'a str)];
    /// How it speaks, what is wrong with it, which method did it, and how that is told of the ones before.
    type Row<'a> = (Speaks, fn(&mut Model), Value, PassedOver<'a>);
    let table: [Row<'_>; 4] = [
        (
            Speaks::Nvme(controller(0b01, 0b10, 0b100), namespace(), vec![1]),
            |model| model.declines = BTreeSet::from([nvme::SANITIZE]),
            json!("nvme_format_crypto"),
            &[("nvme_sanitize_crypto", "declined")],
        ),
        (
            Speaks::Nvme(controller(0b10, 0, 0), namespace(), vec![1]),
            |model| model.lies = true,
            Value::Null,
            &[("nvme_sanitize_block", "not_erased")],
        ),
        (
            Speaks::Ata(ata_page(0x21 | 8)),
            |_| {},
            Value::Null,
            &[("ata_enhanced_erase", "frozen"), ("ata_erase", "frozen")],
        ),
        (Speaks::Ata(ata_page(0x21)), |_| {}, json!("ata_enhanced_erase"), &[]),
    ];
    for (tongue, change, method, passed_over) in table {
        let scene = Scene::new(tongue, change);
        let evidence = scene.carry_out();
        let drive = drive_of(&evidence);
        let told: Vec<Value> = passed_over
            .iter()
            .map(|(method, obstacle)| json!({ "method": method, "obstacle": obstacle }))
            .collect();
        assert_eq!((&drive["method"], &drive["passed_over"]), (&method, &json!(told)));
        // Whatever the drive did, the data is gone, by itself or by zeros over it.
        assert_eq!(evidence.get("grade"), Some(&json!("proven_media")), "{drive}");
        let erasure = &evidence.get("targets").unwrap()[0]["erasure"];
        let expected = if method.is_null() { "overwritten" } else { "drive" };
        assert_eq!(erasure, expected, "{drive}");
        scene.assert_data_gone();
    }
}

#[test]
fn power_cut_while_a_drive_sanitizes_is_resumed_without_beginning_again() {
    let mut scene = Scene::nvme(|_| {});
    scene.disk.loses_power = true;
    assert!(catch_unwind(AssertUnwindSafe(|| scene.carry_out())).is_err());
    assert_eq!(scene.disk.model.was_told(), [nvme::SANITIZE]);
    scene.disk.loses_power = false;
    // It goes on by itself, and is done before anybody looks at it again.
    let mut log = [0; nvme::SANITIZE_LOG];
    scene.disk.model.nvme(&nvme::Command::sanitize_log(), &mut log).unwrap();
    scene.assert_data_gone();
    let evidence = scene.carry_out();
    assert_eq!(scene.disk.model.was_told(), [nvme::SANITIZE], "the drive went on by itself");
    assert_eq!(drive_of(&evidence)["method"], json!("nvme_sanitize_crypto"));
    scene.assert_data_gone();
}

#[test]
fn drive_and_volumes_that_have_other_names_after_a_boot_are_found_again() {
    let mut scene = Scene::nvme(|_| {});
    scene.wipe().apply(&scene.machine.host, &task(1)).unwrap();
    // Another drive has the name now, and one that was pulled out and in has a copy of a volume.
    let path = |path: String| scene.machine.host.path(path);
    let rename = |from: String, to: String| fs::rename(path(from), path(to)).unwrap();
    rename("/sys/block/sda".to_owned(), "/sys/block/sdb".to_owned());
    rename("/dev/sda".to_owned(), "/dev/sdb".to_owned());
    for part in 1..=3 {
        rename(format!("/sys/block/sdb/sda{part}"), format!("/sys/block/sdb/sdb{part}"));
        rename(format!("/dev/sda{part}"), format!("/dev/sdb{part}"));
    }
    let files = ["sdb", "sdb1", "sdb2", "sdb3"].map(|name| path(format!("/dev/{name}")));
    fs::copy(&files[2], path("/dev/sdaa".to_owned())).unwrap();
    scene.machine.device("sdaa", "65:160", &[]).file("/sys/block/sdaa/removable", "1\n");
    scene.machine.device("sda", "8:0", &[]).file("/dev/sda", [0x5a; 8192]);
    let model = Model::new(
        Speaks::Nvme(controller(0b11, 0b10, 0b100), namespace(), vec![1]),
        files.to_vec(),
    );
    let copy = fs::read(scene.machine.host.path("/dev/sdaa")).unwrap();
    scene.disk = DriveDisk { drive: files[0].clone(), model: Arc::new(model), loses_power: false };

    let evidence = scene.carry_out();
    assert_eq!(evidence.get("grade"), Some(&json!("proven_media")));
    assert_eq!(drive_of(&evidence)["path"], json!(files[0]));
    assert_eq!(drive_of(&evidence)["method"], json!("nvme_sanitize_crypto"));
    let targets = evidence.get("targets").unwrap().as_array().unwrap();
    let paths: Vec<_> = targets.iter().map(|target| target["path"].clone()).collect();
    assert_eq!(paths, [json!(files[2]), json!(files[3])]);
    let read = |name: &str| fs::read(scene.machine.host.path("/dev").join(name)).unwrap();
    assert!(!read("sdb2")[DATA..].contains(&0x5a) && !read("sdb3")[DATA..].contains(&0x5a));
    assert_eq!((read("sda"), read("sdaa")), (vec![0x5a; 8192], copy), "neither is it");
}

#[test]
fn hostile_drive_in_the_place_of_another_is_left_alone() {
    let mut scene = Scene::nvme(|_| {});
    let wipe = scene.wipe();
    wipe.apply(&scene.machine.host, &task(1)).unwrap();
    let page = ata_page(0x21);
    let other = Model::new(Speaks::Ata(page), scene.disk.model.contents.clone());
    scene.disk.model = Arc::new(other);
    let evidence = scene.carry_out();
    assert_eq!(scene.disk.model.was_told(), [] as [u8; 0]);
    assert_eq!(drive_of(&evidence)["method"], Value::Null);
    assert_eq!(drive_of(&evidence)["passed_over"][0]["obstacle"], json!("unreachable"));
}

#[test]
fn no_drive_is_erased_for_a_part_of_it_that_was_named_nor_one_that_can_be_pulled_out() {
    let mut scene = Scene::nvme(|_| {});
    scene.machine.file("/sys/block/sda/removable", "1\n");
    scene.machine.file("/etc/crypttab", "root /dev/sda2 none luks\nhome /dev/sda3 none luks\n");
    let of_plan = |scene: &Scene| {
        scene.wipe().plan(&scene.machine.host, &task(1)).unwrap().facts.get("drives").cloned()
    };
    assert_eq!(of_plan(&scene), None, "it can be pulled out");
    scene.machine.file("/sys/block/sda/removable", "0\n");
    assert!(of_plan(&scene).is_some());
    scene.machine.host.wipe_targets = vec![scene.machine.host.path("/dev/sda2")];
    assert_eq!(of_plan(&scene), None, "who names a part means no more than that");
    scene.machine.luks("sda", "luks2");
    scene.machine.host.wipe_targets = vec![scene.machine.host.path("/dev/sda")];
    assert!(of_plan(&scene).is_some(), "who names the whole means the whole");
    let keys = Wipe::on(
        action::Wipe { level: WipeLevel::Keys, power_off: false },
        Box::new(scene.disk.clone()),
    );
    assert_eq!(keys.plan(&scene.machine.host, &task(1)).unwrap().facts.get("drives"), None);
}
