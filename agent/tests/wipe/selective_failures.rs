//! What is injected into a selective wipe, what the receipt then says and what is left: one table. And the agent
//! killed at every step. Whatever it was, one order more brings it to its end.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agent::execute::wipe::selective::SelectiveWipe;
use agent::execute::wipe::volume::{Disk, SystemDisk};
use agent::execute::{Executor as _, Recovery, Task};
use agent::host::Host;
use protocol::receipt::{Evidence, Failure, FailureKind};

use crate::failures::{fill, in_mount_namespace, run};
use crate::faults::{Fault, FaultyDisk};
use crate::scene::{LoopDevice, Scene, carry_out, opens_with_any};
use crate::selective::{self, WIFI, tree};
use crate::silent::Hanging;
use crate::support::host::{sandbox, task};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Injected {
    /// The company's volume is not there.
    NoVolume,
    /// Its header is damaged beyond reading.
    NoHeader,
    /// It never answers.
    SilentVolume,
    /// Nobody may write to it.
    ReadOnlyVolume,
    /// It breaks after so many writes and flushes.
    BrokenAfter(u64),
    /// The state directory has no room for the record.
    FullDisk,
    /// Nobody may write to the state directory.
    ReadOnlyDisk,
    /// The record of an earlier wipe is damaged.
    DamagedRecord,
    /// The list of managed files is.
    DamagedList,
    /// The disk with those files went read-only.
    ReadOnlyRoot,
    /// The folder of one of them is somebody else's, and the agent is not above that.
    NoPermission,
    /// A mapping of the volume stays open.
    StillOpen,
    /// Somebody brings the headers back before the proof.
    HeadersComeBack,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Untouched,
    /// Some of the keys, and no file.
    InTheMiddle,
    /// The volume is destroyed, and a file of the list is still there.
    Files,
    /// The volume is destroyed and the files are gone, and that is not proven.
    Unproven,
    /// The files are gone.
    Volume,
}

/// What the receipt calls the failure, and at which stage.
const TABLE: [(Injected, (FailureKind, &str), Left); 14] = [
    (Injected::NoVolume, (FailureKind::Precondition, "plan"), Left::Untouched),
    (Injected::NoHeader, (FailureKind::Precondition, "plan"), Left::Untouched),
    (Injected::SilentVolume, (FailureKind::Timeout, "plan"), Left::Untouched),
    (Injected::ReadOnlyVolume, (FailureKind::Permission, "apply"), Left::Untouched),
    (Injected::BrokenAfter(0), (FailureKind::Io, "apply"), Left::InTheMiddle),
    (Injected::BrokenAfter(3), (FailureKind::Io, "apply"), Left::InTheMiddle),
    (Injected::FullDisk, (FailureKind::Io, "apply"), Left::Untouched),
    (Injected::ReadOnlyDisk, (FailureKind::Io, "apply"), Left::Untouched),
    (Injected::DamagedRecord, (FailureKind::Io, "plan"), Left::Untouched),
    (Injected::DamagedList, (FailureKind::Io, "plan"), Left::Untouched),
    (Injected::ReadOnlyRoot, (FailureKind::Io, "apply"), Left::Files),
    (Injected::NoPermission, (FailureKind::Permission, "apply"), Left::Files),
    (Injected::StillOpen, (FailureKind::NotProven, "prove"), Left::Unproven),
    (Injected::HeadersComeBack, (FailureKind::NotProven, "prove"), Left::Volume),
];

/// The same scene again, with a volume that needs no formatting.
fn like(scene: &Scene) -> Scene {
    let (mut host, folder) = sandbox();
    let volume = folder.path().join("volume");
    fs::write(&volume, &scene.original).unwrap();
    host.company_volumes = vec![volume.clone()];
    selective::lay_out(&host);
    let (original, headers) = (scene.original.clone(), scene.headers.clone());
    Scene { host, volume, original, headers, folder }
}

