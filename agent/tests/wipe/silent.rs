//! A device that never answers: it keeps a wipe from nothing but itself.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use agent::execute::Executor as _;
use agent::execute::wipe::Wipe;
use agent::execute::wipe::volume::{Access, Disk, SystemDisk, Volume};
use protocol::action::{self, WipeLevel};
use protocol::receipt::FailureKind;
use serde_json::{Value, json};

use crate::plain::laptop_with_srv;
use crate::scene::{carry_out, opens_with_any};
use crate::support::host::task;
use crate::targets::laptop;

/// Disks of which one hangs. They are given up as soon as it is the only one that says nothing.
#[derive(Debug)]
pub(crate) struct Hanging(pub(crate) PathBuf);

impl Disk for Hanging {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn Volume>> {
        if path == self.0 {
            loop {
                thread::park();
            }
        }
        SystemDisk.open(path, access)
    }

    fn patience(&self, silent: &BTreeSet<PathBuf>) -> Duration {
        let is_alone = silent.iter().eq([&self.0]);
        if is_alone { Duration::ZERO } else { Duration::from_secs(3600) }
    }
}

fn wipe_beside(hanging: PathBuf) -> Wipe {
    wipe_to(WipeLevel::Keys, hanging)
}

fn wipe_to(level: WipeLevel, hanging: PathBuf) -> Wipe {
    Wipe::on(action::Wipe { level, power_off: false }, Box::new(Hanging(hanging)))
}

#[test]
fn device_that_never_answers_keeps_no_other_from_being_wiped() {
    let machine = laptop();
    machine.device("sdb", "8:16", &[]).luks("sdb", "luks2");
    let wipe = wipe_beside(machine.host.path("/dev/sdb"));
    let plan = wipe.plan(&machine.host, &task(1)).unwrap();
    assert_eq!(plan.facts.get("targets").unwrap().as_array().unwrap().len(), 2);
    assert_eq!(plan.facts.get("left"), None, "nobody knows that it is one");
    let evidence = carry_out(&wipe, &machine.host, &task(1)).unwrap();
    assert_eq!(evidence.get("grade"), Some(&json!("proven")));
    for name in ["/dev/sda2", "/dev/sda3"] {
        assert!(!opens_with_any(&machine.host.path(name)), "{name}");
    }
}

#[test]
fn plain_file_system_that_never_answers_stays_and_the_rest_is_wiped() {
    let (machine, path) = laptop_with_srv();
    let wipe = wipe_to(WipeLevel::Data, path.clone());
    let plan = wipe.plan(&machine.host, &task(1)).unwrap();
    assert_eq!(plan.facts.get("file_systems"), None);
    let evidence = carry_out(&wipe, &machine.host, &task(1)).unwrap();
    assert_eq!(evidence.get("unencrypted"), Some(&json!([path])));
    assert_eq!(evidence.get("header_backup_opens"), Some(&json!(false)), "all other data is gone");
}

#[test]
fn volume_that_is_open_and_never_answers_is_told_as_left() {
    let machine = laptop();
    machine.device("sdb", "8:16", &["dm-5"]).device("dm-5", "253:5", &[]);
    machine.file("/sys/block/dm-5/dm/uuid", "CRYPT-LUKS2-x\n");
    machine.luks("sdb", "luks2");
    let hanging = machine.host.path("/dev/sdb");
    let silent = json!([{ "path": &hanging, "uuid": "", "why": "silent" }]);
    let wipe = wipe_beside(hanging);
    let left = |wipe: &Wipe| -> Option<Value> {
        wipe.plan(&machine.host, &task(1)).unwrap().facts.get("left").cloned()
    };
    assert_eq!(left(&wipe), Some(silent.clone()), "whoever approves is told");
    let evidence = carry_out(&wipe, &machine.host, &task(1)).unwrap();
    assert_eq!(evidence.get("left"), Some(&silent));
    // One that can be pulled out is nobody's, open or not, unless crypttab names it.
    machine.file("/sys/block/sdb/removable", "1\n");
    assert_eq!(left(&wipe), None);
    machine.file("/etc/crypttab", "archive /dev/sdb none luks,noauto\n");
    assert_eq!(left(&wipe), Some(silent));
}

