//! What is injected into a lock and an unlock, what the receipt then says and what is left behind: two tables.
//! Whatever it was, nothing is left of it after an unlock once it is over. Kills at every step are in `faults`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent::execute::Executor;
use agent::execute::course::Course;
use agent::execute::lock::Phase;
use agent::host::Host;
use protocol::action::LockLevel;
use protocol::receipt::FailureKind;

use crate::faults::{HOLD, mount};
use crate::sandbox::{Sandbox, host, in_namespaces, task};
use crate::{assert_locked, lock, locking, unlock, unlocking};

const GATE: &str = "/etc/pam.d/common-account";
const PAMTESTER: &str = "/usr/bin/pamtester";

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Injected {
    /// The folders of the doors are somebody else's, and the agent is not above that.
    NoPermission,
    /// The disk with the doors went read-only.
    ReadOnlyRoot,
    /// That disk has no room.
    FullRoot,
    /// The disk of the state directory has none.
    FullDisk,
    /// Somebody holds the account database for longer than the step has.
    HeldAccounts,
    /// Nothing of PAM is where it is known to be.
    NoLayout,
    /// Nobody would be left to open the device.
    NoBreakGlass,
    /// The program that asks PAM is not installed.
    NoProbe,
    /// It answers something that it should not.
    OddProbe,
    /// It does not answer.
    SilentProbe,
    /// Nobody serves the system bus.
    NoBus,
    /// The lock's state is damaged.
    DamagedState,
    /// What the undo journal says of a file is damaged.
    DamagedFile,
    /// What it says of expired accounts is.
    DamagedExpiries,
    /// What it says of folders is.
    DamagedFolders,
    /// The lock's state does not go away.
    StateStays,
    /// The undo journal does not go away.
    UndoStays,
    /// Somebody puts the gate back before the proof.
    GateComesBack,
}

/// What it leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Nothing at all.
    Nothing,
    /// A lock on record, whose doors the agent closes as soon as that can be done.
    OnRecord,
    /// A lock that stands.
    Locked,
    /// An unlock that has begun: no boot locks again.
    Begun,
    /// The same, and nobody is kept out any more.
    Open,
}