#[test]
fn every_injected_failure_of_a_selective_wipe_has_its_receipt_and_the_next_order_ends_it() {
    let template = selective::scene();
    for (injected, says, left) in TABLE {
        let mut scene = like(&template);
        let personal = selective::personal(&scene.host);
        let failure = carried_out(&mut scene, injected).unwrap_err();
        assert_eq!((failure.kind, &*failure.stage), says, "{injected:?}: {failure:?}");
        assert_eq!(seen(&scene, injected), left, "{injected:?}");
        make_well(&mut scene, injected);
        carry_out(&SelectiveWipe::default(), &scene.host, &task(2)).unwrap();
        assert_is_over(&scene, injected);
        for (path, bytes) in personal {
            assert!(fs::read(&path).is_ok_and(|now| now == bytes), "{injected:?}: {path:?}");
        }
    }
}

fn seen(scene: &Scene, injected: Injected) -> Left {
    let has_file = scene.host.path(WIFI).exists();
    // What the scene itself took away or damaged is as it was.
    let is_own = matches!(injected, Injected::NoVolume | Injected::NoHeader);
    let is_whole = is_own || fs::read(&scene.volume).unwrap() == scene.original;
    match (has_file, is_whole) {
        (true, true) => Left::Untouched,
        (true, false) if matches!(injected, Injected::BrokenAfter(_)) => Left::InTheMiddle,
        (true, false) => {
            assert!(!opens_with_any(&scene.volume), "{injected:?}");
            Left::Files
        }
        (false, true) => Left::Volume,
        (false, false) => {
            assert!(!opens_with_any(&scene.volume), "{injected:?}");
            Left::Unproven
        }
    }
}

fn assert_is_over(scene: &Scene, injected: impl std::fmt::Debug) {
    scene.assert_destroyed();
    assert!(!scene.host.path(WIFI).exists(), "{injected:?}");
}

fn ordered(disk: Box<dyn Disk>, host: &Host, task: &Task) -> Result<Evidence, Failure> {
    let selective = SelectiveWipe::on(disk);
    selective.plan(host, task)?;
    carry_out(&selective, host, task)
}

fn carried_out(scene: &mut Scene, injected: Injected) -> Result<Evidence, Failure> {
    let state = |name: &str| scene.host.state_dir.join(name);
    match injected {
        Injected::NoVolume => {
            fs::rename(&scene.volume, scene.volume.with_extension("away")).unwrap()
        }
        Injected::NoHeader => {
            let mut bytes = scene.original.clone();
            bytes[scene.headers.clone()].fill(0);
            fs::write(&scene.volume, bytes).unwrap();
        }
        Injected::DamagedRecord => fs::write(state("wipe.json"), "{").unwrap(),
        Injected::DamagedList => fs::write(state("managed.json"), "{").unwrap(),
        Injected::SilentVolume => {
            let hanging = scene.volume.canonicalize().unwrap();
            return ordered(Box::new(Hanging(hanging)), &scene.host, &task(1));
        }
        Injected::ReadOnlyVolume => {
            let device = LoopDevice::read_only(&scene.volume);
            let host = Host { company_volumes: vec![device.0.clone()], ..scene.host.clone() };
            return ordered(Box::new(SystemDisk), &host, &task(1));
        }
        Injected::BrokenAfter(operations) => {
            let disk = FaultyDisk::after(operations, Fault::Broken);
            return ordered(Box::new(disk), &scene.host, &task(1));
        }
        Injected::FullDisk => {
            let host = scene.host.clone();
            return in_mount_namespace(move || {
                fill(&host.state_dir);
                ordered(Box::new(SystemDisk), &host, &task(1))
            });
        }
        Injected::ReadOnlyDisk => return with_read_only(&scene.host, scene.host.state_dir.clone()),
        Injected::ReadOnlyRoot => return with_read_only(&scene.host, scene.host.root.clone()),
        Injected::NoPermission => {
            chown(scene.host.path(WIFI).parent().unwrap(), Some(1001), None).unwrap();
            let word = "-dac_override";
            let said = in_child(scene, &["setpriv", "--bounding-set", word, "--inh-caps", word]);
            assert_eq!(said.as_deref(), Some("Permission apply"));
            return Err(Failure {
                kind: FailureKind::Permission,
                stage: "apply".to_owned(),
                detail: String::new(),
            });
        }
        Injected::StillOpen => selective::open_mapping(scene),
        Injected::HeadersComeBack => {
            let selective = SelectiveWipe::default();
            selective.apply(&scene.host, &task(1)).unwrap();
            fs::write(&scene.volume, &scene.original).unwrap();
            return selective.prove(&scene.host, &task(1));
        }
    }
    ordered(Box::new(SystemDisk), &scene.host, &task(1))
}

