//! What is injected into a selective wipe of an encrypted directory, what the receipt then says and what is left: one
//! table. And the agent killed at every step. Whatever it was, one order more brings it to its end.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agent::execute::wipe::selective::SelectiveWipe;
use agent::execute::{Executor as _, Recovery};
use agent::host::Host;
use protocol::receipt::{Evidence, Failure, FailureKind};

use crate::encrypted::{COMPANY, Encrypted, on_encrypted};
use crate::failures::{fill, run};
use crate::scene::carry_out;
use crate::support::host::{sandbox, task};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Injected {
    /// The directory is not there.
    NoDirectory,
    /// It is not encrypted.
    NotEncrypted,
    /// Its key is stored nowhere.
    NotStored,
    /// Its key is stored in a file that is a person's letter as well.
    OtherName,
    /// A link in the directory's path leads out of the endpoint.
    LeadsOut,
    /// The file system is read-only.
    ReadOnly,
    /// Nobody may write to the file with the key.
    Immutable,
    /// The state directory has no room for the record.
    FullDisk,
    /// The record of an earlier wipe is damaged.
    DamagedRecord,
    /// The key is taken away behind the record.
    TakenAway,
    /// Another directory is at its path behind the record.
    Stranger,
    /// Somebody has a file of it open.
    Open,
    /// Somebody brings the key back before the proof.
    ComesBack,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Its data can be read.
    Readable,
    /// The stored key is there, and the kernel has none.
    Stored,
}

/// What the receipt calls the failure, at which stage, and which words are in it.
const TABLE: [(Injected, (FailureKind, &str), &str, Left); 13] = [
    (Injected::NoDirectory, (FailureKind::Precondition, "plan"), COMPANY, Left::Readable),
    (Injected::NotEncrypted, (FailureKind::Precondition, "plan"), "not encrypted", Left::Readable),
    (Injected::NotStored, (FailureKind::Precondition, "plan"), "fscrypt(1)", Left::Readable),
    (Injected::OtherName, (FailureKind::Precondition, "plan"), "one name", Left::Readable),
    (Injected::LeadsOut, (FailureKind::Precondition, "plan"), "leads out", Left::Readable),
    (Injected::ReadOnly, (FailureKind::Permission, "apply"), "Read-only", Left::Stored),
    (Injected::Immutable, (FailureKind::Permission, "apply"), COMPANY, Left::Stored),
    (Injected::FullDisk, (FailureKind::Io, "apply"), "wipe.json", Left::Readable),
    (Injected::DamagedRecord, (FailureKind::Io, "plan"), "wipe.json", Left::Readable),
    (Injected::TakenAway, (FailureKind::NotProven, "apply"), "may have it", Left::Stored),
    (Injected::Stranger, (FailureKind::Precondition, "apply"), "is not the", Left::Readable),
    (
        Injected::Open,
        (FailureKind::NotProven, "prove"),
        "/home/company/plans (process",
        Left::Readable,
    ),
    (Injected::ComesBack, (FailureKind::NotProven, "prove"), "still there", Left::Stored),
];

#[test]
fn every_injected_failure_of_a_directory_has_its_receipt_and_the_next_order_ends_it() {
    on_encrypted(|mut scene| {
        let personal = scene.personal();
        for (injected, says, word, left) in TABLE {
            let failure = carried_out(&mut scene, injected).unwrap_err();
            assert_eq!((failure.kind, &*failure.stage), says, "{injected:?}: {failure:?}");
            assert!(failure.detail.contains(word), "{injected:?}: {}", failure.detail);
            make_well(&mut scene, injected);
            let seen = match (scene.is_readable(), scene.stored.exists()) {
                (true, _) => Left::Readable,
                (false, is_stored) => {
                    assert!(is_stored, "{injected:?}");
                    Left::Stored
                }
            };
            assert_eq!(seen, left, "{injected:?}");
            scene.ordered(&task(2)).unwrap_or_else(|failure| panic!("{injected:?}: {failure:?}"));
            scene.assert_destroyed();
            assert_eq!(scene.personal(), personal, "{injected:?}");
            scene.reset();
        }
    });
}

