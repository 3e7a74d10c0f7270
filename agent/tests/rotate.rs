//! Rotation of recovery keys on real LUKS volumes in files, and of passwords in a real `shadow(5)`:
//! what opens them before, between and after.

#![expect(clippy::unwrap_used, reason = "a test whose scene cannot be set should stop there")]

use std::fs;

use agent::execute::rotate::{Manage, ManagedVolumes};
use agent::execute::{Afterwards, Executor as _, Recovery};
use protocol::receipt::FailureKind;
use runtime::Entropy;
use serde_json::json;

use scene::{FORMATS, Scene, USERS, crypto_lock, escrowed, let_in, opens, rotate, slots};
use support::host::task;

#[path = "rotate/accounts.rs"]
mod accounts;
#[path = "rotate/failures.rs"]
mod failures;
#[path = "rotate/interrupted.rs"]
mod interrupted;
#[path = "rotate/scene.rs"]
mod scene;
#[path = "support"]
mod support {
    pub(crate) mod host;
    pub(crate) mod luks;
}

#[test]
fn former_recovery_key_goes_when_the_next_one_is_escrowed_and_nobody_elses_does() {
    for format in FORMATS {
        let scene = Scene::of(format);
        let before = slots(&scene.volume);
        let first = rotate();
        let plan = first.plan(&scene.host, &task(1)).unwrap();
        assert_eq!(plan.facts, first.plan(&scene.host, &task(1)).unwrap().facts);
        assert_eq!(slots(&scene.volume), before, "a plan changes nothing");
        first.apply(&scene.host, &task(1)).unwrap();
        let added = first.prove(&scene.host, &task(1)).unwrap();
        assert!(first.has_remainder(&scene.host, &task(1)));
        let key = escrowed(&first, &scene.host, &task(1));
        assert!(opens(&scene.volume, &key), "what was sealed opens the volume");
        first.finish(&scene.host, &task(1)).unwrap();
        let evidence = first.prove(&scene.host, &task(1)).unwrap();
        assert!(!first.has_remainder(&scene.host, &task(1)));
        assert_eq!(evidence.get("sealed_sha256"), added.get("sealed_sha256"));
        let volume = &evidence.get("volumes").unwrap()[0];
        assert_eq!((&volume["format"], &volume["keyslots"]), (&json!(format), &json!(4)));

        let next = rotate();
        next.apply(&scene.host, &task(2)).unwrap();
        let other = escrowed(&next, &scene.host, &task(2));
        assert!(opens(&scene.volume, &key) && opens(&scene.volume, &other), "both, in between");
        next.finish(&scene.host, &task(2)).unwrap();
        next.prove(&scene.host, &task(2)).unwrap();
        assert!(!opens(&scene.volume, &key), "the former one is gone");
        assert!(opens(&scene.volume, &other));
        assert!(USERS.iter().all(|user| opens(&scene.volume, user)));
        assert_eq!(slots(&scene.volume).len(), before.len() + 1);
    }
}

#[test]
fn recovery_key_that_was_there_before_is_replaced_by_the_first_rotation() {
    let scene = Scene::new();
    let manage = Manage { path: scene.volume.clone(), recovery_slot: Some(1), in_the_clear: true };
    ManagedVolumes::add(&scene.host, &manage, b"", &Entropy::system()).unwrap();
    let rotate = rotate();
    rotate.apply(&scene.host, &task(1)).unwrap();
    assert!(opens(&scene.volume, USERS[1]));
    rotate.finish(&scene.host, &task(1)).unwrap();
    assert!(opens(&scene.volume, USERS[0]) && !opens(&scene.volume, USERS[1]));
}

#[test]
fn key_that_is_not_escrowed_in_time_is_taken_back() {
    for format in FORMATS {
        let scene = Scene::of(format);
        let before = slots(&scene.volume);
        let rotate = rotate();
        rotate.apply(&scene.host, &task(1)).unwrap();
        let key = escrowed(&rotate, &scene.host, &task(1));
        let failure = rotate.withdraw(&scene.host, &task(1));
        assert_eq!((failure.kind, &*failure.stage), (FailureKind::Timeout, "escrow"));
        assert!(!opens(&scene.volume, &key));
        assert_eq!(slots(&scene.volume), before);
        // A crash after that leads to the same end, and to no second key.
        assert!(matches!(rotate.recover(&scene.host, &task(1)), Recovery::Apply));
        assert_eq!(rotate.apply(&scene.host, &task(1)).unwrap_err(), failure);
        assert_eq!(slots(&scene.volume), before);
    }
}

