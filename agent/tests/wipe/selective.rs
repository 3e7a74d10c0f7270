//! Selective wipe: the company's volume is destroyed, what is on the list is gone, and the
//! person's files are the same byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use agent::execute::Executor as _;
use agent::execute::wipe::managed::Managed;
use agent::execute::wipe::selective::SelectiveWipe;
use agent::host::Host;
use protocol::receipt::FailureKind;
use serde_json::json;

use crate::scene::{Scene, carry_out};
use crate::support::host::task;

pub(crate) const WIFI: &str = "/etc/NetworkManager/system-connections/company.nmconnection";
const CERTIFICATE: &str = "/etc/ssl/certs/company.pem";
const LETTER: &str = "/home/kim/letter";

/// What is on the list, of which one was never written.
const LISTED: [&str; 4] = [WIFI, CERTIFICATE, "/etc/company-link", "/etc/never/written"];

/// A scene whose volume is the company's, with files of both and a list.
pub(crate) fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.host.company_volumes = std::mem::take(&mut scene.host.wipe_targets);
    lay_out(&scene.host);
    scene
}

/// Files of the company and of a person, and the list.
pub(crate) fn lay_out(host: &Host) {
    for (path, text) in [
        (WIFI, "psk=secret"),
        (CERTIFICATE, "company"),
        (LETTER, "dear"),
        ("/home/kim/photos/1", "a photo"),
        ("/etc/ssl/certs/public.pem", "everybody's"),
    ] {
        let place = host.path(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
    }
    let _ = fs::remove_file(host.path("/etc/company-link"));
    symlink(host.path(LETTER), host.path("/etc/company-link")).unwrap();
    list(host);
}

/// The list alone.
pub(crate) fn list(host: &Host) {
    Managed::add(host, LISTED.map(PathBuf::from)).unwrap();
}

/// What is there that is not on the list.
pub(crate) fn personal(host: &Host) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut personal = tree(&host.root);
    personal.retain(|path, _| LISTED.iter().all(|listed| host.path(listed) != *path));
    personal
}

/// Has the kernel show a mapping that has the volume open, until its folder `holders/dm-0` goes.
pub(crate) fn open_mapping(scene: &mut Scene) {
    let host = &mut scene.host;
    fs::create_dir_all(host.path("/sys/block/loop9/holders/dm-0")).unwrap();
    fs::create_dir_all(host.path("/sys/block/loop9/loop")).unwrap();
    fs::create_dir_all(host.path("/sys/block/dm-0/dm")).unwrap();
    // The volume is outside of this root: the file behind the loop device is named from there.
    let inside = host.path("/company");
    fs::rename(&scene.volume, &inside).unwrap();
    host.company_volumes = vec![inside.canonicalize().unwrap()];
    fs::write(host.path("/sys/block/loop9/loop/backing_file"), "/company\n").unwrap();
    scene.volume = inside;
}

/// Every file below the root with its bytes, or where it leads to.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                found.insert(entry.path(), fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[test]
fn company_data_goes_and_personal_files_stay_byte_for_byte() {
    let scene = scene();
    let (selective, task) = (SelectiveWipe::default(), task(1));
    let mut personal = tree(&scene.host.root);
    let planned = selective.plan(&scene.host, &task).unwrap();
    assert_eq!(planned.facts.get("files").unwrap().as_array().unwrap().len(), 4);
    assert_eq!(tree(&scene.host.root), personal, "a plan changes nothing");

    let evidence = carry_out(&selective, &scene.host, &task).unwrap();

    scene.assert_destroyed();
    for gone in [WIFI, CERTIFICATE, "/etc/company-link"] {
        assert!(personal.remove(&scene.host.path(gone)).is_some());
    }
    assert_eq!(tree(&scene.host.root), personal);
    assert_eq!(evidence.get("grade"), Some(&json!("proven")));
    assert_eq!(evidence.get("files_removed"), Some(&json!(3)));
    assert_eq!(evidence.get("files_left"), Some(&json!(0)));
    assert!(!scene.host.state_dir.join("managed.json").exists());
    // Once more changes nothing, as after a crash behind the last step.
    assert_eq!(carry_out(&selective, &scene.host, &task).unwrap(), evidence);
    assert_eq!(tree(&scene.host.root), personal);
}

#[test]
fn list_never_leads_out_of_the_endpoint_to_a_folder_or_onto_the_network() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "somebody's").unwrap();
    let mounts = "40 36 0:44 / /srv/share rw - nfs4 server:/export rw\n";
    for listed in ["/home/kim", "/etc/way-out/victim", "/home/../../beside", "/srv/share/report"] {
        let scene = scene();
        symlink(outside.path(), scene.host.path("/etc/way-out")).unwrap();
        let beside = scene.folder.path().join("beside");
        fs::write(&beside, "another endpoint's").unwrap();
        for (path, text) in [("/proc/self/mountinfo", mounts), ("/srv/share/report", "all's")] {
            let place = scene.host.path(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        }
        Managed::add(&scene.host, [PathBuf::from(listed)]).unwrap();
        let failure = carry_out(&SelectiveWipe::default(), &scene.host, &task(1)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Io, "{listed}: {}", failure.detail);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "somebody's", "{listed}");
        assert!(scene.host.path(LETTER).exists(), "{listed}");
        assert!(scene.host.path("/srv/share/report").exists() && beside.exists(), "{listed}");
        // The keys went first, and what was rightly listed went as well.
        scene.assert_destroyed();
        assert!(!scene.host.path(WIFI).exists());
    }
}

#[test]
fn device_without_company_volumes_is_told_so_and_nothing_is_removed() {
    let mut scene = scene();
    scene.host.company_volumes.clear();
    let selective = SelectiveWipe::default();
    let failure = selective.plan(&scene.host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Precondition);
    assert!(carry_out(&selective, &scene.host, &task(1)).is_err());
    assert!(scene.host.path(WIFI).exists());
}

#[test]
fn mapping_that_is_still_open_is_not_proven_closed() {
    let mut scene = scene();
    open_mapping(&mut scene);
    let failure = carry_out(&SelectiveWipe::default(), &scene.host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotProven);
    assert!(failure.detail.contains("dm-0"), "{}", failure.detail);
    fs::remove_dir(scene.host.path("/sys/block/loop9/holders/dm-0")).unwrap();
    carry_out(&SelectiveWipe::default(), &scene.host, &task(1)).unwrap();
}