/// What the receipt says: what it calls the failure and at which stage.
type Says = Result<(), (FailureKind, &'static str)>;

const OF_A_LOCK: [(Injected, Says, Left); 12] = [
    (Injected::NoPermission, Err((FailureKind::Permission, "doors")), Left::OnRecord),
    (Injected::ReadOnlyRoot, Err((FailureKind::Io, "doors")), Left::OnRecord),
    (Injected::FullRoot, Err((FailureKind::Io, "doors")), Left::OnRecord),
    (Injected::FullDisk, Err((FailureKind::Io, "state")), Left::Nothing),
    (Injected::HeldAccounts, Err((FailureKind::Timeout, "shadow")), Left::OnRecord),
    (Injected::NoLayout, Err((FailureKind::Precondition, "precheck")), Left::Nothing),
    (Injected::NoBreakGlass, Err((FailureKind::Precondition, "precheck")), Left::Nothing),
    (Injected::NoProbe, Ok(()), Left::Locked),
    (Injected::OddProbe, Err((FailureKind::Tool, "pam_probe")), Left::Locked),
    (Injected::SilentProbe, Err((FailureKind::Timeout, "pam_probe")), Left::Locked),
    (Injected::NoBus, Ok(()), Left::Locked),
    (Injected::DamagedState, Ok(()), Left::Locked),
];

const OF_AN_UNLOCK: [(Injected, Says, Left); 13] = [
    (Injected::NoPermission, Err((FailureKind::Permission, "doors")), Left::Begun),
    (Injected::ReadOnlyRoot, Err((FailureKind::Io, "doors")), Left::Begun),
    (Injected::FullRoot, Err((FailureKind::Io, "doors")), Left::Begun),
    (Injected::FullDisk, Err((FailureKind::Io, "state")), Left::Locked),
    (Injected::HeldAccounts, Err((FailureKind::Timeout, "shadow")), Left::Begun),
    (Injected::NoBus, Ok(()), Left::Nothing),
    // Neither keeps a device locked that an unlock was signed for.
    (Injected::DamagedState, Ok(()), Left::Nothing),
    (Injected::DamagedFile, Err((FailureKind::Internal, "doors")), Left::Open),
    (Injected::DamagedFolders, Err((FailureKind::Internal, "doors")), Left::Open),
    (Injected::DamagedExpiries, Err((FailureKind::Internal, "shadow")), Left::Begun),
    (Injected::StateStays, Err((FailureKind::Io, "state")), Left::Open),
    (Injected::UndoStays, Err((FailureKind::Io, "undo")), Left::Open),
    (Injected::GateComesBack, Err((FailureKind::NotProven, "prove")), Left::Nothing),
];

#[test]
fn every_injected_failure_of_a_lock_has_its_receipt_and_an_unlock_leaves_no_trace() {
    let test =
        "failures::every_injected_failure_of_a_lock_has_its_receipt_and_an_unlock_leaves_no_trace";
    in_namespaces(test, || {
        for (injected, says, left) in OF_A_LOCK {
            let mut sandbox = Sandbox::new();
            let before = sandbox.tree();
            let ends = inject(&mut sandbox, injected);
            assert_eq!(carried_out(&sandbox, "lock", injected), says, "{injected:?}");
            ends(&mut sandbox);
            check(&sandbox, injected, left);
            unlock(&sandbox);
            assert_eq!(sandbox.tree(), before, "{injected:?}");
        }
    });
}

#[test]
fn every_injected_failure_of_an_unlock_has_its_receipt_and_the_next_one_leaves_no_trace() {
    let test = "failures::every_injected_failure_of_an_unlock_has_its_receipt_and_the_next_one_leaves_no_trace";
    in_namespaces(test, || {
        for (injected, says, left) in OF_AN_UNLOCK {
            let mut sandbox = Sandbox::new();
            let before = sandbox.tree();
            lock(&sandbox);
            let ends = inject(&mut sandbox, injected);
            assert_eq!(carried_out(&sandbox, "unlock", injected), says, "{injected:?}");
            ends(&mut sandbox);
            check(&sandbox, injected, left);
            unlock(&sandbox);
            assert_eq!(sandbox.tree(), before, "{injected:?}");
        }
    });
}

#[test]
fn lock_closes_a_door_of_which_the_undo_journal_is_damaged_and_says_so() {
    let test = "failures::lock_closes_a_door_of_which_the_undo_journal_is_damaged_and_says_so";
    in_namespaces(test, || {
        let sandbox = Sandbox::new();
        lock(&sandbox);
        let entries = fs::read_dir(sandbox.host.state_dir.join("lock-undo")).unwrap();
        let entries = entries.map(|entry| entry.unwrap().path());
        let is_file = |path: &PathBuf| path.to_str().unwrap().contains("/file-");
        entries.filter(is_file).for_each(|entry| fs::write(entry, "{").unwrap());
        let gate = || fs::read(sandbox.host.path(GATE)).unwrap();
        let gated = gate();
        let says = Err((FailureKind::Internal, "doors"));
        for _ in 0..2 {
            assert_eq!(carried_out(&sandbox, "unlock", Injected::DamagedFile), says);
            assert!(sandbox.permits("sshd", "alice") && gate() != gated);
            assert_eq!(carried_out(&sandbox, "lock", Injected::DamagedFile), says);
            assert_locked(&sandbox);
            assert_eq!(gate(), gated);
        }
    });
}

/// What nobody can know any more stays as it is, and root is not locked out for it.
#[test]
fn root_is_let_in_again_although_nobody_knows_the_former_expiries() {
    let test = "failures::root_is_let_in_again_although_nobody_knows_the_former_expiries";
    in_namespaces(test, || {
        let sandbox = Sandbox::new();
        let shadow = || fs::read_to_string(sandbox.host.path("/etc/shadow")).unwrap();
        let with_password = shadow().replacen("root:*:", "root:$6$r$r:", 1);
        sandbox.write("/etc/shadow", &with_password, 0o640);
        lock(&sandbox);
        assert!(shadow().contains("root:!tocsin!"), "{}", shadow());
        fs::write(sandbox.host.state_dir.join("lock-undo/shadow.json"), "{").unwrap();
        let (kind, _) = carry_out(&sandbox.host, "unlock", Injected::DamagedFile).unwrap_err();
        assert_eq!(kind, FailureKind::Internal);
        assert!(!shadow().contains("!tocsin!"), "{}", shadow());
    });
}

fn check(sandbox: &Sandbox, injected: Injected, left: Left) {
    let phase = |sandbox: &Sandbox| lock::current(&sandbox.host).unwrap().map(|state| state.phase);
    let expected = match left {
        Left::Nothing => None,
        Left::OnRecord | Left::Locked => Some(Phase::Locked),
        Left::Begun | Left::Open => Some(Phase::Unlocking),
    };
    assert_eq!(phase(sandbox), expected, "{injected:?}");
    if left == Left::Open {
        assert!(sandbox.permits("sshd", "alice"), "{injected:?}");
    }
    // A boot, and what the agent does from time to time.
    lock::reassert(&sandbox.host).unwrap();
    lock::uphold(&sandbox.host).unwrap();
    assert_eq!(phase(sandbox), expected, "{injected:?}");
    match left {
        Left::OnRecord | Left::Locked => assert_locked(sandbox),
        Left::Open => assert!(sandbox.permits("sshd", "alice"), "{injected:?}"),
        Left::Nothing | Left::Begun => {}
    }
}

type Ends = Box<dyn FnOnce(&mut Sandbox)>;

/// Has it go wrong, until what is answered is called.
fn inject(sandbox: &mut Sandbox, injected: Injected) -> Ends {
    let path = |absolute: &str| sandbox.host.path(absolute);
    match injected {
        Injected::NoPermission => {
            let folders = [path("/etc"), path("/etc/pam.d")];
            folders.iter().for_each(|folder| chown(folder, Some(1001), None).unwrap());
            Box::new(move |_| folders.iter().for_each(|at| chown(at, Some(0), None).unwrap()))
        }
        Injected::ReadOnlyRoot => {
            let etc = path("/etc");
            mount(&["--bind", text(&etc), text(&etc)]);
            mount(&["-o", "remount,bind,ro", text(&etc)]);
            Box::new(move |_| umount(&etc))
        }
        Injected::FullRoot => on_a_full_disk(path("/etc")),
        Injected::FullDisk => on_a_full_disk(sandbox.host.state_dir.clone()),
        Injected::HeldAccounts => {
            let mut holder = hold(&path("/etc/.pwd.lock"));
            Box::new(move |_| {
                drop(holder.stdin.take());
                holder.wait().unwrap();
            })
        }
        Injected::NoLayout => {
            let (gate, away) = (path(GATE), path("/etc/away"));
            fs::rename(&gate, &away).unwrap();
            Box::new(move |_| fs::rename(&away, &gate).unwrap())
        }
        Injected::NoBreakGlass => {
            let kept = std::mem::take(&mut sandbox.host.break_glass);
            Box::new(|sandbox| sandbox.host.break_glass = kept)
        }
        Injected::NoProbe => instead_of_pamtester(sandbox, Path::new("/dev/null")),
        Injected::OddProbe => script_instead_of_pamtester(sandbox, "exit 7"),
        Injected::SilentProbe => script_instead_of_pamtester(sandbox, "exec sleep 1000"),
        Injected::NoBus => {
            sandbox.host.dbus_address = Some("unix:path=/nowhere".to_owned());
            Box::new(|_| {})
        }
        Injected::DamagedState => {
            let state = sandbox.host.state_dir.join("lock.json");
            fs::create_dir_all(state.parent().unwrap()).unwrap();
            fs::write(state, "{").unwrap();
            Box::new(|_| {})
        }
        Injected::DamagedFile => damaged(sandbox, "file-"),
        Injected::DamagedExpiries => damaged(sandbox, "shadow"),
        Injected::DamagedFolders => damaged(sandbox, "folders"),
        Injected::StateStays | Injected::UndoStays | Injected::GateComesBack => Box::new(|_| {}),
    }
}

/// The same files on a disk that has no room for more.
fn on_a_full_disk(folder: PathBuf) -> Ends {
    let aside = folder.with_file_name("aside");
    run("cp", &["-a", text(&folder), text(&aside)]);
    mount(&["-t", "tmpfs", "-o", "size=2m,mode=0755", "tmpfs", text(&folder)]);
    run("cp", &["-a", &format!("{}/.", text(&aside)), text(&folder)]);
    fs::remove_dir_all(aside).unwrap();
    let filler = folder.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    Box::new(move |_| fs::remove_file(filler).unwrap())
}

fn script_instead_of_pamtester(sandbox: &Sandbox, script: &str) -> Ends {
    let program = sandbox.base().join("probe");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    run("chmod", &["755", text(&program)]);
    instead_of_pamtester(sandbox, &program)
}

fn instead_of_pamtester(sandbox: &Sandbox, program: &Path) -> Ends {
    let pamtester = sandbox.host.path(PAMTESTER);
    mount(&["--bind", text(program), text(&pamtester)]);
    Box::new(move |_| umount(&pamtester))
}

/// An entry of the undo journal is not what the agent wrote, until somebody has it from a backup.
fn damaged(sandbox: &Sandbox, name: &str) -> Ends {
    let folder = sandbox.host.state_dir.join("lock-undo");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(name);
    let entry = entries.into_iter().find(is_it).expect("the lock has such an entry");
    let sound = fs::read(&entry).unwrap();
    fs::write(&entry, "{").unwrap();
    Box::new(move |_| fs::write(entry, sound).unwrap())
}

/// Holds the lock of the account database until its input ends.
fn hold(path: &Path) -> Child {
    let mut holder = Command::new("python3")
        .args(["-c", HOLD])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs python3");
    holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    holder
}

fn carried_out(sandbox: &Sandbox, action: &str, injected: Injected) -> Says {
    let stays = |name: &str| {
        let path = sandbox.host.state_dir.join(name);
        let words = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-P",
            text(&path),
            "-e",
            "inject=unlink:error=EIO",
        ];
        in_child(sandbox, action, &words)
    };
    if injected == Injected::NoPermission {
        let word = "-dac_override";
        in_child(sandbox, action, &["setpriv", "--bounding-set", word, "--inh-caps", word])
    } else if injected == Injected::StateStays {
        stays("lock.json")
    } else if injected == Injected::UndoStays {
        stays("lock-undo/shadow.json")
    } else {
        said(&carry_out(&sandbox.host, action, injected))
    }
}