#[test]
fn crypto_lock_leaves_the_volume_to_the_escrowed_key_alone() {
    for format in FORMATS {
        let scene = Scene::of(format);
        let lock = crypto_lock();
        let plan = lock.plan(&scene.host, &task(1)).unwrap();
        assert!(plan.steps.iter().any(|step| step.contains("empty keyslots: 0, 1, 2")));
        lock.apply(&scene.host, &task(1)).unwrap();
        let first = lock.prove(&scene.host, &task(1)).unwrap();
        assert_eq!(first.get("grade"), None, "nothing is locked yet");
        let key = escrowed(&lock, &scene.host, &task(1));
        assert!(USERS.iter().all(|user| opens(&scene.volume, user)));
        lock.finish(&scene.host, &task(1)).unwrap();
        let evidence = lock.prove(&scene.host, &task(1)).unwrap();
        assert_eq!(evidence.get("grade"), Some(&"proven".into()));
        assert_eq!(evidence.get("volumes").unwrap()[0]["keyslots"], json!(1));
        assert!(USERS.iter().all(|user| !opens(&scene.volume, user)), "a user still gets in");
        assert!(opens(&scene.volume, &key));
        assert_eq!(slots(&scene.volume).len(), 1);
        let keys = fs::read_dir(scene.host.state_dir.join("volume-keys")).unwrap();
        assert_eq!(keys.count(), 0, "the agent's own key is gone with its keyslot");
        assert_eq!(lock.afterwards(), Afterwards::PowerOff);
        // And back: whoever has the recovery key lets the agent manage the volume again.
        let failure = rotate().plan(&scene.host, &task(2)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Precondition);
        scene.manage(&key);
        rotate().plan(&scene.host, &task(2)).unwrap();
    }
}

#[test]
fn key_that_somebody_adds_while_a_crypto_lock_is_escrowed_goes_as_well() {
    for format in FORMATS {
        let scene = Scene::of(format);
        let lock = crypto_lock();
        lock.apply(&scene.host, &task(1)).unwrap();
        let key = escrowed(&lock, &scene.host, &task(1));
        let_in(&scene, "latecomer");
        assert!(opens(&scene.volume, "latecomer"));
        lock.finish(&scene.host, &task(1)).unwrap();
        lock.prove(&scene.host, &task(1)).unwrap();
        assert!(!opens(&scene.volume, "latecomer"));
        assert!(opens(&scene.volume, &key));
        assert_eq!(slots(&scene.volume).len(), 1);
    }
}

#[test]
fn crypto_lock_is_taken_back_when_nobody_holds_its_key() {
    let scene = Scene::new();
    let before = slots(&scene.volume);
    let lock = crypto_lock();
    lock.apply(&scene.host, &task(1)).unwrap();
    assert_eq!(lock.withdraw(&scene.host, &task(1)).kind, FailureKind::Timeout);
    assert_eq!(slots(&scene.volume), before);
    assert!(USERS.iter().all(|user| opens(&scene.volume, user)));
}

#[test]
fn crypto_lock_of_a_device_with_a_volume_that_nobody_manages_is_none() {
    let mut scene = Scene::new();
    let other = scene.volume.with_file_name("other");
    scene::format(&other, "luks2");
    scene.host.wipe_targets = vec![scene.volume.clone(), other.clone()];
    let failure = crypto_lock().plan(&scene.host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Precondition);
    assert!(failure.detail.contains(other.to_str().unwrap()), "{}", failure.detail);
}

#[test]
fn key_of_a_volume_is_not_kept_on_a_disk_that_is_not_encrypted() {
    let scene = Scene::unmanaged("luks2");
    let manage = Manage { path: scene.volume.clone(), ..Manage::default() };
    let before = fs::read(&scene.volume).unwrap();
    let passphrase = USERS[0].as_bytes();
    let failure =
        ManagedVolumes::add(&scene.host, &manage, passphrase, &Entropy::system()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Precondition);
    assert!(fs::read(&scene.volume).unwrap() == before);
    let manage = Manage { in_the_clear: true, ..manage };
    let wrong = ManagedVolumes::add(&scene.host, &manage, b"wrong", &Entropy::system());
    assert_eq!(wrong.unwrap_err().kind, FailureKind::Tool);
    ManagedVolumes::add(&scene.host, &manage, passphrase, &Entropy::system()).unwrap();
    let slots = slots(&scene.volume);
    // Once more changes nothing.
    ManagedVolumes::add(&scene.host, &manage, b"", &Entropy::system()).unwrap();
    assert_eq!(scene::slots(&scene.volume), slots);
}
