//! A wipe that is cut off: wherever that happens, it goes on to the same end.

use std::fs;

use agent::execute::wipe::Wipe;
use agent::execute::{Executor as _, Recovery};
use protocol::action::{self, WipeLevel};
use protocol::receipt::FailureKind;
use serde_json::{Value, json};

use crate::faults::{Fault, FaultyDisk, carry_out_with_power_cut};
use crate::scene::{FORMATS, Scene, carry_out, format_luks, wipe};
use crate::support::host::task;

#[test]
fn power_cut_at_any_write_resumes_to_the_same_end() {
    for format in FORMATS {
        let scene = Scene::of(format);
        let task = task(1);
        let resumed = wipe(WipeLevel::Data);
        let mut operations = 0;
        loop {
            scene.reset();
            let disk = FaultyDisk::after(operations, Fault::PowerCut);
            if carry_out_with_power_cut(&scene.host, WipeLevel::Data, disk.clone()) {
                assert_eq!(disk.left(), 0, "one operation more than the last failure had");
                break;
            }
            let claimed = resumed.prove(&scene.host, &task);
            let claims_all =
                claimed.is_ok_and(|evidence| evidence.get("grade") == Some(&"proven_media".into()));
            assert!(!claims_all, "{format}: operation {operations}");
            assert!(matches!(resumed.recover(&scene.host, &task), Recovery::Apply));
            carry_out(&resumed, &scene.host, &task).unwrap();
            scene.assert_destroyed();
            scene.assert_data_gone();
            operations += 1;
        }
        assert!(operations >= 9, "keys, headers, data and their flushes: {operations}");
    }
}

#[test]
fn second_power_cut_while_resuming_changes_nothing() {
    let scene = Scene::new();
    let resumed = wipe(WipeLevel::Keys);
    for first in 0..6 {
        for second in 0..6 {
            scene.reset();
            for operations in [first, second] {
                let disk = FaultyDisk::after(operations, Fault::PowerCut);
                carry_out_with_power_cut(&scene.host, WipeLevel::Keys, disk);
            }
            resumed.apply(&scene.host, &task(1)).unwrap();
            resumed.prove(&scene.host, &task(1)).unwrap();
        }
    }
    scene.assert_destroyed();
}

#[test]
fn broken_target_does_not_protect_the_next_one() {
    let mut scene = Scene::new();
    let broken = scene.volume.with_extension("broken");
    fs::copy(&scene.volume, &broken).unwrap();
    scene.host.wipe_targets.insert(0, broken.clone());
    let mut disk = FaultyDisk::after(0, Fault::Broken);
    disk.sound = Some(scene.volume.canonicalize().unwrap());
    let params = action::Wipe { level: WipeLevel::Keys, power_off: false };
    let executor = Wipe::on(params, Box::new(disk));
    let failure = executor.apply(&scene.host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Io);
    assert!(failure.detail.contains(broken.to_str().unwrap()), "{}", failure.detail);
    scene.assert_destroyed();
    // The receipt says of each what became of it, and claims no grade.
    let remains = executor.remains(&scene.host, &task(1));
    assert_eq!(remains.get("grade"), None);
    assert_eq!(remains.get("volumes_destroyed"), Some(&json!(1)));
    let targets = remains.get("targets").unwrap();
    for (at, path, destroyed, left) in
        [(0, &broken, false, Value::Null), (1, &scene.volume, true, json!(0))]
    {
        let target = &targets[at];
        assert_eq!(target["path"], json!(path.canonicalize().unwrap()));
        assert_eq!((&target["destroyed"], &target["keyslots_left"]), (&json!(destroyed), &left));
        assert_eq!(target["headers_after_sha256"].is_string(), destroyed);
    }
    assert_eq!(
        (&targets[0]["progress"], &targets[1]["progress"]),
        (&json!("pending"), &json!("headers"))
    );
    // What was destroyed is looked at: headers that somebody brings back are not.
    let destroyed = fs::read(&scene.volume).unwrap();
    fs::write(&scene.volume, &scene.original).unwrap();
    let remains = executor.remains(&scene.host, &task(1));
    assert_eq!(remains.get("volumes_destroyed"), Some(&json!(0)));
    let problem = &remains.get("targets").unwrap()[1]["problem"];
    assert!(problem.as_str().unwrap().ends_with("still shows a header"), "{problem}");
    fs::write(&scene.volume, destroyed).unwrap();
    wipe(WipeLevel::Keys).apply(&scene.host, &task(1)).unwrap();
    wipe(WipeLevel::Keys).prove(&scene.host, &task(1)).unwrap();
}

#[test]
fn resumed_wipe_spares_a_stranger_that_took_the_path() {
    let scene = Scene::new();
    let disk = FaultyDisk::after(1, Fault::PowerCut);
    assert!(!carry_out_with_power_cut(&scene.host, WipeLevel::Keys, disk));
    format_luks(&scene.volume, "luks2");
    let stranger = fs::read(&scene.volume).unwrap();
    assert!(wipe(WipeLevel::Keys).apply(&scene.host, &task(1)).is_err());
    assert_eq!(fs::read(&scene.volume).unwrap(), stranger);
}
