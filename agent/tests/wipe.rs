//! Wipe against real LUKS volumes in files and loop devices: what `cryptsetup` and an attacker
//! with backups of the headers can still do afterwards. Nothing.

#![expect(clippy::unwrap_used, reason = "a test whose scene cannot be set should stop there")]

use std::fs;

use agent::execute::wipe::{Wipe, is_provable};
use agent::execute::{Afterwards, Executor as _, Recovery};
use protocol::action::{self, WipeLevel};
use protocol::advance::Advance;
use protocol::receipt::FailureKind;
use serde_json::json;

use scene::{
    DATA, FORMATS, LoopDevice, Scene, VOLUME_BYTES, carry_out, cryptsetup, opens_with_any, wipe,
};
use support::host::{sandbox, task};
use support::luks;

#[path = "wipe/directories.rs"]
mod directories;
#[path = "wipe/directory_failures.rs"]
mod directory_failures;
#[path = "wipe/drives.rs"]
mod drives;
#[path = "wipe/encrypted.rs"]
mod encrypted;
#[path = "wipe/failures.rs"]
mod failures;
#[path = "wipe/faults.rs"]
mod faults;
#[path = "wipe/homes.rs"]
mod homes;
#[path = "wipe/interrupted.rs"]
mod interrupted;
#[path = "wipe/moved.rs"]
mod moved;
#[path = "wipe/order.rs"]
mod order;
#[path = "wipe/plain.rs"]
mod plain;
#[path = "wipe/scene.rs"]
mod scene;
#[path = "wipe/selective.rs"]
mod selective;
#[path = "wipe/selective_failures.rs"]
mod selective_failures;
#[path = "wipe/silent.rs"]
mod silent;
#[path = "support/soft_tpm.rs"]
mod soft_tpm;
#[path = "support"]
mod support {
    pub(crate) mod bus;
    pub(crate) mod host;
    pub(crate) mod luks;
}
#[path = "wipe/targets.rs"]
mod targets;
#[path = "wipe/tpm.rs"]
mod tpm;
#[path = "wipe/unmounted.rs"]
mod unmounted;
#[path = "wipe/ways.rs"]
mod ways;

#[test]
fn wiped_volume_does_not_open_even_with_its_old_headers() {
    for format in FORMATS {
        let scene = Scene::of(format);
        let (wipe, task) = (wipe(WipeLevel::Keys), task(1));
        let plan = wipe.plan(&scene.host, &task).unwrap();
        assert_eq!(fs::read(&scene.volume).unwrap(), scene.original, "a plan changes nothing");
        let again = wipe.plan(&scene.host, &task).unwrap();
        assert_eq!(plan.facts, again.facts, "a plan is repeatable");

        let evidence = carry_out(&wipe, &scene.host, &task).unwrap();

        scene.assert_destroyed();
        assert_eq!(fs::read(&scene.volume).unwrap()[DATA..], scene.original[DATA..]);
        assert_eq!(evidence.get("grade"), Some(&"proven".into()));
        let target = &evidence.get("targets").unwrap()[0];
        assert_eq!(target["format"], json!(format));
        assert_eq!(target["keyslots_before"], json!(2));
        assert_eq!(target["keyslots_left"], json!(0));
        assert_ne!(target["headers_before_sha256"], target["headers_after_sha256"]);
        let planned = &plan.facts.get("targets").unwrap()[0];
        assert_eq!(planned["uuid"], target["uuid"]);
        assert_eq!(planned["headers_sha256"], target["headers_before_sha256"]);
        assert!(matches!(wipe.recover(&scene.host, &task), Recovery::Applied));
    }
}

#[test]
fn header_backup_opens_after_the_keys_and_finds_nothing_after_the_data() {
    for format in FORMATS {
        for level in [WipeLevel::Keys, WipeLevel::Data] {
            let scene = Scene::of(format);
            let backup = scene.folder.path().join("backup");
            let (volume, file) = (scene.volume.to_str().unwrap(), backup.to_str().unwrap());
            let save = ["-q", "luksHeaderBackup", volume, "--header-backup-file", file];
            assert!(cryptsetup(&save, ""));
            let evidence = carry_out(&wipe(level), &scene.host, &task(1)).unwrap();
            scene.assert_destroyed();
            let opens = evidence.get("header_backup_opens").unwrap();
            assert_eq!(opens, &json!(level == WipeLevel::Keys), "the receipt says so");
            let restore = ["-q", "luksHeaderRestore", volume, "--header-backup-file", file];
            assert!(cryptsetup(&restore, ""));
            // With the backup comes the key. What it opens depends on the level.
            assert!(opens_with_any(&scene.volume));
            let left = fs::read(&scene.volume).unwrap();
            match level {
                WipeLevel::Keys => assert_eq!(left[DATA..], scene.original[DATA..]),
                WipeLevel::Data => assert!(left[DATA..].iter().all(|byte| *byte == 0)),
            }
        }
    }
}

