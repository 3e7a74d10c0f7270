//! Selective wipe of homes of systemd-homed: the key in the file of a home goes, homed lets the home go before, and a home
//! without a key is refused before anything is touched.

use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use agent::execute::Executor as _;
use agent::execute::wipe::selective::SelectiveWipe;
use agent::execute::wipe::volume::SystemDisk;
use agent::host::Host;
use protocol::receipt::FailureKind;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use zbus::{Connection, OwnedObjectPath, fdo};

use crate::encrypted::{COMPANY, on_encrypted};
use crate::failures::run;
use crate::faults::{Fault, FaultyDisk};
use crate::scene::{Scene, VOLUME_BYTES, carry_out, opens_with_any};
use crate::selective::tree;
use crate::support::bus::start_bus;
use crate::support::host::task;

const IMAGE: &str = "/home/kim.home";
const MACHINE: &str = "0d7a4bd1c0b64c42a54cbd7d25ff2f0a";
/// Where the one partition of the file is.
const PART: Range<usize> = 1024 * 1024..1024 * 1024 + VOLUME_BYTES;

/// A host with a home of kim's in a file, as homed makes it, and the file's bytes.
fn scene() -> (Scene, Vec<u8>) {
    let mut scene = Scene::new();
    scene.host.wipe_targets.clear();
    scene.host.company_homes = vec!["kim".into()];
    let image = scene.host.path(IMAGE);
    fs::create_dir_all(image.parent().unwrap()).unwrap();
    fs::write(&image, vec![0; PART.end + 1024 * 1024]).unwrap();
    let sectors = format!(
        "start={}, size={}, type=773F91EF-66D4-49B5-BD83-D683BF40AD16\n",
        PART.start / 512,
        VOLUME_BYTES / 512
    );
    partition(&image, &sectors);
    let mut bytes = fs::read(&image).unwrap();
    bytes[PART].copy_from_slice(&scene.original);
    fs::write(&image, &bytes).unwrap();
    record(&scene.host, ("kim", MACHINE), "luks", IMAGE, &uuid(&scene));
    (scene, bytes)
}

/// Makes a real partition table.
fn partition(image: &PathBuf, lines: &str) {
    let mut sfdisk = Command::new("/usr/sbin/sfdisk")
        .args(["--quiet", "--label", "gpt"])
        .arg(image)
        .stdin(Stdio::piped())
        .spawn()
        .expect("these tests need /usr/sbin/sfdisk: install the package fdisk");
    sfdisk.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
}

/// The UUID in the first header.
fn uuid(scene: &Scene) -> String {
    String::from_utf8(scene.original[168..204].to_vec()).unwrap()
}

/// Lays out a user record as homed keeps it, signed or not.
fn record(host: &Host, (user, machine): (&str, &str), storage: &str, image: &str, uuid: &str) {
    let record = json!({
        "userName": user,
        "storage": storage,
        "binding": { machine: {
            "storage": storage, "imagePath": image, "luksUuid": uuid, "homeDirectory": "/home/kim", "uid": 60001,
        } },
    });
    let folder = host.path("/var/lib/systemd/home");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(host.path("/etc")).unwrap();
    fs::write(host.path("/etc/machine-id"), format!("{MACHINE}\n")).unwrap();
    fs::write(folder.join("kim.identity"), record.to_string()).unwrap();
}

/// No passphrase opens the home, not even with old headers, and nothing beside its partition changed.
fn assert_destroyed(scene: &Scene, before: &[u8]) {
    let now = fs::read(scene.host.path(IMAGE)).unwrap();
    assert_eq!(now[..PART.start], before[..PART.start], "table");
    assert_eq!(now[PART.end..], before[PART.end..], "second table");
    fs::write(&scene.volume, &now[PART]).unwrap();
    scene.assert_destroyed();
}

/// What homed and logind were asked, and how the home is.
#[derive(Debug)]
struct Said {
    calls: Vec<String>,
    state: &'static str,
    is_busy: bool,
}

struct Home1(Arc<Mutex<Said>>);
struct Login1(Arc<Mutex<Said>>);

type Home = (u32, String, u32, String, String, String, OwnedObjectPath);

#[zbus::interface(name = "org.freedesktop.home1.Manager")]
impl Home1 {
    fn get_home_by_name(&self, user: String) -> fdo::Result<Home> {
        assert_eq!(user, "kim");
        let state = self.0.lock().unwrap().state.to_owned();
        let path = OwnedObjectPath::try_from("/org/freedesktop/home1/home/60001").unwrap();
        let word = |word: &str| word.to_owned();
        Ok((60001, state, 60001, word("Kim"), word("/home/kim"), word("/bin/sh"), path))
    }

