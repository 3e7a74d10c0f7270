//! One volume to which two names lead that were both named, and what the inventory says of volumes beforehand.

use std::fs;

use agent::execute::Executor as _;
use agent::execute::refresh::Refresh;
use protocol::action::WipeLevel;
use protocol::receipt::FailureKind;
use serde_json::{Value, json};

use crate::scene::{carry_out, opens_with_any, wipe};
use crate::support::host::task;
use crate::targets::{Machine, laptop};

/// A laptop with two more disks, both of them named, that say to be these drives.
fn with_two_named(drives: [&str; 2]) -> Machine {
    let mut machine = laptop();
    machine.device("sdb", "8:16", &[]).device("sdc", "8:32", &[]);
    for (name, drive) in ["sdb", "sdc"].into_iter().zip(drives) {
        machine.file(&format!("/sys/block/{name}/device/wwid"), drive);
        machine.host.wipe_targets.push(machine.host.path("/dev").join(name));
    }
    machine.luks("sdb", "luks2");
    machine
}

#[test]
fn two_paths_to_one_drive_that_are_both_named_are_wiped_once_and_told_as_one() {
    let machine = with_two_named(["naa.1", "naa.1"]);
    let [one, other] = ["/dev/sdb", "/dev/sdc"].map(|path| machine.host.path(path));
    fs::hard_link(&one, &other).unwrap();
    let plan = wipe(WipeLevel::Keys).plan(&machine.host, &task(1)).unwrap();
    let evidence = carry_out(&wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap();
    assert_eq!(evidence.get("grade"), Some(&json!("proven")));
    for told in [plan.facts, evidence] {
        let targets = told.get("targets").unwrap().as_array().unwrap();
        let paths: Vec<_> = targets.iter().map(|told| (&told["path"], &told["ways"])).collect();
        assert_eq!(paths, [(&json!(one), &json!([other]))]);
    }
    assert!(!opens_with_any(&other));
    // A second order finds no header any more, by neither name.
    let evidence = carry_out(&wipe(WipeLevel::Data), &machine.host, &task(2)).unwrap();
    let target = &evidence.get("targets").unwrap()[0];
    assert_eq!((&target["path"], &target["ways"]), (&json!(one), &json!([other])));
    assert_eq!(evidence.get("targets").unwrap().as_array().unwrap().len(), 1);
}

#[test]
fn other_way_to_a_volume_is_looked_at_where_it_is_after_a_boot() {
    let machine = with_two_named(["naa.1", "naa.1"]);
    let [one, other, now] =
        ["/dev/sdb", "/dev/sdc", "/dev/sdd"].map(|path| machine.host.path(path));
    fs::hard_link(&one, &other).unwrap();
    let wipe = wipe(WipeLevel::Keys);
    wipe.apply(&machine.host, &task(1)).unwrap();
    machine.device("sdd", "8:48", &[]);
    fs::rename(&other, &now).unwrap();
    machine.file("/dev/sdc", [0; 8192]);
    let ways =
        || wipe.prove(&machine.host, &task(1)).unwrap().get("targets").unwrap()[0]["ways"].clone();
    assert_eq!(ways(), json!([now]));
    fs::remove_file(&now).unwrap();
    assert_eq!(ways(), Value::Null);
}

#[test]
fn mirror_and_its_leg_that_are_both_named_are_wiped_once_through_the_mirror() {
    let mut machine = with_two_named(["naa.1", "naa.2"]);
    fs::create_dir_all(machine.host.path("/sys/block/sdb/holders/sdc")).unwrap();
    let [leg, mirror] = ["/dev/sdb", "/dev/sdc"].map(|path| machine.host.path(path));
    fs::hard_link(&leg, &mirror).unwrap();
    machine.host.wipe_targets.reverse();
    for _ in 0..2 {
        machine.host.wipe_targets.reverse();
        let plan = wipe(WipeLevel::Keys).plan(&machine.host, &task(1)).unwrap();
        let targets = plan.facts.get("targets").unwrap();
        assert_eq!(targets.as_array().unwrap().len(), 1);
        assert_eq!((&targets[0]["path"], &targets[0]["ways"]), (&json!(mirror), &json!([leg])));
    }
    carry_out(&wipe(WipeLevel::Keys), &machine.host, &task(1)).unwrap();
    assert!(!opens_with_any(&leg));
}

#[test]
fn path_of_a_disk_that_is_the_leg_of_a_mirror_is_a_way_to_the_mirror() {
    let mut machine = with_two_named(["naa.1", "naa.2"]);
    machine.device("md9", "9:9", &[]);
    for (below, above) in [("sdb", "sdc"), ("sdc", "md9")] {
        let holders = machine.host.path(format!("/sys/block/{below}/holders/{above}"));
        fs::create_dir_all(holders).unwrap();
    }
    let [path, leg, mirror] = ["/dev/sdb", "/dev/sdc", "/dev/md9"].map(|at| machine.host.path(at));
    fs::hard_link(&path, &leg).unwrap();
    fs::hard_link(&path, &mirror).unwrap();
    machine.host.wipe_targets.push(mirror.clone());
    let plan = wipe(WipeLevel::Keys).plan(&machine.host, &task(1)).unwrap();
    let targets = plan.facts.get("targets").unwrap();
    assert_eq!(targets.as_array().unwrap().len(), 1);
    assert_eq!((&targets[0]["path"], &targets[0]["ways"]), (&json!(mirror), &json!([path, leg])));
}

#[test]
fn copy_of_a_volume_is_one_of_its_own_and_a_drive_that_lies_about_itself_is_noticed() {
    let copied = |drives, removable| {
        let machine = with_two_named(drives);
        machine.file("/sys/block/sdb/removable", removable);
        let [one, other] = ["/dev/sdb", "/dev/sdc"].map(|path| machine.host.path(path));
        fs::copy(one, &other).unwrap();
        (carry_out(&wipe(WipeLevel::Keys), &machine.host, &task(1)), opens_with_any(&other))
    };
    let (evidence, opens) = copied(["naa.1", "naa.2"], "0\n");
    assert_eq!(evidence.unwrap().get("targets").unwrap().as_array().unwrap().len(), 2);
    assert!(!opens, "a leg of a mirror that does not run, or a backup");
    let (evidence, opens) = copied(["naa.1", "naa.1"], "1\n");
    assert_eq!(evidence.unwrap().get("targets").unwrap().as_array().unwrap().len(), 2);
    assert!(!opens, "a stick may say that it is the machine's own disk");
    // Nothing is called proven for what another drive of the same name still has.
    let (failure, opens) = copied(["naa.1", "naa.1"], "0\n");
    let failure = failure.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotProven);
    assert!(failure.detail.contains("/dev/sdc, which stays"), "{}", failure.detail);
    assert!(opens);
}