#[test]
fn named_target_that_never_answers_stops_the_wipe_before_anything_is_touched() {
    let mut machine = laptop();
    let [other, hanging] = ["/dev/sda2", "/dev/sda3"].map(|path| machine.host.path(path));
    machine.host.wipe_targets = vec![other.clone(), hanging.clone()];
    let failure = carry_out(&wipe_beside(hanging), &machine.host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(failure.detail.ends_with("sda3 does not answer"), "{}", failure.detail);
    assert!(opens_with_any(&other));
}

#[test]
fn volume_with_another_name_is_found_again_beside_a_device_that_never_answers() {
    let machine = laptop();
    let wipe = wipe_beside(machine.host.path("/dev/sdb"));
    wipe.apply(&machine.host, &task(1)).unwrap();
    // The next boot numbers them in another order.
    machine.device("sdb", "8:16", &[]).file("/dev/sdb", [0; 4096]);
    machine.device("sdc", "8:32", &[]);
    let [was, is] = ["/dev/sda2", "/dev/sdc"].map(|path| machine.host.path(path));
    std::fs::rename(was, &is).unwrap();
    let evidence = wipe.prove(&machine.host, &task(1)).unwrap();
    let targets = evidence.get("targets").unwrap().as_array().unwrap();
    assert!(targets.iter().any(|target| target["path"] == json!(is)), "{targets:?}");
}

/// Disks of which one answers nobody who would not wait for it.
#[derive(Debug)]
struct Slow(PathBuf);

impl Disk for Slow {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn Volume>> {
        // Whoever asks for so long only has a thread of that name do it.
        if path == self.0 && thread::current().name() == Some("device") {
            loop {
                thread::park();
            }
        }
        SystemDisk.open(path, access)
    }

    fn patience(&self, silent: &BTreeSet<PathBuf>) -> Duration {
        Hanging(self.0.clone()).patience(silent)
    }
}

#[test]
fn volume_that_is_slow_is_where_it_was_and_not_where_a_copy_of_it_is() {
    let machine = laptop();
    let slow = machine.host.path("/dev/sda2");
    let params = action::Wipe { level: WipeLevel::Keys, power_off: false };
    crate::scene::wipe(WipeLevel::Keys).apply(&machine.host, &task(1)).unwrap();
    let wipe = Wipe::on(params, Box::new(Slow(slow.clone())));
    machine.device("sdb", "8:16", &[]);
    std::fs::copy(&slow, machine.host.path("/dev/sdb")).unwrap();
    let evidence = wipe.prove(&machine.host, &task(1)).unwrap();
    let targets = evidence.get("targets").unwrap().as_array().unwrap();
    assert!(targets.iter().any(|target| target["path"] == json!(slow)), "{targets:?}");
}

#[test]
fn volume_that_a_former_wipe_began_with_and_that_never_answers_keeps_no_later_one_from_the_others()
{
    let mut machine = laptop();
    carry_out(&wipe_to(WipeLevel::Keys, PathBuf::new()), &machine.host, &task(1)).unwrap();
    machine.device("sdb", "8:16", &["dm-5"]).device("dm-5", "253:5", &[]);
    machine.mount("253:5", "/srv", "ext4 /dev/dm-5");
    let added = machine.luks("sdb", "luks2");
    let wipe = wipe_beside(machine.host.path("/dev/sda2"));
    let plan = wipe.plan(&machine.host, &task(2)).unwrap();
    let targets = plan.facts.get("targets").unwrap().as_array().unwrap();
    assert!(targets.iter().any(|target| target["path"] == json!(added)), "{targets:?}");
}