    fn deactivate_home(&self, user: String) -> fdo::Result<()> {
        let mut said = self.0.lock().unwrap();
        said.calls.push(format!("DeactivateHome {user}"));
        if said.is_busy {
            return Err(fdo::Error::Failed("home is busy".to_owned()));
        }
        said.state = "inactive";
        Ok(())
    }
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Login1 {
    fn terminate_user(&self, uid: u32) {
        self.0.lock().unwrap().calls.push(format!("TerminateUser {uid}"));
    }
}

/// A bus with both; it ends with this value.
struct Homed {
    said: Arc<Mutex<Said>>,
    daemon: Child,
    _runtime: Runtime,
    _connection: Connection,
}

impl Homed {
    /// With an active home.
    fn start(scene: &mut Scene) -> Self {
        let (daemon, address) = start_bus(scene.folder.path());
        let said = Said { calls: Vec::new(), state: "active", is_busy: false };
        let said = Arc::new(Mutex::new(said));
        let (home1, login1) = (Home1(Arc::clone(&said)), Login1(Arc::clone(&said)));
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let connection = runtime.block_on(async {
            zbus::connection::Builder::address(address.as_str())
                .name("org.freedesktop.home1")
                .name("org.freedesktop.login1")
                .serve_at("/org/freedesktop/home1", home1)
                .serve_at("/org/freedesktop/login1", login1)
                .build()
                .await
                .unwrap()
        });
        scene.host.dbus_address = Some(address);
        Self { said, daemon, _runtime: runtime, _connection: connection }
    }
}

impl Drop for Homed {
    fn drop(&mut self) {
        _ = self.daemon.kill();
        _ = self.daemon.wait();
    }
}

#[test]
fn home_in_a_file_is_let_go_and_its_key_destroyed_and_the_table_around_it_stays() {
    let (mut scene, before) = scene();
    let homed = Homed::start(&mut scene);
    let (selective, task) = (SelectiveWipe::default(), task(1));
    let plan = selective.plan(&scene.host, &task).unwrap();
    assert_eq!(fs::read(scene.host.path(IMAGE)).unwrap(), before, "a plan changes nothing");
    assert!(homed.said.lock().unwrap().calls.is_empty());
    let part = json!([PART.start, PART.end]);
    assert_eq!(plan.facts.get("targets").unwrap()[0]["part"], part);
    assert_eq!(plan.facts.get("homes").unwrap()[0]["user"], json!("kim"));

    let evidence = carry_out(&selective, &scene.host, &task).unwrap();

    assert_destroyed(&scene, &before);
    let said = homed.said.lock().unwrap().calls.clone();
    assert_eq!(said, ["TerminateUser 60001", "DeactivateHome kim"]);
    assert_eq!(evidence.get("grade"), Some(&json!("proven")));
    let target = &evidence.get("targets").unwrap()[0];
    assert_eq!((&target["uuid"], &target["part"]), (&json!(uuid(&scene)), &part));
    let home = &evidence.get("homes").unwrap()[0];
    assert_eq!((&home["storage"], &home["state"]), (&json!("luks"), &json!("inactive")));
    // As after a crash behind the last step, and another order finds it by the record.
    assert_eq!(carry_out(&selective, &scene.host, &task).unwrap(), evidence);
    selective.plan(&scene.host, &crate::support::host::task(2)).unwrap();
    carry_out(&selective, &scene.host, &crate::support::host::task(2)).unwrap();
    assert_destroyed(&scene, &before);
}

#[test]
fn home_that_stays_active_is_not_proven_and_the_next_order_ends_it() {
    let (mut scene, before) = scene();
    let homed = Homed::start(&mut scene);
    homed.said.lock().unwrap().is_busy = true;
    let failure = carry_out(&SelectiveWipe::default(), &scene.host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotProven);
    assert!(failure.detail.contains("kim is still active"), "{}", failure.detail);
    // The keys went all the same.
    assert_destroyed(&scene, &before);
    homed.said.lock().unwrap().is_busy = false;
    carry_out(&SelectiveWipe::default(), &scene.host, &task(2)).unwrap();
}

#[test]
fn power_cut_at_any_write_to_a_home_resumes_to_the_same_end() {
    let (scene, before) = scene();
    for operations in 0.. {
        fs::write(scene.host.path(IMAGE), &before).unwrap();
        let _ = fs::remove_file(scene.host.state_dir.join("wipe.json"));
        let disk = FaultyDisk::after(operations, Fault::Broken);
        let selective = SelectiveWipe::on(Box::new(disk.clone()));
        let is_done = carry_out(&selective, &scene.host, &task(1)).is_ok();
        carry_out(&SelectiveWipe::on(Box::new(SystemDisk)), &scene.host, &task(1)).unwrap();
        assert_destroyed(&scene, &before);
        if is_done {
            assert!(operations > 4, "keys, headers and their flushes: {operations}");
            break;
        }
    }
}

#[test]
fn home_without_a_key_of_its_own_is_refused_before_anything_is_touched() {
    type Change = fn(&Scene);
    let changes: [(&str, Change); 12] = [
        ("kept as `directory`", |s| {
            record(&s.host, ("kim", MACHINE), "directory", IMAGE, &uuid(s))
        }),
        ("kept as `subvolume`", |s| {
            record(&s.host, ("kim", MACHINE), "subvolume", IMAGE, &uuid(s))
        }),
        ("kept as `cifs`", |s| record(&s.host, ("kim", MACHINE), "cifs", IMAGE, &uuid(s))),
        ("other machines", |s| record(&s.host, ("kim", "another"), "luks", IMAGE, &uuid(s))),
        ("somebody else's", |s| record(&s.host, ("alex", MACHINE), "luks", IMAGE, &uuid(s))),
        ("as its record says", |s| record(&s.host, ("kim", MACHINE), "luks", IMAGE, "4b1d")),
        ("No such file", |s| record(&s.host, ("kim", MACHINE), "luks", "/home/none", &uuid(s))),
        ("not encrypted", |s| record(&s.host, ("kim", MACHINE), "fscrypt", "/home", "")),
        ("no home of systemd-homed", |s| {
            fs::remove_file(s.host.path("/var/lib/systemd/home/kim.identity")).unwrap();
        }),
        ("no home of systemd-homed", |s| {
            fs::write(s.host.path("/var/lib/systemd/home/kim.identity"), "{").unwrap();
        }),
        ("2 partitions", |s| partition(&s.host.path(IMAGE), "size=1M\nsize=1M\n")),
        ("leads out", |s| {
            let image = s.host.path(IMAGE);
            fs::rename(&image, s.folder.path().join("outside")).unwrap();
            symlink(s.folder.path().join("outside"), image).unwrap();
        }),
    ];
    let (scene, bytes) = scene();
    for (word, change) in changes {
        let image = scene.host.path(IMAGE);
        let _ = fs::remove_file(&image);
        fs::write(&image, &bytes).unwrap();
        record(&scene.host, ("kim", MACHINE), "luks", IMAGE, &uuid(&scene));
        change(&scene);
        let before = tree(&scene.host.root);
        let selective = SelectiveWipe::default();
        let failure = selective.plan(&scene.host, &task(1)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Precondition, "{word}: {}", failure.detail);
        assert!(failure.detail.contains(word), "{word}: {}", failure.detail);
        assert!(carry_out(&selective, &scene.host, &task(1)).is_err());
        assert_eq!(tree(&scene.host.root), before, "{word}");
    }
}

#[test]
fn home_that_fscrypt_encrypts_goes_as_a_directory() {
    on_encrypted(|mut scene| {
        scene.host.company_directories.clear();
        scene.host.company_homes = vec!["kim".into()];
        record(&scene.host, ("kim", MACHINE), "fscrypt", COMPANY, "");
        let slot = ["-n", "trusted.fscrypt_slot0", "-v", "c2FsdA==:a2V5"];
        let place = scene.host.path(COMPANY);
        run("setfattr", &[&slot.map(std::path::Path::new)[..], &[&place]].concat());
        let evidence = scene.ordered(&task(1)).unwrap();
        scene.assert_destroyed();
        assert_eq!(evidence.get("homes").unwrap()[0]["storage"], json!("fscrypt"));
        let stored = &evidence.get("directories").unwrap()[0]["stored"];
        assert_eq!(stored.as_array().map(Vec::len), Some(2));
        assert_eq!(evidence.get("targets"), Some(&Value::Array(Vec::new())));
        assert!(!opens_with_any(&scene.image));
    });
}
