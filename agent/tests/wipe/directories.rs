//! Selective wipe of directories that fscrypt encrypts: the stored key is gone, from the drive as well, the kernel has
//! forgotten its own, and nothing else changed.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use agent::execute::Executor as _;
use agent::execute::wipe::selective::SelectiveWipe;
use protocol::receipt::FailureKind;
use serde_json::{Value, json};

use crate::encrypted::{COMPANY, OWN, boot, on_encrypted, said};
use crate::failures::run;
use crate::scene::carry_out;
use crate::support::host::task;

#[test]
fn key_of_a_company_directory_goes_from_file_drive_and_kernel_and_nothing_else_does() {
    on_encrypted(|scene| {
        let (selective, task) = (SelectiveWipe::default(), task(1));
        let personal = scene.personal();
        assert!(scene.is_on_drive(&scene.wrapped) && scene.is_readable());
        let plan = selective.plan(&scene.host, &task).unwrap();
        assert_eq!(plan.facts, selective.plan(&scene.host, &task).unwrap().facts);
        assert_eq!(fs::read(&scene.stored).unwrap(), scene.wrapped, "a plan changes nothing");
        let known = &plan.facts.get("directories").unwrap()[0];
        assert_eq!(known["path"], json!(COMPANY));
        assert_eq!(known["stored"].as_array().unwrap().len(), 1);

        let evidence = carry_out(&selective, &scene.host, &task).unwrap();

        scene.assert_destroyed();
        assert!(!scene.is_on_drive(&scene.wrapped));
        assert_eq!(scene.personal(), personal, "protectors and what is a person's");
        assert_eq!(evidence.get("grade"), Some(&json!("proven")));
        assert_eq!(evidence.get("header_backup_opens"), Some(&json!(true)));
        let seen = &evidence.get("directories").unwrap()[0];
        assert_eq!(seen["key"], known["key"]);
        assert_eq!((&seen["kernel_key"], &seen["journal"]), (&json!("absent"), &json!("erased")));
        let stored = &seen["stored"][0];
        assert_eq!(stored["old_bytes"], json!("overwritten_in_place"));
        assert_eq!(stored["before_sha256"], known["stored"][0]["sha256"]);
        let tried = seen["does_not_open"].as_str().unwrap();
        assert!(tried.starts_with("/home/company/"), "{tried}");
        // Once more changes nothing, as after a crash behind the last step, and so does another order.
        assert_eq!(carry_out(&selective, &scene.host, &task).unwrap(), evidence);
        scene.ordered(&crate::support::host::task(2)).unwrap();
        assert_eq!(scene.personal(), personal);
    });
}

#[test]
fn stored_key_that_came_back_is_not_proven_gone_and_what_it_opens_is_said() {
    on_encrypted(|scene| {
        scene.ordered(&task(1)).unwrap();
        fs::write(&scene.stored, &scene.wrapped).unwrap();
        let selective = SelectiveWipe::default();
        let failure = selective.prove(&scene.host, &task(1)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotProven, "{}", failure.detail);
        // The receipt said that a copy of it opens the directory.
        assert!(scene.unlock(COMPANY) && scene.is_readable());
        // Also where it is in the kernel alone.
        fs::write(&scene.stored, vec![0; scene.wrapped.len()]).unwrap();
        nix::unistd::sync();
        fs::remove_file(&scene.stored).unwrap();
        let failure = selective.prove(&scene.host, &task(1)).unwrap_err();
        assert!(failure.detail.contains("kernel still has"), "{}", failure.detail);
        scene.ordered(&task(2)).unwrap();
        scene.assert_destroyed();
    });
}

/// As on a file system that writes elsewhere.
#[test]
fn old_bytes_that_are_seen_on_the_drive_are_not_proven_gone() {
    on_encrypted(|scene| {
        nix::unistd::sync();
        let drive = fs::read(&scene.image).unwrap();
        let length = scene.wrapped.len();
        let at = drive.windows(length).position(|window| window == scene.wrapped).unwrap();
        scene.ordered(&task(1)).unwrap();
        let node = fs::read_dir(scene.host.path("/dev/block")).unwrap().next().unwrap();
        let node = fs::File::options().write(true).open(node.unwrap().path()).unwrap();
        node.write_all_at(&scene.wrapped, at as u64).unwrap();
        node.sync_all().unwrap();
        let failure = SelectiveWipe::default().prove(&scene.host, &task(1)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotProven);
        assert!(failure.detail.contains("still on the drive"), "{}", failure.detail);
    });
}

