//! Which targets a wipe finds by itself, in a tree that looks like a machine's: nested volumes,
//! swap of each kind, what can be pulled out, and what is not encrypted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use agent::execute::Executor as _;
use agent::execute::wipe::is_provable;
use agent::host::Host;
use protocol::action::WipeLevel;
use protocol::receipt::FailureKind;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::{DATA, carry_out, format_luks, opens_with_any, wipe};
use crate::support::host::{sandbox, task};

/// A machine: what sysfs, procfs and crypttab say, and files for its devices.
pub(crate) struct Machine {
    pub(crate) host: Host,
    mounts: String,
    swaps: String,
    _folder: TempDir,
}

impl Machine {
    fn new() -> Self {
        let (mut host, folder) = sandbox();
        host.root = host.root.canonicalize().unwrap();
        let (mounts, swaps) = (String::new(), "Filename Type Size Used Priority\n".to_owned());
        let machine = Self { host, mounts, swaps, _folder: folder };
        for folder in ["/dev/mapper", "/proc/self", "/etc", "/sys/block"] {
            fs::create_dir_all(machine.host.path(folder)).unwrap();
        }
        machine
    }

    /// A block device with its number and those that stand on it; `disk/part` is a partition.
    pub(crate) fn device(&self, place: &str, number: &str, holders: &[&str]) -> &Self {
        let folder = self.host.path("/sys/block").join(place);
        for holder in holders {
            fs::create_dir_all(folder.join("holders").join(holder)).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("dev"), number).unwrap();
        if place.contains('/') {
            fs::write(folder.join("partition"), "1").unwrap();
        }
        self
    }

    pub(crate) fn luks(&self, name: &str, format: &str) -> PathBuf {
        let path = self.host.path("/dev").join(name);
        format_luks(&path, format);
        path
    }

    pub(crate) fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        fs::create_dir_all(self.host.path(path).parent().unwrap()).unwrap();
        fs::write(self.host.path(path), text).unwrap();
    }

    pub(crate) fn mount(&mut self, number: &str, place: &str, rest: &str) {
        self.mounts += &format!("40 36 {number} / {place} rw - {rest} rw\n");
        fs::write(self.host.path("/proc/self/mountinfo"), &self.mounts).unwrap();
    }

    pub(crate) fn swap(&mut self, path: &str, kind: &str) {
        self.swaps += &format!("{path} {kind} 1024 0 -2\n");
        fs::write(self.host.path("/proc/swaps"), &self.swaps).unwrap();
    }

    /// Everything is unmounted that is not mounted there.
    pub(crate) fn keep_mounted(&mut self, place: &str) {
        let kept = format!(" / {place} ");
        self.mounts = self
            .mounts
            .lines()
            .filter(|l| l.contains(&kept))
            .fold(String::new(), |all, line| all + line + "\n");
        fs::write(self.host.path("/proc/self/mountinfo"), &self.mounts).unwrap();
    }

    /// What a wipe says that it left, and why.
    fn left(&self) -> Vec<Value> {
        let _ = fs::remove_file(self.host.state_dir.join("wipe.json"));
        let volumes: Vec<_> = fs::read_dir(self.host.path("/dev")).unwrap().flatten().collect();
        let files = volumes.iter().filter(|entry| entry.file_type().unwrap().is_file());
        let kept: Vec<_> = files.map(|e| (e.path(), fs::read(e.path()).unwrap())).collect();
        let evidence = carry_out(&wipe(WipeLevel::Keys), &self.host, &task(1)).unwrap();
        for (path, bytes) in kept {
            fs::write(path, bytes).unwrap();
        }
        fs::remove_file(self.host.state_dir.join("wipe.json")).unwrap();
        let left = evidence.get("left").cloned().unwrap_or(json!([]));
        let name = |left: &Value| {
            let path = left["path"].as_str().unwrap().rsplit_once('/').unwrap().1;
            json!([path, left["why"]])
        };
        left.as_array().unwrap().iter().map(name).collect()
    }

    /// The names of the planned volumes and what is planned for swap.
    fn planned(&self) -> (Vec<String>, Value) {
        let plan = wipe(WipeLevel::Keys).plan(&self.host, &task(1)).unwrap();
        let targets = plan.facts.get("targets").unwrap().as_array().unwrap().clone();
        let name = |target: &Value| {
            assert!(target["uuid"].as_str().unwrap().len() == 36, "the plan names the UUID");
            target["path"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned()
        };
        (targets.iter().map(name).collect(), plan.facts.get("swaps").cloned().unwrap_or_default())
    }
}