fn carry_out(host: &Host, action: &str, injected: Injected) -> Result<(), (FailureKind, String)> {
    let executor: Box<dyn Executor> = match action {
        "lock" => Box::new(locking(LockLevel::Session)),
        _ => Box::new(unlocking()),
    };
    let course = Course::default();
    let host = &Host { course: course.clone(), ..host.clone() };
    let gated = fs::read(host.path(GATE)).unwrap_or_default();
    let told = |failure: protocol::receipt::Failure| (failure.kind, failure.stage);
    executor.plan(host, &task()).map_err(told)?;
    if injected == Injected::HeldAccounts {
        course.allow(Some(Duration::from_secs(2)));
    }
    executor.apply(host, &task()).map_err(told)?;
    if injected == Injected::SilentProbe {
        course.allow(Some(Duration::from_secs(1)));
    }
    if injected == Injected::GateComesBack {
        fs::write(host.path(GATE), gated).unwrap();
    }
    executor.prove(host, &task()).map(drop).map_err(told)
}

fn said(outcome: &Result<(), (FailureKind, String)>) -> Says {
    let stages = ["precheck", "state", "doors", "shadow", "undo", "pam_probe", "prove"];
    let known = |stage: &str| *stages.iter().find(|known| **known == stage).expect(stage);
    outcome.as_ref().map(drop).map_err(|(kind, stage)| (*kind, known(stage)))
}

