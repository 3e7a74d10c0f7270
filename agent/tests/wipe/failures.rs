//! What is injected, and what the receipt then says: one table.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use agent::execute::Executor as _;
use agent::execute::wipe::volume::{Access, Disk, Erasure, SystemDisk, Volume};
use agent::execute::wipe::{Wipe, has_destroyed_some};
use nix::sched::{CloneFlags, unshare};
use protocol::action::{self, WipeLevel};
use protocol::receipt::{Evidence, Failure, FailureKind};
use serde_json::{Value, json};

use crate::faults::{Fault, FaultyDisk};
use crate::scene::{LoopDevice, Scene, carry_out, opens_with_any};
use crate::support::host::task;

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Injected {
    /// Opening for writing is answered with this error.
    Open(io::ErrorKind),
    /// The disk breaks after so many writes and flushes.
    BrokenAfter(u64),
    /// The device is one that nobody may write to.
    ReadOnlyDevice,
    /// The state directory has no room for the record.
    FullDisk,
    /// No tool and no device that erases by itself.
    NoDiscard,
    /// Nobody answers on the system bus.
    SilentBus,
    /// The volume's header is damaged beyond reading.
    NoHeader,
}

/// How far the volume is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Untouched,
    Keys,
    Everything,
    /// Some of the keys, and the record says that the rest is to follow.
    InTheMiddle,
}

/// What the receipt says: what it calls the failure and at which stage, or its grade.
type Says = Result<&'static str, (FailureKind, &'static str)>;

const TABLE: [(Injected, Says, Left); 11] = [
    (
        Injected::Open(io::ErrorKind::PermissionDenied),
        Err((FailureKind::Permission, "apply")),
        Left::Untouched,
    ),
    (Injected::Open(io::ErrorKind::ResourceBusy), Err((FailureKind::Io, "apply")), Left::Untouched),
    (
        Injected::Open(io::ErrorKind::TimedOut),
        Err((FailureKind::Timeout, "apply")),
        Left::Untouched,
    ),
    (Injected::ReadOnlyDevice, Err((FailureKind::Permission, "apply")), Left::Untouched),
    (Injected::FullDisk, Err((FailureKind::Io, "apply")), Left::Untouched),
    (Injected::NoHeader, Err((FailureKind::Precondition, "plan")), Left::Untouched),
    (Injected::BrokenAfter(0), Err((FailureKind::Io, "apply")), Left::InTheMiddle),
    (Injected::BrokenAfter(3), Err((FailureKind::Io, "apply")), Left::InTheMiddle),
    // Keys and headers are one write with a flush, and four with a flush.
    (Injected::BrokenAfter(7), Err((FailureKind::Io, "finish")), Left::Keys),
    (Injected::NoDiscard, Ok("proven_media"), Left::Everything),
    (Injected::SilentBus, Ok("proven_media"), Left::Everything),
];

#[test]
fn every_injected_failure_has_its_receipt() {
    for (injected, says, left) in TABLE {
        let mut scene = Scene::new();
        let outcome = carry_out_with(&mut scene, injected);
        let said = match &outcome {
            Ok(evidence) => Ok(evidence.get("grade").unwrap().as_str().unwrap()),
            Err(Failure { kind, stage, .. }) => Err((*kind, stage.as_str())),
        };
        assert_eq!(said, says, "{injected:?}: {outcome:?}");
        match left {
            Left::Untouched => assert_untouched(&scene, injected),
            Left::InTheMiddle => {
                carry_out(&data(Box::new(SystemDisk)), &scene.host, &task(1)).unwrap();
                scene.assert_destroyed();
            }
            Left::Keys => scene.assert_destroyed(),
            Left::Everything => {
                scene.assert_destroyed();
                scene.assert_data_gone();
            }
        }
    }
}

/// What the receipt of a wipe of that scene says, once its disk broke after so many writes and flushes, and `then`
/// happened to the volume.
fn remains(scene: &Scene, operations: u64, then: impl FnOnce(&Path)) -> Evidence {
    let wipe = data(Box::new(FaultyDisk::after(operations, Fault::Broken)));
    wipe.apply(&scene.host, &task(1)).unwrap_err();
    then(&scene.volume);
    wipe.remains(&scene.host, &task(1))
}

#[test]
fn volume_whose_keys_alone_are_gone_counts_as_destroyed_and_takes_the_power() {
    let scene = Scene::new();
    // Keys are one write with a flush: the drive turns read-only before the headers.
    let evidence = remains(&scene, 2, |_| {});
    assert!(has_destroyed_some(&evidence), "{evidence:?}");
    assert_eq!(evidence.get("volumes_destroyed"), Some(&json!(1)));
    let target = &evidence.get("targets").unwrap()[0];
    assert_eq!([&target["destroyed"], &target["progress"]], [&json!(true), &json!("keys")]);
    assert_eq!(target["headers_after_sha256"], Value::Null);
    assert!(!opens_with_any(&scene.volume));

    let scene = Scene::new();
    let evidence = remains(&scene, 1, |_| {});
    assert!(!has_destroyed_some(&evidence), "what was not read back is not gone: {evidence:?}");
}