/// What was injected is over.
fn make_well(scene: &mut Scene, injected: Injected) {
    let state = |name: &str| scene.host.state_dir.join(name);
    match injected {
        Injected::NoVolume => {
            fs::rename(scene.volume.with_extension("away"), &scene.volume).unwrap()
        }
        Injected::NoHeader => fs::write(&scene.volume, &scene.original).unwrap(),
        Injected::DamagedRecord => fs::remove_file(state("wipe.json")).unwrap(),
        Injected::DamagedList => {
            fs::remove_file(state("managed.json")).unwrap();
            selective::list(&scene.host);
        }
        Injected::NoPermission => {
            chown(scene.host.path(WIFI).parent().unwrap(), Some(0), None).unwrap();
        }
        Injected::StillOpen => {
            fs::remove_dir(scene.host.path("/sys/block/loop9/holders/dm-0")).unwrap();
        }
        Injected::SilentVolume
        | Injected::ReadOnlyVolume
        | Injected::BrokenAfter(_)
        | Injected::FullDisk
        | Injected::ReadOnlyDisk
        | Injected::ReadOnlyRoot
        | Injected::HeadersComeBack => {}
    }
}

fn with_read_only(host: &Host, folder: PathBuf) -> Result<Evidence, Failure> {
    let host = host.clone();
    in_mount_namespace(move || {
        run("mount", &["--bind".as_ref(), &folder, &folder]);
        run("mount", &["-o".as_ref(), "remount,bind,ro".as_ref(), &folder]);
        ordered(Box::new(SystemDisk), &host, &task(1))
    })
}

/// What a child of these tests finds in its environment: folder of the host, and volume.
const HERE: &str = "TOCSIN_SELECTIVE_TEST_HERE";

/// How a selective wipe ended in a process of its own; `None` when it was killed.
fn in_child(scene: &Scene, wrapper: &[&str]) -> Option<String> {
    let output = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "selective_failures::child", "--nocapture"])
        .env(HERE, format!("{} {}", scene.folder.path().display(), scene.volume.display()))
        .stderr(Stdio::null())
        .output()
        .expect("this test needs strace and setpriv (Debian packages strace, util-linux)");
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().find_map(|line| Some(line.split_once("RESULT ")?.1.to_owned()))
}

/// No test by itself: what [`in_child`] starts.
#[test]
fn child() {
    let Ok(here) = std::env::var(HERE) else { return };
    let (folder, volume) = here.split_once(' ').unwrap();
    let (mut host, _folder) = sandbox();
    (host.root, host.state_dir) = (Path::new(folder).join("root"), Path::new(folder).join("state"));
    host.company_volumes = vec![volume.into()];
    let said = match ordered(Box::new(SystemDisk), &host, &task(1)) {
        Ok(_) => "done".to_owned(),
        Err(failure) => format!("{:?} {}", failure.kind, failure.stage),
    };
    std::io::stdout().write_all(format!("\nRESULT {said}\n").as_bytes()).unwrap();
}

#[test]
fn selective_wipe_that_is_killed_at_any_step_is_finished_by_the_next_start() {
    let scene = selective::scene();
    let (personal, mut kills) = (selective::personal(&scene.host), 0);
    for call in ["pwrite64", "fsync", "/^unlink"] {
        for number in 1.. {
            scene.reset();
            selective::lay_out(&scene.host);
            let inject = format!("inject={call}:signal=SIGKILL:when={number}");
            let said = in_child(&scene, &["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject]);
            if said.is_some() {
                assert_eq!(said.as_deref(), Some("done"), "{call} {number}");
                break;
            }
            kills += 1;
            let (selective, task) = (SelectiveWipe::default(), task(1));
            assert!(matches!(selective.recover(&scene.host, &task), Recovery::Apply));
            carry_out(&selective, &scene.host, &task).unwrap();
            assert!(!opens_with_any(&scene.volume), "{call} {number}");
            assert_eq!(tree(&scene.host.root), personal, "{call} {number}");
        }
    }
    assert!(kills > 15, "{kills} kills");
    assert_is_over(&scene, "killed");
}