/// What a child of these tests finds in its environment: what it does, and where.
const ACTING: &str = "TOCSIN_LOCK_TEST_ACTING";
const KINDS: [FailureKind; 2] = [FailureKind::Permission, FailureKind::Io];

/// Carried out by a process of its own.
fn in_child(sandbox: &Sandbox, action: &str, wrapper: &[&str]) -> Says {
    let output = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "failures::child", "--nocapture"])
        .env(ACTING, format!("{action} {}", text(sandbox.base())))
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let result = output.lines().find_map(|line| line.split_once("RESULT ")).expect(&output).1;
    let Some((kind, stage)) = result.split_once(' ') else { return Ok(()) };
    let kind = KINDS.into_iter().find(|known| format!("{known:?}") == kind).expect(result);
    said(&Err((kind, stage.to_owned())))
}

/// No test by itself: what [`in_child`] starts.
#[test]
fn child() {
    let Some(what) = std::env::var(ACTING).ok() else { return };
    let (action, base) = what.split_once(' ').unwrap();
    let result = match carry_out(&host(Path::new(base)), action, Injected::NoPermission) {
        Ok(()) => "done".to_owned(),
        Err((kind, stage)) => format!("{kind:?} {stage}"),
    };
    let mut output = std::io::stdout();
    output.write_all(format!("\nRESULT {result}\n").as_bytes()).unwrap();
}

fn umount(path: &Path) {
    run("umount", &[text(path)]);
}

fn run(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