fn away(scene: &Scene) -> (PathBuf, PathBuf) {
    (scene.stored.clone(), scene.folder.path().join("away"))
}

type Scene = Encrypted;

fn carried_out(scene: &mut Scene, injected: Injected) -> Result<Evidence, Failure> {
    let home = scene.host.path("/home");
    let company = scene.host.path(COMPANY);
    let beside = scene.host.path("/home/beside");
    match injected {
        Injected::NoDirectory => fs::rename(&company, beside).unwrap(),
        Injected::NotEncrypted => {
            fs::create_dir_all(scene.host.path("/home/plain")).unwrap();
            scene.host.company_directories = vec!["/home/plain".into()];
        }
        Injected::NotStored => {
            let (stored, away) = away(scene);
            fs::copy(&stored, away).unwrap();
            fs::remove_file(stored).unwrap();
        }
        Injected::OtherName => fs::hard_link(&scene.stored, home.join("letter")).unwrap(),
        Injected::LeadsOut => {
            let link = scene.host.path("/home/link");
            std::os::unix::fs::symlink(scene.folder.path(), link).unwrap();
            scene.host.company_directories = vec!["/home/link".into()];
        }
        Injected::ReadOnly => run("mount", &["-o".as_ref(), "remount,ro".as_ref(), &home]),
        Injected::Immutable => run("chattr", &["+i".as_ref(), &scene.stored]),
        Injected::DamagedRecord => {
            fs::write(scene.host.state_dir.join("wipe.json"), "{").unwrap();
        }
        Injected::FullDisk => fill(&scene.host.state_dir),
        Injected::TakenAway | Injected::Stranger => {
            // The record is there, and nothing is destroyed yet.
            killed(scene, "write", 2);
            if injected == Injected::TakenAway {
                let (stored, away) = away(scene);
                fs::write(&away, &scene.wrapped).unwrap();
                fs::remove_file(stored).unwrap();
            } else {
                fs::rename(&company, beside).unwrap();
                fs::rename(scene.host.path(crate::encrypted::OWN), &company).unwrap();
            }
            return carry_out(&SelectiveWipe::default(), &scene.host, &task(1));
        }
        Injected::Open => {
            fs::create_dir_all(scene.host.path("/proc")).unwrap();
            run("mount", &["--rbind".as_ref(), "/proc".as_ref(), &scene.host.path("/proc")]);
            let open = File::open(company.join("plans")).unwrap();
            let ended = scene.ordered(&task(1));
            drop(open);
            return ended;
        }
        Injected::ComesBack => {
            let selective = SelectiveWipe::default();
            selective.apply(&scene.host, &task(1)).unwrap();
            fs::write(&scene.stored, &scene.wrapped).unwrap();
            return selective.prove(&scene.host, &task(1));
        }
    }
    scene.ordered(&task(1))
}

/// What was injected is over.
fn make_well(scene: &mut Scene, injected: Injected) {
    let home = scene.host.path("/home");
    match injected {
        Injected::NoDirectory => {
            fs::rename(home.join("beside"), scene.host.path(COMPANY)).unwrap();
        }
        Injected::NotEncrypted | Injected::LeadsOut => {
            let _ = fs::remove_dir(home.join("plain"));
            let _ = fs::remove_file(home.join("link"));
            scene.host.company_directories = vec![COMPANY.into()];
        }
        Injected::NotStored | Injected::TakenAway => {
            let (stored, away) = away(scene);
            fs::copy(away, stored).unwrap();
        }
        Injected::OtherName => fs::remove_file(home.join("letter")).unwrap(),
        Injected::ReadOnly => run("mount", &["-o".as_ref(), "remount,rw".as_ref(), &home]),
        Injected::Immutable => run("chattr", &["-i".as_ref(), &scene.stored]),
        Injected::DamagedRecord => {
            fs::remove_file(scene.host.state_dir.join("wipe.json")).unwrap();
        }
        Injected::FullDisk => run("umount", &[&scene.host.state_dir]),
        Injected::Stranger => {
            let company = scene.host.path(COMPANY);
            fs::rename(&company, scene.host.path(crate::encrypted::OWN)).unwrap();
            fs::rename(home.join("beside"), company).unwrap();
        }
        Injected::Open => run("umount", &["-l".as_ref(), &scene.host.path("/proc")]),
        Injected::ComesBack => {}
    }
}

