//! What can go wrong with a release: what is injected, what the receipt then says, and whether the
//! device is cut afterwards. All or nothing here too, and a second order ends it in any case.

use std::fs;

use agent::execute::Executor as _;
use agent::execute::quarantine::{Release, current, reassert, uphold};
use agent::host::Host;
use nix::sched::{CloneFlags, unshare};
use protocol::receipt::{Evidence, Failure, FailureKind};
use serde_json::json;

use super::{Scene, TABLES, carry_out, mount, result, say};
use crate::support::host::task;

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Injected {
    /// Nobody may change the network here.
    NoPermission,
    /// The kernel has no `nf_tables`.
    NoNfTables,
    /// The kernel does not answer.
    SilentKernel,
    /// Another program holds the tables.
    HeldByAnother,
    /// The state directory has no room for what the release observed.
    FullDisk,
    /// Nobody may write to the state directory.
    ReadOnlyDisk,
    /// The record of the quarantine does not go away.
    RecordStays,
    /// The record of the quarantine is damaged.
    DamagedRecord,
    /// Somebody took the tables away before.
    TablesGone,
}

/// What the receipt says: what it calls the failure and at which stage, or whose quarantine was
/// lifted.
type Says = Result<serde_json::Value, (FailureKind, &'static str)>;

fn table() -> [(Injected, Says); 9] {
    let lifted = task(1).command_id.to_string();
    [
        (Injected::NoPermission, Err((FailureKind::Permission, "plan"))),
        (Injected::NoNfTables, Err((FailureKind::Precondition, "plan"))),
        (Injected::SilentKernel, Err((FailureKind::Timeout, "plan"))),
        (Injected::HeldByAnother, Err((FailureKind::Permission, "apply"))),
        (Injected::FullDisk, Err((FailureKind::Io, "apply"))),
        (Injected::ReadOnlyDisk, Err((FailureKind::Io, "apply"))),
        (Injected::RecordStays, Err((FailureKind::Io, "apply"))),
        // A release is not kept from a device by what lies on its disk.
        (Injected::DamagedRecord, Ok(json!(null))),
        (Injected::TablesGone, Ok(json!(lifted))),
    ]
}

#[test]
fn every_injected_failure_of_a_release_has_its_receipt_and_leaves_the_device_cut() {
    for (injected, says) in table() {
        let scene = Scene::new();
        let said = carry_out_with(&scene, injected);
        assert_eq!(said, says, "{injected:?}");
        if said.is_ok() {
            assert_eq!(scene.tables(), "", "{injected:?}");
            assert_eq!(scene.here(current), Ok(None), "{injected:?}");
            continue;
        }
        // The agent looks after what is recorded, as always.
        scene.here(|host| {
            reassert(host).unwrap();
            uphold(host).unwrap();
        });
        assert_eq!(scene.tables(), TABLES, "{injected:?}");
        assert!(scene.is_cut(), "{injected:?}");
        scene.release();
    }
}

fn release(host: &Host) -> Result<Evidence, Failure> {
    Release.plan(host, &task(2))?;
    Release.apply(host, &task(2))?;
    Release.prove(host, &task(2))
}

fn said(outcome: Result<Evidence, Failure>) -> Says {
    match outcome {
        Ok(evidence) => {
            assert_eq!(evidence.get("table_present"), Some(&false.into()));
            Ok(evidence.get("lifted").unwrap().clone())
        }
        Err(Failure { kind, stage, .. }) => Err((kind, stage_of(&stage))),
    }
}

fn stage_of(stage: &str) -> &'static str {
    ["plan", "apply", "prove"].into_iter().find(|known| *known == stage).unwrap()
}