#[test]
fn power_goes_by_the_record_where_nothing_can_be_seen_any_more() {
    let scene = Scene::new();
    let evidence = remains(&scene, 2, |volume| fs::remove_file(volume).unwrap());
    assert_eq!(evidence.get("volumes_destroyed"), Some(&json!(0)), "nobody sees it");
    assert_eq!(evidence.get("volumes_recorded"), Some(&json!(1)));
    assert!(has_destroyed_some(&evidence), "the timer that was left running goes the same way");
}

fn assert_untouched(scene: &Scene, injected: Injected) {
    let bytes = fs::read(&scene.volume).unwrap();
    // A damaged header is the scene's own doing.
    let from = if matches!(injected, Injected::NoHeader) { scene.headers.end } else { 0 };
    assert!(bytes[from..] == scene.original[from..], "{injected:?}");
}

fn data(disk: Box<dyn Disk>) -> Wipe {
    Wipe::on(action::Wipe { level: WipeLevel::Data, power_off: false }, disk)
}

fn carry_out_with(scene: &mut Scene, injected: Injected) -> Result<Evidence, Failure> {
    let planned = |wipe: Wipe, scene: &Scene| {
        wipe.plan(&scene.host, &task(1))?;
        carry_out(&wipe, &scene.host, &task(1))
    };
    match injected {
        Injected::Open(error) => planned(data(Box::new(OddDisk { error: Some(error) })), scene),
        Injected::NoDiscard => planned(data(Box::new(OddDisk { error: None })), scene),
        Injected::BrokenAfter(operations) => {
            planned(data(Box::new(FaultyDisk::after(operations, Fault::Broken))), scene)
        }
        Injected::NoHeader => {
            let mut bytes = scene.original.clone();
            bytes[scene.headers.clone()].fill(0);
            fs::write(&scene.volume, bytes).unwrap();
            planned(data(Box::new(SystemDisk)), scene)
        }
        Injected::ReadOnlyDevice => {
            let device = LoopDevice::read_only(&scene.volume);
            scene.host.wipe_targets = vec![device.0.clone()];
            planned(data(Box::new(SystemDisk)), scene)
        }
        Injected::SilentBus => {
            // Somebody listens, and says nothing.
            let socket = scene.folder.path().join("bus");
            let _bus = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            scene.host.dbus_address = Some(format!("unix:path={}", socket.display()));
            planned(data(Box::new(SystemDisk)), scene)
        }
        Injected::FullDisk => {
            let host = scene.host.clone();
            in_mount_namespace(move || {
                fill(&host.state_dir);
                let wipe = data(Box::new(SystemDisk));
                wipe.plan(&host, &task(1))?;
                carry_out(&wipe, &host, &task(1))
            })
        }
    }
}

pub(crate) fn in_mount_namespace<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root (CAP_SYS_ADMIN)");
        run("mount", &["--make-rprivate".as_ref(), "/".as_ref()]);
        work()
    });
    thread.join().unwrap()
}

/// Puts a disk of one page there, and fills it.
pub(crate) fn fill(folder: &Path) {
    let tmpfs = ["-t", "tmpfs", "-o", "size=4k", "tmpfs"].map(Path::new);
    run("mount", &[&tmpfs[..], &[folder]].concat());
    fs::write(folder.join("filler"), [0; 4096]).unwrap();
}

pub(crate) fn run(program: &str, args: &[&Path]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// A disk that does not open for writing, or whose volumes erase nothing by themselves.
#[derive(Debug)]
struct OddDisk {
    error: Option<io::ErrorKind>,
}

#[derive(Debug)]
struct OddVolume(Box<dyn Volume>);

impl Disk for OddDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn Volume>> {
        match self.error {
            Some(error) if access == Access::Write => Err(error.into()),
            Some(_) | None => Ok(Box::new(OddVolume(SystemDisk.open(path, access)?))),
        }
    }
}

impl Volume for OddVolume {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn next_allocated(
        &self,
        range: std::ops::Range<u64>,
    ) -> io::Result<Option<std::ops::Range<u64>>> {
        self.0.next_allocated(range)
    }

    fn discard(&self, _range: std::ops::Range<u64>) -> io::Result<Option<Erasure>> {
        Ok(None)
    }

    fn release(&self, _range: std::ops::Range<u64>) -> io::Result<()> {
        // As a file system answers that cannot: nothing happens.
        Ok(())
    }
}