/// A root in LVM on LUKS2, a home on LUKS1, and a boot partition.
pub(crate) fn laptop() -> Machine {
    let mut machine = Machine::new();
    machine.device("sda", "8:0", &[]);
    machine.device("sda/sda1", "8:1", &[]).device("sda/sda2", "8:2", &["dm-0"]);
    machine.device("sda/sda3", "8:3", &["dm-2"]);
    machine.device("dm-0", "253:0", &["dm-1"]).device("dm-1", "253:1", &[]);
    machine.device("dm-2", "253:2", &[]);
    machine.luks("sda2", "luks2");
    machine.luks("sda3", "luks1");
    machine.file("/dev/sda1", [0; 8192]);
    machine.file("/dev/dm-1", [0; 8192]);
    machine.mount("8:1", "/boot", "ext4 /dev/sda1");
    machine.mount("253:1", "/", "ext4 /dev/mapper/root");
    machine.mount("0:50", "/proc", "proc proc");
    // btrfs has no number of its own: its source leads to the device.
    machine.file("/dev/dm-2", [0; 8192]);
    symlink("../dm-2", machine.host.path("/dev/mapper/home")).unwrap();
    machine.mount("0:41", "/home", "btrfs /dev/mapper/home");
    machine
}

#[test]
fn volumes_under_whatever_is_mounted_are_found_through_their_holders() {
    let machine = laptop();
    assert_eq!(machine.planned(), (vec!["sda2".to_owned(), "sda3".to_owned()], Value::Null));
    assert!(is_provable(&machine.host));
    let evidence = carry_out(&wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap();
    assert_eq!(evidence.get("unencrypted"), None, "what it starts from is nobody's data");
    for name in ["sda2", "sda3"] {
        assert!(!opens_with_any(&machine.host.path("/dev").join(name)), "{name}");
    }
    // What is destroyed shows nothing; a later order finds it by what is remembered.
    let evidence = carry_out(&wipe(WipeLevel::Data), &machine.host, &task(2)).unwrap();
    assert_eq!(evidence.get("grade"), Some(&json!("proven_media")));
}

#[test]
fn what_can_be_pulled_out_is_spared_unless_crypttab_names_it() {
    let mut machine = laptop();
    machine.device("sdb", "8:16", &["dm-3"]).device("dm-3", "253:3", &[]);
    machine.file("/sys/block/sdb/removable", "1\n");
    machine.luks("sdb", "luks2");
    machine.mount("253:3", "/media/stick", "vfat /dev/mapper/stick");
    assert_eq!(machine.planned().0, ["sda2", "sda3"]);
    let plan = wipe(WipeLevel::Keys).plan(&machine.host, &task(1)).unwrap();
    assert!(
        plan.steps.iter().any(|step| step.ends_with("sdb: left as it is, it can be pulled out"))
    );
    let plan = wipe(WipeLevel::Keys).plan(&machine.host, &task(1)).unwrap();
    let facts = plan.facts.get("targets").unwrap().clone();
    machine.file("/etc/crypttab", "# comment\nstick /dev/sdb none luks\n");
    assert_eq!(machine.planned().0, ["sda2", "sda3", "sdb"]);
    // By its UUID as well, which is how installers write it.
    let uuid = facts[0]["uuid"].as_str().unwrap();
    machine.file("/etc/crypttab", format!("root UUID={uuid} none luks\n"));
    assert_eq!(machine.planned().0, ["sda2", "sda3"]);
}

#[test]
fn open_mapping_that_nobody_mounted_is_found() {
    let machine = laptop();
    machine.device("sdc", "8:32", &["dm-5"]).device("dm-5", "253:5", &["dm-6"]);
    machine.device("dm-6", "253:6", &[]).device("sdb", "8:16", &["dm-7"]);
    machine.device("dm-7", "253:7", &[]);
    for (name, mapping) in [("dm-5", "LVM-x"), ("dm-6", "CRYPT-LUKS2-x"), ("dm-7", "CRYPT-LUKS2-y")]
    {
        machine.file(&format!("/sys/block/{name}/dm/uuid"), format!("{mapping}\n"));
    }
    // A guest's disk, opened for it, in a volume group of its own.
    machine.luks("dm-5", "luks2");
    assert_eq!(machine.planned().0, ["dm-5", "sda2", "sda3"]);
    assert_eq!(machine.left(), [] as [Value; 0]);
    // And one on a stick, which is somebody's who put it in.
    machine.luks("sdb", "luks2");
    machine.file("/sys/block/sdb/removable", "1\n");
    assert_eq!(machine.planned().0, ["dm-5", "sda2", "sda3"]);
    assert_eq!(machine.left(), [json!(["sdb", "removable"])]);
    let plan = wipe(WipeLevel::Keys).plan(&machine.host, &task(1)).unwrap();
    assert_eq!(plan.facts.get("left"), None, "a stick has no approved plan refused");
    assert!(is_provable(&machine.host), "it is no part of the machine");
    carry_out(&wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap();
    assert!(!opens_with_any(&machine.host.path("/dev/dm-5")));
    assert!(opens_with_any(&machine.host.path("/dev/sdb")));
}

#[test]
fn volume_that_is_visible_by_several_names_is_wiped_once_through_the_topmost() {
    let mut machine = laptop();
    machine.device("sdb", "8:16", &["md0"]).device("sdc", "8:32", &["md0"]);
    machine.device("md0", "9:0", &["dm-5"]).device("dm-5", "253:5", &[]);
    machine.file("/sys/block/dm-5/dm/uuid", "CRYPT-LUKS2-x\n");
    machine.mount("253:5", "/srv", "ext4 /dev/mapper/srv");
    let mirror = machine.luks("md0", "luks2");
    // What is written to the mirror is on its legs, whose own metadata is at their end.
    for leg in ["sdb", "sdc"] {
        fs::hard_link(&mirror, machine.host.path("/dev").join(leg)).unwrap();
    }
    assert_eq!(machine.planned().0, ["md0", "sda2", "sda3"]);
    assert!(is_provable(&machine.host), "a leg is no volume of its own");
    let evidence = carry_out(&wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap();
    assert_eq!((evidence.get("grade"), evidence.get("left")), (Some(&json!("proven")), None));
    assert!(!opens_with_any(&mirror));
}

#[test]
fn snapshot_of_a_volume_keeps_the_old_keys_and_is_told_as_left() {
    let machine = laptop();
    // As LVM shows it: origin and snapshot stand on a hidden volume, and all three show one header.
    machine.device("dm-5", "253:5", &["dm-6", "dm-7"]).device("dm-6", "253:6", &["dm-8"]);
    machine.device("dm-7", "253:7", &[]).device("dm-8", "253:8", &[]);
    machine.file("/sys/block/dm-8/dm/uuid", "CRYPT-LUKS2-x\n");
    let origin = machine.luks("dm-6", "luks2");
    fs::hard_link(&origin, machine.host.path("/dev/dm-5")).unwrap();
    fs::copy(&origin, machine.host.path("/dev/dm-7")).unwrap();
    assert_eq!(machine.planned().0, ["dm-6", "sda2", "sda3"]);
    assert_eq!(machine.left(), [json!(["dm-7", "locked"])]);
    assert!(!is_provable(&machine.host), "its keys would stay");
}

#[test]
fn open_file_on_a_network_share_is_everybodys_and_is_left() {
    let mut machine = laptop();
    for (name, number, mapping, file) in [
        ("loop1", "7:1", "dm-5", "/srv/share/company.img"),
        ("loop2", "7:2", "dm-6", "/srv/plain/own.img"),
    ] {
        machine.device(name, number, &[mapping]).device(mapping, number, &[]);
        machine.file(&format!("/sys/block/{name}/loop/backing_file"), format!("{file}\n"));
        machine.file(&format!("/sys/block/{mapping}/dm/uuid"), "CRYPT-LUKS2-x\n");
        machine.luks(name, "luks2");
    }
    machine.mount("0:60", "/srv/share", "nfs4 server:/export");
    machine.device("sdd", "8:48", &[]).file("/dev/sdd", [0; 8192]);
    machine.mount("8:48", "/srv/plain", "xfs /dev/sdd");
    // Locked, it is as a file that nobody attached.
    machine.device("loop3", "7:3", &[]).luks("loop3", "luks2");
    machine.file("/sys/block/loop3/loop/backing_file", "/srv/plain/locked.img\n");
    assert_eq!(machine.planned().0, ["loop2", "sda2", "sda3"]);
    assert_eq!(machine.left(), [json!(["loop1", "remote"])]);
}

#[test]
fn image_that_somebody_attaches_changes_nothing_of_an_approved_wipe() {
    let mut machine = laptop();
    let facts = |machine: &Machine| {
        let plan = wipe(WipeLevel::Keys).plan(&machine.host, &task(1)).unwrap();
        let targets = plan.facts.get("targets").unwrap().as_array().unwrap().iter();
        let names: Vec<_> = targets.map(|target| target["path"].clone()).collect();
        (names, plan.facts.get("left").cloned())
    };
    let before = facts(&machine);
    // Everybody at a desktop may do so, in a file of his own or in memory, by partitions too.
    for (at, file) in
        ["/home/eve/a.img", "/dev/shm/b.img", "/tmp/c.img (deleted)"].iter().enumerate()
    {
        let (disk, part) = (format!("loop{at}"), format!("loop{at}p1"));
        machine.device(&disk, &format!("7:{at}"), &[]);
        machine.device(&format!("{disk}/{part}"), &format!("259:{at}"), &[]);
        machine.file(&format!("/sys/block/{disk}/loop/backing_file"), format!("{file}\n"));
        machine.luks(&disk, "luks2");
        machine.luks(&part, "luks2");
    }
    assert_eq!(facts(&machine), before, "locked");
    assert!(is_provable(&machine.host));
    machine.device("loop0", "7:0", &["dm-5"]).device("dm-5", "253:5", &[]);
    machine.file("/sys/block/dm-5/dm/uuid", "CRYPT-LUKS2-x\n");
    machine.mount("253:5", "/media/eve", "ext4 /dev/mapper/eve");
    assert_eq!(facts(&machine), before, "open, on a volume that goes");
    assert!(is_provable(&machine.host), "what is mounted from it is encrypted");
    assert_eq!(machine.left(), [] as [Value; 0]);
}

#[test]
fn card_and_disk_behind_an_outer_port_can_be_pulled_out_and_the_systems_own_card_cannot() {
    let mut machine = laptop();
    let outer = "/sys/devices/pci0000:00/0000:00:1c.0";
    machine.file(&format!("{outer}/removable"), "removable\n");
    machine.file(&format!("{outer}/nvme/nvme1/model"), "outer\n");
    machine.device("nvme1n1", "259:8", &[]).luks("nvme1n1", "luks2");
    let device = machine.host.path("/sys/block/nvme1n1/device");
    symlink(machine.host.path(format!("{outer}/nvme/nvme1")), device).unwrap();
    machine.device("mmcblk0", "179:0", &[]).device("mmcblk0/mmcblk0p1", "179:1", &["dm-5"]);
    machine.device("dm-5", "253:5", &[]).file("/sys/block/dm-5/dm/uuid", "CRYPT-LUKS2-x\n");
    machine.file("/sys/block/mmcblk0/device/type", "SD\n");
    machine.luks("mmcblk0p1", "luks2");
    assert_eq!(machine.planned().0, ["sda2", "sda3"]);
    let pulled = |name| json!([name, "removable"]);
    assert_eq!(machine.left(), [pulled("mmcblk0p1"), pulled("nvme1n1")]);
    assert!(is_provable(&machine.host));
    machine.file("/sys/block/mmcblk0/device/type", "MMC\n");
    assert_eq!(machine.planned().0, ["mmcblk0p1", "sda2", "sda3"], "soldered in");
    machine.file("/sys/block/mmcblk0/device/type", "SD\n");
    machine.mount("253:5", "/", "ext4 /dev/mapper/system");
    assert_eq!(machine.planned().0, ["mmcblk0p1", "sda2", "sda3"], "a board that runs from it");
}

#[test]
fn volume_that_only_crypttab_names_is_found() {
    let mut machine = laptop();
    machine.device("sdc", "8:32", &[]);
    machine.luks("sdc", "luks2");
    assert_eq!(machine.planned().0, ["sda2", "sda3"], "nobody opened it");
    let locked = machine.left();
    assert_eq!(locked, [json!(["sdc", "locked"])]);
    assert!(!is_provable(&machine.host), "its keys would stay");
    let facts = |machine: &Machine| {
        wipe(WipeLevel::Keys).plan(&machine.host, &task(1)).unwrap().facts.get("left").cloned()
    };
    assert_eq!(facts(&machine).unwrap()[0]["why"], "locked", "whoever approves is told");
    machine.file("/etc/crypttab", "archive /dev/sdc none luks,noauto\n");
    assert_eq!(machine.planned().0, ["sda2", "sda3", "sdc"]);
    assert!(facts(&machine).is_none() && is_provable(&machine.host));
    machine.mount("253:1", "/mnt", "ext4 /dev/mapper/root");
    assert_eq!(machine.planned().0, ["sda2", "sda3", "sdc"], "a bind mount changes nothing");
}

/// A device that was prepared by mkswap, and was swapped to.
pub(crate) fn plain_swap(machine: &Machine, name: &str) {
    let mut bytes = vec![0x5a; 64 * 1024];
    bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
    machine.file(&format!("/dev/{name}"), bytes);
}

#[test]
fn plain_swap_is_erased_and_swap_with_a_random_key_is_presumed() {
    let mut machine = laptop();
    machine.device("sda/sda4", "8:4", &[]).device("sda/sda5", "8:5", &["dm-4"]);
    machine.device("dm-4", "253:4", &[]).device("zram0", "252:0", &[]);
    machine.file("/sys/block/dm-4/dm/uuid", "CRYPT-PLAIN-swap\n");
    plain_swap(&machine, "sda4");
    machine.file("/dev/dm-4", [0; 4096]);
    machine.file("/dev/zram0", [0; 4096]);
    machine.swap("/dev/sda4", "partition");
    machine.swap("/dev/dm-4", "partition");
    machine.swap("/dev/zram0", "partition");
    machine.swap("/swapfile", "file");
    let (_, swaps) = machine.planned();
    assert_eq!(swaps.as_array().unwrap().len(), 2, "{swaps}");
    assert!(!is_provable(&machine.host), "swap that is not encrypted is found out before");

    let evidence = carry_out(&wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap();

    let swaps = evidence.get("swaps").unwrap();
    let of = |kind: &str| {
        let swaps = swaps.as_array().unwrap();
        swaps.iter().find(|swap| swap["kind"] == kind).unwrap()["grade"].clone()
    };
    assert_eq!(of("random_key"), json!("presumed"));
    assert_eq!(of("plain"), json!("proven_media"));
    let left = fs::read(machine.host.path("/dev/sda4")).unwrap();
    assert!(left.len() == 64 * 1024 && left.iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_not_encrypted_is_told_before_and_after() {
    let mut machine = laptop();
    machine.device("sdd", "8:48", &[]);
    machine.file("/dev/sdd", [0; 8192]);
    machine.mount("8:48", "/srv", "xfs /dev/sdd");
    machine.device("loop0", "7:0", &[]);
    machine.file("/dev/loop0", [0; 8192]);
    machine.mount("7:0", "/snap/core/1", "squashfs /dev/loop0");
    assert!(!is_provable(&machine.host));
    let plan = wipe(WipeLevel::Keys).plan(&machine.host, &task(1)).unwrap();
    assert!(
        plan.steps.iter().any(|step| step.ends_with("sdd: left as it is, it is not encrypted"))
    );
    let evidence = carry_out(&wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap();
    let left = evidence.get("unencrypted").unwrap().as_array().unwrap();
    assert_eq!(left, &[json!(machine.host.path("/dev/sdd"))]);
    let evidence = carry_out(&wipe(WipeLevel::Data), &machine.host, &task(2)).unwrap();
    assert_eq!(evidence.get("grade"), Some(&json!("proven")), "somebody can read what is left");
    assert_eq!(evidence.get("header_backup_opens"), Some(&json!(false)));
}

#[test]
fn locked_volume_that_is_left_counts_against_the_grade_and_a_stick_does_not() {
    for (removable, grade) in [("0\n", "proven"), ("1\n", "proven_media")] {
        let machine = laptop();
        machine.device("sdc", "8:32", &[]).file("/sys/block/sdc/removable", removable);
        machine.luks("sdc", "luks2");
        let evidence = carry_out(&wipe(WipeLevel::Data), &machine.host, &task(1)).unwrap();
        assert_eq!(evidence.get("grade"), Some(&json!(grade)));
        assert_eq!(evidence.get("left").unwrap().as_array().unwrap().len(), 1);
        assert!(opens_with_any(&machine.host.path("/dev/sdc")));
    }
}

#[test]
fn programs_of_the_system_are_done_without_only_where_the_data_goes_that_they_lie_on() {
    for (level, named, are_gone) in [
        (WipeLevel::Keys, None, false),
        (WipeLevel::Data, None, true),
        (WipeLevel::Data, Some("/dev/sda3"), false),
        (WipeLevel::Data, Some("/dev/sda2"), true),
    ] {
        let mut machine = laptop();
        machine.host.wipe_targets = named.map(|path| machine.host.path(path)).into_iter().collect();
        carry_out(&wipe(level), &machine.host, &task(1)).unwrap();
        assert_eq!(machine.host.ground.is_gone(), are_gone, "{level:?} {named:?}");
    }
}

#[test]
fn volume_that_is_still_open_is_not_signed_as_free_of_data() {
    let machine = laptop();
    machine.file("/sys/block/dm-0/dm/uuid", "CRYPT-LUKS2-x\n");
    let (wipe, task, volume) = (wipe(WipeLevel::Data), task(1), machine.host.path("/dev/sda2"));
    let evidence = carry_out(&wipe, &machine.host, &task).unwrap();
    assert_eq!(evidence.get("still_open"), Some(&json!([&volume])));
    assert_eq!(evidence.get("grade"), Some(&json!("proven")));
    assert_eq!(evidence.get("header_backup_opens"), Some(&json!(true)));
    // The running system goes on writing, behind the eraser.
    let mut bytes = fs::read(&volume).unwrap();
    bytes[DATA] = 7;
    fs::write(&volume, bytes).unwrap();
    assert_eq!(wipe.prove(&machine.host, &task).unwrap(), evidence);
    fs::remove_dir(machine.host.path("/sys/block/sda/sda2/holders/dm-0")).unwrap();
    let failure = wipe.prove(&machine.host, &task).unwrap_err();
    assert!(failure.detail.ends_with("still shows data"), "{}", failure.detail);
}

#[test]
fn machine_without_any_encryption_is_refused_before_anything_is_touched() {
    let mut machine = Machine::new();
    machine.device("sda", "8:0", &[]);
    machine.file("/dev/sda", [7; 8192]);
    machine.mount("8:0", "/", "ext4 /dev/sda");
    assert!(!is_provable(&machine.host));
    let failure = wipe(WipeLevel::Data).plan(&machine.host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Precondition);
    assert!(carry_out(&wipe(WipeLevel::Data), &machine.host, &task(1)).is_err());
    assert_eq!(fs::read(machine.host.path("/dev/sda")).unwrap(), [7; 8192]);
}

#[test]
fn named_targets_are_taken_instead_of_those_that_are_found() {
    let mut machine = laptop();
    machine.host.wipe_targets = vec![machine.host.path("/dev/sda3")];
    assert_eq!(machine.planned().0, ["sda3"]);
    assert_eq!(machine.left(), [json!(["sda2", "not_named"])]);
    machine.device("sdd", "8:48", &[]).device("sde", "8:64", &[]);
    machine.file("/dev/sdd", [7; 8192]);
    machine.mount("8:48", "/srv", "xfs /dev/sdd");
    plain_swap(&machine, "sde");
    machine.swap("/dev/sde", "partition");
    let evidence = carry_out(&wipe(WipeLevel::Data), &machine.host, &task(1)).unwrap();
    assert_eq!(evidence.get("grade"), Some(&json!("proven_media")), "of what was named");
    let readable = ["/dev/sdd", "/dev/sde"].map(|path| machine.host.path(path));
    assert_eq!(evidence.get("unencrypted"), Some(&json!(readable)), "looked at, and left");
    for path in readable {
        assert!(fs::read(path).unwrap().iter().any(|byte| *byte != 0));
    }
    assert!(opens_with_any(&machine.host.path("/dev/sda2")));
}