fn carry_out_with(scene: &Scene, injected: Injected) -> Says {
    let strace = |inject| vec!["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject];
    match injected {
        Injected::FullDisk => on_a_disk(scene, fill),
        Injected::ReadOnlyDisk => on_a_disk(scene, |state| mount(&["-o", "remount,ro", state])),
        Injected::DamagedRecord => {
            scene.here(|host| {
                carry_out(host).unwrap();
                fs::write(host.state_dir.join("quarantine.json"), "{").unwrap();
            });
            said(scene.here(release))
        }
        Injected::TablesGone => {
            scene.here(|host| drop(carry_out(host).unwrap()));
            scene.host.firewall.let_go();
            scene.lan.endpoint.command("nft", &["flush", "ruleset"]);
            said(scene.here(release))
        }
        // This process goes on holding them.
        Injected::HeldByAnother => failed_beside(scene, &[]),
        Injected::NoPermission => {
            let no_admin = ["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
            failed_alone(scene, &[&["setpriv"], &no_admin[..]].concat())
        }
        Injected::NoNfTables => {
            failed_alone(scene, &strace("inject=socket:error=EPROTONOSUPPORT:when=1"))
        }
        Injected::SilentKernel => {
            failed_alone(scene, &strace("inject=recvfrom:error=EAGAIN:when=1"))
        }
        Injected::RecordStays => failed_alone(scene, &strace("inject=unlink:error=EIO")),
    }
}

/// Released by another process, when the one that had cut the device is gone.
fn failed_alone(scene: &Scene, wrapper: &[&str]) -> Says {
    scene.here(|host| drop(carry_out(host).unwrap()));
    scene.host.firewall.let_go();
    failed(scene, wrapper)
}

/// The same while that one goes on.
fn failed_beside(scene: &Scene, wrapper: &[&str]) -> Says {
    scene.here(|host| drop(carry_out(host).unwrap()));
    failed(scene, wrapper)
}

fn failed(scene: &Scene, wrapper: &[&str]) -> Says {
    let words = in_child(scene, wrapper).unwrap();
    let (kind, stage) = words.split_once(' ').expect("it failed");
    let kinds =
        [FailureKind::Permission, FailureKind::Precondition, FailureKind::Timeout, FailureKind::Io];
    let kind = kinds.into_iter().find(|known| format!("{known:?}") == kind).unwrap();
    Err((kind, stage_of(stage)))
}

/// Quarantined and released by an agent whose state directory is a disk of its own, to which
/// something happens in between. The disk is well again afterwards.
fn on_a_disk(scene: &Scene, happens: fn(&str)) -> Says {
    said(scene.here(move |host| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(&["--make-rprivate", "/"]);
        let state = host.state_dir.display().to_string();
        mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs", &state]);
        carry_out(host).unwrap();
        happens(&state);
        let outcome = release(host);
        // Before there is room again: what stood is put up from what is on the disk.
        uphold(host).unwrap();
        mount(&["-o", "remount,rw", &state]);
        let _ = fs::remove_file(host.state_dir.join("filler"));
        outcome
    }))
}

/// To the last page.
fn fill(state: &str) {
    use std::io::Write as _;
    let mut filler = fs::File::create(format!("{state}/filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
}

/// How a release ended in a process of its own; `None` when it was killed.
fn in_child(scene: &Scene, wrapper: &[&str]) -> Option<String> {
    let mut child = scene.child_as("release::child", wrapper);
    let said = result(&mut child);
    drop(child.stdin.take());
    child.wait().unwrap();
    said
}

/// No test by itself: what [`in_child`] starts.
#[test]
fn child() {
    say(release);
}

#[test]
fn release_that_is_killed_at_any_step_is_finished_by_the_next_start() {
    let scene = Scene::new();
    let mut kills = 0;
    for call in ["sendto", "fsync", "rename", "unlink"] {
        for number in 1.. {
            scene.here(|host| drop(carry_out(host).unwrap()));
            scene.host.firewall.let_go();
            let inject = format!("inject={call}:signal=SIGKILL:when={number}");
            let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
            let said = in_child(&scene, &wrapper);
            let tables = scene.tables();
            if said.is_some() {
                assert_eq!((said.as_deref(), &*tables), (Some("done"), ""), "{call} {number}");
                break;
            }
            kills += 1;
            assert!(tables.is_empty() || tables == TABLES, "{call} {number}: {tables}");
            // A device whose release is not at its end is cut again from its start on.
            let recorded = scene.here(current).unwrap();
            assert!(recorded.is_some() || tables.is_empty(), "{call} {number}");
            assert_eq!(scene.here(reassert), Ok(recorded.is_some()), "{call} {number}");
            assert!(scene.here(release).is_ok(), "{call} {number}");
            assert_eq!(scene.tables(), "", "{call} {number}");
        }
    }
    assert!(kills > 8, "{kills} kills");
}