#[test]
fn block_device_is_wiped_like_a_file() {
    for format in FORMATS {
        let mut scene = Scene::of(format);
        let device = LoopDevice::new(&scene.volume);
        scene.host.wipe_targets = vec![device.0.clone()];
        let (wipe, task) = (wipe(WipeLevel::Data), task(1));
        wipe.plan(&scene.host, &task).unwrap();
        let evidence = carry_out(&wipe, &scene.host, &task).unwrap();
        let target = &evidence.get("targets").unwrap()[0];
        assert_eq!(target["path"], json!(device.0));
        // A loop device over a file gives the space back, and shows zeros.
        assert_eq!(target["erasure"], json!("unmapped"));
        assert!(!opens_with_any(&device.0));
        drop(device);
        scene.assert_destroyed();
        scene.assert_data_gone();
    }
}

#[test]
fn level_data_leaves_no_data_and_proves_the_keys_first() {
    for format in FORMATS {
        let scene = Scene::of(format);
        let (wipe, task) = (wipe(WipeLevel::Data), task(1));
        wipe.apply(&scene.host, &task).unwrap();
        let first = wipe.prove(&scene.host, &task).unwrap();
        assert_eq!(first.get("grade"), Some(&"proven".into()));
        assert_eq!(fs::read(&scene.volume).unwrap()[DATA..], scene.original[DATA..]);
        assert!(wipe.has_remainder(&scene.host, &task), "the proof leaves before the data goes");
        wipe.finish(&scene.host, &task).unwrap();
        let evidence = wipe.prove(&scene.host, &task).unwrap();
        assert!(!wipe.has_remainder(&scene.host, &task));
        scene.assert_destroyed();
        scene.assert_data_gone();
        assert_eq!(evidence.get("grade"), Some(&"proven_media".into()));
        let target = &evidence.get("targets").unwrap()[0];
        assert_eq!(target["data_bytes"], json!(VOLUME_BYTES - DATA));
        assert_eq!(target["erasure"], json!("overwritten"));
    }
}

#[test]
fn wipe_tells_each_volume_and_how_many_bytes_are_gone() {
    let scene = Scene::of(FORMATS[0]);
    let (wipe, task) = (wipe(WipeLevel::Data), task(1));
    let (told, heard) = std::sync::mpsc::sync_channel(256);
    task.course.listen(move |advance| told.try_send(advance).unwrap());
    let words = || heard.try_iter().collect::<Vec<_>>();
    wipe.apply(&scene.host, &task).unwrap();
    let at = Advance::at(&scene.volume.display().to_string());
    assert_eq!(words(), [at.clone().step(1, 2), at.clone().step(2, 2)]);
    wipe.prove(&scene.host, &task).unwrap();
    wipe.finish(&scene.host, &task).unwrap();
    let words = words();
    let all = (VOLUME_BYTES - DATA) as u64;
    // So little is written at once.
    assert_eq!(words, [at.clone().step(1, 1).bytes(0, all), at.step(1, 1).bytes(all, all)]);
}

/// The figure of docs/BENCHMARKS.md. How long it takes is no test's business; that it is done is.
#[test]
fn keys_of_a_volume_as_cryptsetup_makes_it_are_destroyed_and_the_time_is_told() {
    let clock = runtime::Clock::system();
    for format in FORMATS {
        let (mut host, folder) = sandbox();
        let volume = folder.path().join("volume");
        let command = ["-q", "luksFormat", "--type", format];
        luks::format(&volume, 64 * 1024 * 1024, &command);
        let device = LoopDevice::new(&volume);
        for (number, (name, target)) in
            [("a file", &volume), ("a loop device", &device.0)].into_iter().enumerate()
        {
            luks::format(&volume, 64 * 1024 * 1024, &command);
            host.wipe_targets = vec![target.clone()];
            let (wipe, task) = (wipe(WipeLevel::Keys), task(u8::try_from(number).unwrap()));
            let begun = clock.now();
            let evidence = carry_out(&wipe, &host, &task).unwrap();
            let took = clock.now().duration_since(begun);
            println!("{format} in {name}: keys destroyed and proven in {} ms", took.as_millis());
            assert_eq!(evidence.get("grade"), Some(&"proven".into()));
            assert!(!opens_with_any(target));
        }
    }
}