#[test]
fn inventory_lists_every_volume_that_a_wipe_would_find_and_whether_its_keys_can_go() {
    let mut machine = laptop();
    machine.device("sdb", "8:16", &[]).luks("sdb", "luks2");
    machine.device("sdc", "8:32", &[]).file("/dev/sdc", [0; 8192]);
    machine.mount("8:32", "/srv", "ext4 /dev/sdc");
    let inventory = |machine: &Machine| -> Vec<Value> {
        let evidence = Refresh.prove(&machine.host, &task(1)).unwrap();
        let volumes = evidence.get("volumes").unwrap().as_array().unwrap().clone();
        let told = |volume: &Value| {
            let name = volume["path"].as_str().unwrap().rsplit_once('/').unwrap().1;
            assert_eq!(volume["uuid"].is_string(), volume["encrypted"] == true, "{volume}");
            json!([name, volume["encrypted"], volume["destroyable"], volume["why"]])
        };
        volumes.iter().map(told).collect()
    };
    let found = [
        json!(["sda2", true, true, null]),
        json!(["sda3", true, true, null]),
        json!(["sdb", true, false, "locked"]),
        json!(["sdc", false, false, null]),
    ];
    assert_eq!(inventory(&machine), found);
    // Where targets are named, what lies beside them is told as well.
    machine.host.wipe_targets = vec![machine.host.path("/dev/sda2")];
    let beside = [
        json!(["sda2", true, true, null]),
        json!(["sda3", true, false, "not_named"]),
        json!(["sdb", true, false, "locked"]),
        json!(["sdc", false, false, null]),
    ];
    assert_eq!(inventory(&machine), beside);
}