#[test]
fn slots_of_systemd_homed_go_from_attributes_journal_and_drive() {
    on_encrypted(|scene| {
        let slot =
            |number: u8| format!("{}:{}", "c2Fs".repeat(21), format!("K{number}w=").repeat(22));
        for number in [0, 7] {
            let name = format!("trusted.fscrypt_slot{number}");
            let value = slot(number);
            let place = scene.host.path(COMPANY);
            let args = ["-n", &name, "-v", &value].map(Path::new);
            run("setfattr", &[&args[..], &[&place]].concat());
        }
        let place = scene.host.path(COMPANY);
        let other = ["-n", "trusted.fscrypt_slotted", "-v", "stays"].map(Path::new);
        run("setfattr", &[&other[..], &[&place]].concat());
        assert!(scene.is_on_drive(slot(0).as_bytes()) && scene.is_on_drive(slot(7).as_bytes()));

        let evidence = scene.ordered(&task(1)).unwrap();

        scene.assert_destroyed();
        for number in [0, 7] {
            assert!(!scene.is_on_drive(slot(number).as_bytes()), "slot {number}");
        }
        let names = said("getfattr", &["-m".as_ref(), "trusted".as_ref(), &place]).stdout;
        let names = String::from_utf8(names).unwrap();
        assert!(names.contains("slotted") && !names.contains("slot0"), "{names}");
        let seen = &evidence.get("directories").unwrap()[0];
        assert_eq!(seen["journal"], json!("erased"));
        let stored = seen["stored"].as_array().unwrap();
        let places: Vec<_> = stored.iter().map(|one| one["place"].as_str().unwrap()).collect();
        assert_eq!(places[1..], ["trusted.fscrypt_slot0", "trusted.fscrypt_slot7"]);
        // The kernel does not say where attributes lie: no more is claimed.
        let old: Vec<_> = stored.iter().map(|one| one["old_bytes"].as_str().unwrap()).collect();
        assert_eq!(old, ["overwritten_in_place", "may_be_left", "may_be_left"]);
    });
}

#[test]
fn policy_of_version_1_is_proven_after_the_restart_that_empties_keyrings() {
    on_encrypted(|mut scene| {
        let place = scene.host.path("/home/former");
        fs::create_dir(&place).unwrap();
        let key = scene.folder.path().join("former-key");
        fs::write(&key, (0..64).collect::<Vec<u8>>()).unwrap();
        for command in ["add_enckey -d 0123456789abcdef", "set_encpolicy -v 1 0123456789abcdef"] {
            let mut xfs_io = Command::new("xfs_io");
            let key = fs::File::open(&key).unwrap();
            let done = xfs_io.args(["-c", command]).arg(&place).stdin(key).status();
            assert!(done.unwrap().success(), "{command}");
        }
        fs::write(place.join("plans"), "secret").unwrap();
        let stored = scene.host.path("/home/.fscrypt/policies/0123456789abcdef");
        fs::write(&stored, [7; 200]).unwrap();
        scene.host.company_directories = vec!["/home/former".into()];
        let failure = scene.ordered(&task(1)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotProven, "{}", failure.detail);
        assert!(failure.detail.contains("keyring"), "{}", failure.detail);
        assert!(!stored.exists() && fs::read(place.join("plans")).is_err());
        boot(&scene.host, "6b2b6a4e-5c7c-4d0b-9a1f-0c6f6d1e5a02");
        let evidence = scene.ordered(&task(2)).unwrap();
        assert_eq!(evidence.get("directories").unwrap()[0]["policy_version"], json!(1));
    });
}

#[test]
fn two_names_of_one_key_are_two_directories_of_one_stored_key() {
    on_encrypted(|mut scene| {
        let second = scene.host.path("/home/second");
        fs::create_dir(&second).unwrap();
        let name = scene.stored.file_name().unwrap().to_string_lossy().into_owned();
        let set = format!("set_encpolicy -v 2 -c 1 -n 4 -f 3 {name}");
        run("xfs_io", &["-c".as_ref(), set.as_ref(), &second]);
        fs::write(second.join("more"), "secret").unwrap();
        scene.host.company_directories.push("/home/second".into());
        let evidence = scene.ordered(&task(1)).unwrap();
        scene.assert_destroyed();
        let seen = evidence.get("directories").unwrap().as_array().unwrap();
        let counts: Vec<_> =
            seen.iter().map(|one| one["stored"].as_array().unwrap().len()).collect();
        assert_eq!(counts, [1, 0]);
        scene.ordered(&task(2)).unwrap();
    });
}

#[test]
fn directory_is_destroyed_beside_a_volume_and_what_failed_is_said_of_each() {
    on_encrypted(|mut scene| {
        let volume = scene.folder.path().join("volume");
        crate::scene::format_luks(&volume, "luks2");
        scene.host.company_volumes = vec![volume.clone()];
        scene.host.company_directories = vec![COMPANY.into(), OWN.into()];
        let own = fs::read_dir(scene.host.path("/home/.fscrypt/policies")).unwrap();
        let own =
            own.map(|entry| entry.unwrap().path()).find(|path| *path != scene.stored).unwrap();
        run("chattr", &["+i".as_ref(), &own]);
        let selective = SelectiveWipe::default();
        let failure = scene.ordered(&task(1)).unwrap_err();
        assert_eq!((failure.kind, &*failure.stage), (FailureKind::Permission, "apply"));
        assert!(failure.detail.starts_with(OWN), "{}", failure.detail);
        let remains = selective.remains(&scene.host, &task(1));
        assert_eq!(remains.get("volumes_destroyed"), Some(&json!(1)));
        let states = remains.get("directories").unwrap().as_array().unwrap();
        let destroyed: Vec<_> = states.iter().map(|state| state["destroyed"].clone()).collect();
        assert_eq!(destroyed, [json!(true), json!(false)]);
        assert!(matches!(states[1]["problem"], Value::String(_)));
        run("chattr", &["-i".as_ref(), &own]);
        scene.ordered(&task(2)).unwrap();
        assert!(!crate::scene::opens_with_any(&volume));
    });
}