#[test]
fn later_command_may_go_on_from_keys_to_data() {
    let scene = Scene::new();
    carry_out(&wipe(WipeLevel::Keys), &scene.host, &task(1)).unwrap();
    let (wipe, task) = (wipe(WipeLevel::Data), task(2));
    wipe.plan(&scene.host, &task).unwrap();
    carry_out(&wipe, &scene.host, &task).unwrap();
    scene.assert_destroyed();
    scene.assert_data_gone();
}

#[test]
fn damaged_first_header_does_not_save_the_keys() {
    let scene = Scene::new();
    let mut bytes = scene.original.clone();
    bytes[..0x4000].fill(0);
    fs::write(&scene.volume, bytes).unwrap();
    assert!(opens_with_any(&scene.volume), "the second header takes over");
    carry_out(&wipe(WipeLevel::Keys), &scene.host, &task(1)).unwrap();
    scene.assert_destroyed();
}

#[test]
fn wipe_is_provable_only_where_every_target_has_keys() {
    let mut scene = Scene::new();
    assert!(is_provable(&scene.host));
    let plain = scene.volume.with_file_name("plain");
    fs::write(&plain, [0; 4096]).unwrap();
    scene.host.wipe_targets.push(plain);
    assert!(!is_provable(&scene.host));
    scene.host.wipe_targets.clear();
    assert!(!is_provable(&scene.host));
}

#[test]
fn volume_with_two_names_is_one_target() {
    let mut scene = Scene::new();
    let link = scene.volume.with_extension("link");
    std::os::unix::fs::symlink(&scene.volume, &link).unwrap();
    scene.host.wipe_targets.push(link);
    let (wipe, task) = (wipe(WipeLevel::Keys), task(1));
    wipe.apply(&scene.host, &task).unwrap();
    let evidence = wipe.prove(&scene.host, &task).unwrap();
    assert_eq!(evidence.get("targets").unwrap().as_array().unwrap().len(), 1);
}

#[test]
fn one_wrong_target_protects_all_of_them_before_anything_is_touched() {
    let mut scene = Scene::new();
    let folder = scene.volume.parent().unwrap().to_owned();
    let plain = folder.join("plain");
    fs::write(&plain, vec![7; VOLUME_BYTES]).unwrap();
    for wrong in [plain, folder.join("missing"), folder.clone(), "/dev/null".into()] {
        let before = fs::read(&wrong).ok();
        scene.host.wipe_targets = vec![scene.volume.clone(), wrong.clone()];
        let wipe = wipe(WipeLevel::Keys);
        for failure in [
            wipe.plan(&scene.host, &task(1)).unwrap_err(),
            wipe.apply(&scene.host, &task(1)).unwrap_err(),
        ] {
            assert_eq!(failure.kind, FailureKind::Precondition, "{}", wrong.display());
            assert!(failure.detail.contains(wrong.to_str().unwrap()), "{}", failure.detail);
        }
        assert_eq!(fs::read(&wrong).ok(), before);
        assert_eq!(fs::read(&scene.volume).unwrap(), scene.original);
        assert!(!scene.host.state_dir.join("wipe.json").exists());
    }
}

#[test]
fn host_without_targets_says_so() {
    let (host, _folder) = sandbox();
    let failure = wipe(WipeLevel::Keys).plan(&host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Precondition);
}

#[test]
fn headers_that_came_back_are_not_proven_destroyed() {
    let scene = Scene::new();
    wipe(WipeLevel::Keys).apply(&scene.host, &task(1)).unwrap();
    let mut bytes = fs::read(&scene.volume).unwrap();
    bytes[..0x4000].copy_from_slice(&scene.original[..0x4000]);
    fs::write(&scene.volume, bytes).unwrap();
    let failure = wipe(WipeLevel::Keys).prove(&scene.host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotProven);
}

#[test]
fn power_off_follows_only_when_it_was_ordered() {
    for (power_off, expected) in [(true, Afterwards::PowerOff), (false, Afterwards::Nothing)] {
        let wipe = Wipe::new(action::Wipe { level: WipeLevel::Keys, power_off });
        assert_eq!(wipe.afterwards(), expected);
    }
}
