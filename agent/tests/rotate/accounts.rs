//! The password of a local account, in a `shadow(5)` of a sandbox: judged by crypt(3) as the system
//! has it.

use std::fs;
use std::process::Command;

use agent::execute::lock::{LockState, Phase};
use agent::execute::rotate::{PATIENCE, RotateCredentials};
use agent::execute::{Executor as _, Recovery};
use agent::host::{Host, Superuser};
use protocol::action::{Credential, LockLevel};
use protocol::receipt::FailureKind;
use protocol::time::Timestamp;
use tempfile::TempDir;

use crate::scene::{escrowed, patient};
use crate::support::host::{sandbox, task};

const SHADOW: &str = "root:*:19000:0:99999:7:::\n\
    rescue:$6$salt$former:19000:0:99999:7:::\n\
    locked:!$6$salt$former:19000:0:99999:7:::\n\
    bare::19000:0:99999:7:::\n\
    rescue2:$6$salt$other:19000:0:99999:7::17:\n";

fn scene() -> (Host, TempDir) {
    let (host, folder) = sandbox();
    fs::create_dir(host.path("/etc")).unwrap();
    fs::write(host.path("/etc/shadow"), SHADOW).unwrap();
    (host, folder)
}

fn rotate(name: &str) -> RotateCredentials {
    patient(Credential::Account(name.to_owned()), PATIENCE)
}

fn shadow(host: &Host) -> String {
    fs::read_to_string(host.path("/etc/shadow")).unwrap()
}

/// Whether the system takes that password for that account.
fn takes(host: &Host, name: &str, password: &str) -> bool {
    let shadow = shadow(host);
    let line = shadow.lines().find(|line| line.split(':').next() == Some(name)).unwrap();
    let field = line.split(':').nth(1).unwrap();
    let output = Command::new("/usr/bin/perl")
        .args(["-e", "print crypt($ARGV[0], $ARGV[1])", password, field])
        .output()
        .expect("this test needs /usr/bin/perl: install the package perl-base");
    String::from_utf8_lossy(&output.stdout) == field
}

#[test]
fn password_changes_once_it_is_escrowed_and_nothing_else_does() {
    let (host, _folder) = scene();
    let rotate = rotate("rescue");
    rotate.plan(&host, &task(1)).unwrap();
    rotate.apply(&host, &task(1)).unwrap();
    rotate.prove(&host, &task(1)).unwrap();
    let password = escrowed(&rotate, &host, &task(1));
    assert_eq!(shadow(&host), SHADOW, "the former one counts until then");
    rotate.finish(&host, &task(1)).unwrap();
    let evidence = rotate.prove(&host, &task(1)).unwrap();
    assert_eq!(evidence.get("account"), Some(&"rescue".into()));
    assert!(takes(&host, "rescue", &password));
    assert!(!takes(&host, "rescue", "another"));
    let (changed, former) = (shadow(&host), SHADOW.lines());
    for (now, before) in changed.lines().zip(former) {
        if before.starts_with("rescue:") {
            // The day of the task, so that nobody is asked to change it at once.
            assert!(now.ends_with(":19675:0:99999:7:::"), "{now}");
        } else {
            assert_eq!(now, before);
        }
    }
    let record = fs::read_to_string(host.state_dir.join("rotation.json")).unwrap();
    assert!(!record.contains(&password));
    assert!(!rotate.has_remainder(&host, &task(1)));
}

#[test]
fn password_that_is_not_escrowed_in_time_never_counts() {
    let (host, _folder) = scene();
    let rotate = rotate("rescue");
    rotate.apply(&host, &task(1)).unwrap();
    let failure = rotate.withdraw(&host, &task(1));
    assert_eq!((failure.kind, &*failure.stage), (FailureKind::Timeout, "escrow"));
    assert_eq!(shadow(&host), SHADOW);
    assert_eq!(rotate.apply(&host, &task(1)).unwrap_err(), failure);
}

#[test]
fn killed_agent_goes_on_with_the_password_that_is_in_escrow() {
    let (host, _folder) = scene();
    rotate("rescue").apply(&host, &task(1)).unwrap();
    let password = escrowed(&rotate("rescue"), &host, &task(1));
    let next = rotate("rescue");
    assert!(matches!(next.recover(&host, &task(1)), Recovery::Applied));
    assert_eq!(escrowed(&next, &host, &task(1)), password, "no second one is made");
    next.finish(&host, &task(1)).unwrap();
    // Killed between the change and its record.
    let record = host.state_dir.join("rotation.json");
    let text = fs::read_to_string(&record).unwrap().replace("finished", "added");
    fs::write(&record, text).unwrap();
    let last = rotate("rescue");
    last.finish(&host, &task(1)).unwrap();
    last.prove(&host, &task(1)).unwrap();
    assert!(takes(&host, "rescue", &password));
}

#[test]
fn account_that_is_locked_or_has_no_password_stays_as_it_is() {
    let (host, _folder) = scene();
    for name in ["root", "locked", "bare", "nobody"] {
        let failure = rotate(name).plan(&host, &task(1)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Precondition, "{name}");
        assert!(rotate(name).apply(&host, &task(1)).is_err());
    }
    assert_eq!(shadow(&host), SHADOW);
}

#[test]
fn password_that_somebody_changed_or_locked_meanwhile_is_left_to_them() {
    for theirs in ["rescue:$6$salt$theirs:", "rescue:!$6$salt$former:"] {
        let (host, _folder) = scene();
        let rotate = rotate("rescue");
        rotate.apply(&host, &task(1)).unwrap();
        let changed = SHADOW.replace("rescue:$6$salt$former:", theirs);
        fs::write(host.path("/etc/shadow"), &changed).unwrap();
        let failure = rotate.finish(&host, &task(1)).unwrap_err();
        assert_eq!((failure.kind, &*failure.stage), (FailureKind::Precondition, "finish"));
        assert_eq!(shadow(&host), changed);
    }
}

#[test]
fn on_a_locked_device_only_break_glass_gets_another_password() {
    let (host, _folder) = scene();
    let state = LockState {
        phase: Phase::Locked,
        command_id: task(9).command_id,
        envelope: "the envelope".to_owned(),
        offline_code: None,
        level: LockLevel::Session,
        message: None,
        break_glass: vec!["rescue2".to_owned()],
        strangers: Vec::new(),
        superuser: Superuser::default(),
        applied_at: Timestamp::default(),
    };
    fs::write(host.state_dir.join("lock.json"), serde_json::to_vec(&state).unwrap()).unwrap();
    for refused in [
        rotate("rescue").plan(&host, &task(1)).map(drop).unwrap_err(),
        rotate("rescue").apply(&host, &task(1)).unwrap_err(),
    ] {
        assert_eq!(refused.kind, FailureKind::Precondition, "{refused:?}");
    }
    rotate("rescue2").plan(&host, &task(1)).unwrap();
    assert_eq!(shadow(&host), SHADOW);
}
