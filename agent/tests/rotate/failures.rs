//! What is injected, and what the receipt then says: one table.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent::execute::Executor as _;
use agent::execute::rotate::{PATIENCE, RotateCredentials};
use nix::sched::{CloneFlags, unshare};
use protocol::action::Credential;
use protocol::receipt::{Evidence, Failure, FailureKind};

use crate::scene::{self, Scene, USERS, escrowed, opens, patient, slots};
use crate::support::host::task;

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Injected {
    /// The agent's own key is not the one in its keyslot.
    WrongKey,
    /// The agent's own key is not there.
    NoKey,
    /// No keyslot is free.
    NoSlot,
    /// Another volume lies at that path.
    OtherVolume,
    /// The volume's header is damaged beyond reading.
    NoHeader,
    /// The state directory has no room for the record.
    FullDisk,
    /// Somebody holds the volume, and does not let go.
    Busy,
    /// The record of an earlier rotation cannot be read.
    DamagedRecord,
    /// Somebody emptied the new keyslot before the former one goes.
    NewKeyGone,
    /// The control plane does not confirm in time.
    NeverConfirmed,
}

const TABLE: [(Injected, FailureKind, &str); 10] = [
    (Injected::WrongKey, FailureKind::Precondition, "plan"),
    (Injected::NoKey, FailureKind::Precondition, "plan"),
    (Injected::NoSlot, FailureKind::Precondition, "plan"),
    (Injected::OtherVolume, FailureKind::Precondition, "plan"),
    (Injected::NoHeader, FailureKind::Precondition, "plan"),
    (Injected::FullDisk, FailureKind::Io, "apply"),
    (Injected::Busy, FailureKind::Timeout, "plan"),
    (Injected::DamagedRecord, FailureKind::Io, "plan"),
    (Injected::NewKeyGone, FailureKind::NotProven, "finish"),
    (Injected::NeverConfirmed, FailureKind::Timeout, "escrow"),
];

#[test]
fn every_injected_failure_has_its_receipt_and_leaves_the_former_key() {
    for (injected, kind, stage) in TABLE {
        let mut scene = Scene::of("luks1");
        let former = carry_out(&rotation(), &scene, 1).1;
        let failure = inject(&mut scene, injected).unwrap_err();
        assert_eq!((failure.kind, &*failure.stage), (kind, stage), "{injected:?}: {failure:?}");
        if !matches!(injected, Injected::OtherVolume | Injected::NoHeader) {
            assert!(opens(&scene.volume, &former), "{injected:?}: {:?}", slots(&scene.volume));
            assert!(opens(&scene.volume, USERS[0]), "{injected:?}");
        }
    }
}

fn rotation() -> RotateCredentials {
    patient(Credential::Volumes, PATIENCE)
}

/// As the agent does where everything is confirmed. Answers what was escrowed as well.
fn carry_out(rotate: &RotateCredentials, scene: &Scene, number: u8) -> (Evidence, String) {
    let (host, task) = (&scene.host, task(number));
    rotate.plan(host, &task).unwrap();
    rotate.apply(host, &task).unwrap();
    rotate.prove(host, &task).unwrap();
    let key = escrowed(rotate, host, &task);
    rotate.finish(host, &task).unwrap();
    (rotate.prove(host, &task).unwrap(), key)
}

fn until_escrowed(rotate: &RotateCredentials, scene: &Scene) -> Result<Evidence, Failure> {
    rotate.plan(&scene.host, &task(2))?;
    rotate.apply(&scene.host, &task(2))?;
    rotate.prove(&scene.host, &task(2))
}

fn inject(scene: &mut Scene, injected: Injected) -> Result<(), Failure> {
    let keys = scene.host.state_dir.join("volume-keys");
    let key = fs::read_dir(keys).unwrap().next().unwrap().unwrap().path();
    let mut rotate = rotation();
    match injected {
        Injected::WrongKey => fs::write(&key, "another key").unwrap(),
        Injected::NoKey => fs::remove_file(&key).unwrap(),
        Injected::NoSlot => scene::fill(scene),
        Injected::OtherVolume => scene::format(&scene.volume, "luks1"),
        Injected::NoHeader => fs::write(&scene.volume, [0; 1024 * 1024]).unwrap(),
        Injected::DamagedRecord => {
            fs::write(scene.host.state_dir.join("rotation.json"), "{").unwrap();
        }
        Injected::Busy => {
            // A tool that waits for the volume's lock: its time is up, and it is ended.
            rotate = patient(Credential::Volumes, Duration::from_millis(300));
            return with_hanging_tool(|| until_escrowed(&rotate, scene).map(|_| ()));
        }
        Injected::FullDisk => {
            let host = scene.host.clone();
            return in_mount_namespace(move || {
                let rotate = rotation();
                rotate.plan(&host, &task(2))?;
                fill_disk(&host.state_dir, &key);
                rotate.apply(&host, &task(2))
            });
        }
        Injected::NewKeyGone => {
            until_escrowed(&rotate, scene)?;
            let evidence = rotate.prove(&scene.host, &task(2))?;
            let slot = evidence.get("volumes").unwrap()[0]["slot"].to_string();
            let volume = scene.volume.to_str().unwrap();
            assert!(scene::cryptsetup(&["-q", "luksKillSlot", volume, &slot], ""));
            return rotate.finish(&scene.host, &task(2));
        }
        Injected::NeverConfirmed => {
            until_escrowed(&rotate, scene)?;
            return Err(rotate.withdraw(&scene.host, &task(2)));
        }
    }
    until_escrowed(&rotate, scene).map(|_| ())
}

/// Puts a `cryptsetup` there that never ends, in a mount namespace of its own.
fn with_hanging_tool<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("cryptsetup");
    fs::write(&program, "#!/bin/sh\nexec sleep 3600\n").unwrap();
    run("chmod", &["755".as_ref(), &program]);
    in_mount_namespace(move || {
        run("mount", &["--bind".as_ref(), &program, "/usr/sbin/cryptsetup".as_ref()]);
        work()
    })
}

fn in_mount_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root (CAP_SYS_ADMIN)");
            run("mount", &["--make-rprivate".as_ref(), "/".as_ref()]);
            work()
        });
        thread.join().unwrap()
    })
}

/// Puts a disk there on which nothing but the agent's documents of before has room.
fn fill_disk(folder: &Path, key: &Path) {
    let documents = ["volumes.json", "rotation.json"]
        .map(|name| (folder.join(name), fs::read(folder.join(name)).unwrap()));
    let key = (key.to_owned(), fs::read(key).unwrap());
    let tmpfs = ["-t", "tmpfs", "-o", "size=16k", "tmpfs"].map(Path::new);
    run("mount", &[&tmpfs[..], &[folder]].concat());
    fs::create_dir(key.0.parent().unwrap()).unwrap();
    for (path, bytes) in documents.into_iter().chain([key]) {
        fs::write(path, bytes).unwrap();
    }
    fs::write(folder.join("filler"), [0; 4096]).unwrap();
}

fn run(program: &str, args: &[&Path]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}