/// What a child of these tests finds in its environment: the folder of the host.
const HERE: &str = "TOCSIN_DIRECTORY_TEST_HERE";

/// How a selective wipe ended in a process of its own, which is killed at that call; `None` when it was.
fn killed(scene: &Scene, call: &str, number: usize) -> Option<String> {
    in_child(scene, &format!("inject={call}:signal=SIGKILL:when={number}"))
}

/// The same with whatever strace(1) injects.
fn in_child(scene: &Scene, inject: &str) -> Option<String> {
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", inject])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "directory_failures::child", "--nocapture"])
        .env(HERE, scene.folder.path())
        .stderr(Stdio::null())
        .output()
        .expect("this test needs strace (Debian package strace)");
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().find_map(|line| Some(line.split_once("RESULT ")?.1.to_owned()))
}

/// No test by itself: what [`in_child`] starts.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(HERE) else { return };
    let (host, _folder) = host_in(Path::new(&folder));
    let selective = SelectiveWipe::default();
    let ended =
        selective.plan(&host, &task(1)).and_then(|_| carry_out(&selective, &host, &task(1)));
    let said = match ended {
        Ok(_) => "done".to_owned(),
        Err(failure) => format!("{:?} {}: {}", failure.kind, failure.stage, failure.detail),
    };
    std::io::stdout().write_all(format!("\nRESULT {said}\n").as_bytes()).unwrap();
}

fn host_in(folder: &Path) -> (Host, tempfile::TempDir) {
    let (mut host, own) = sandbox();
    (host.root, host.state_dir) = (folder.join("root"), folder.join("state"));
    host.company_directories = vec![COMPANY.into()];
    (host, own)
}

#[test]
fn record_that_cannot_be_written_any_more_keeps_no_key_and_the_next_order_ends_it() {
    on_encrypted(|scene| {
        // The first is the record of what is to come.
        for number in 2..4 {
            let inject = format!("inject=/^rename:error=ENOSPC:when={number}+");
            let said = in_child(&scene, &inject).unwrap();
            assert!(said.starts_with("Io apply: /home/company wipe.json"), "{said}");
            assert!(!scene.is_readable() && !scene.unlock(COMPANY), "{number}");
            scene.ordered(&task(2)).unwrap();
            scene.assert_destroyed();
            scene.reset();
        }
    });
}

#[test]
fn wipe_of_a_directory_that_is_killed_at_any_step_is_finished_by_the_next_start() {
    on_encrypted(|scene| {
        let (personal, mut kills) = (scene.personal(), 0);
        for call in ["write", "fsync", "/^rename", "/^unlink", "ioctl"] {
            for number in 1.. {
                scene.reset();
                let said = killed(&scene, call, number);
                if said.is_some() {
                    assert_eq!(said.as_deref(), Some("done"), "{call} {number}");
                    break;
                }
                kills += 1;
                let (selective, task) = (SelectiveWipe::default(), task(1));
                assert!(matches!(selective.recover(&scene.host, &task), Recovery::Apply));
                carry_out(&selective, &scene.host, &task).unwrap();
                scene.assert_destroyed();
                assert!(!scene.is_on_drive(&scene.wrapped), "{call} {number}");
                assert_eq!(scene.personal(), personal, "{call} {number}");
            }
        }
        println!("{kills} kills");
        assert!(kills > 15, "{kills} kills");
    });
}
