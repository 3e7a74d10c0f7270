//! A reboot in a sandbox: asking is a line in a file, and the next boot is another boot id.

use protocol::receipt::FailureKind;
use runtime::clock::BOOT_ID_PATH;

use super::Reboot;
use crate::execute::fixtures::{Sandbox, task};
use crate::execute::{Executor as _, Recovery};
use crate::host::Power;

const FIRST: &str = "0b9f2c60-6b8e-4d0a-9d38-4f3cbb6e7a01\n";
const SECOND: &str = "5d1c9c77-90f4-4b39-8f0b-f2f0c7d3b702\n";

fn booted() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write(BOOT_ID_PATH, FIRST);
    sandbox
}

fn asked(sandbox: &Sandbox) -> String {
    let Power::Recorded(path) = &sandbox.host.power else { panic!("sandboxes record") };
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn next_boot_is_the_proof() {
    let sandbox = booted();
    Reboot.plan(&sandbox.host, &task(1)).unwrap();
    assert_eq!(asked(&sandbox), "", "a plan changes nothing");
    Reboot.apply(&sandbox.host, &task(1)).unwrap();
    assert_eq!(asked(&sandbox), "reboot\n");
    let too_early = Reboot.prove(&sandbox.host, &task(1)).unwrap_err();
    assert_eq!(too_early.kind, FailureKind::NotProven);

    sandbox.write(BOOT_ID_PATH, SECOND);
    assert!(matches!(Reboot.recover(&sandbox.host, &task(1)), Recovery::Applied));
    let evidence = Reboot.prove(&sandbox.host, &task(1)).unwrap();
    assert_eq!(evidence.get("boot_id_before"), Some(&FIRST.trim().into()));
    assert_eq!(evidence.get("boot_id_after"), Some(&SECOND.trim().into()));
}

#[test]
fn what_did_not_come_is_asked_for_again() {
    let sandbox = booted();
    assert!(matches!(Reboot.recover(&sandbox.host, &task(1)), Recovery::Apply), "never asked");
    Reboot.apply(&sandbox.host, &task(1)).unwrap();
    assert!(matches!(Reboot.recover(&sandbox.host, &task(1)), Recovery::Apply), "the same boot");
}

#[test]
fn boot_of_another_command_proves_nothing() {
    let sandbox = booted();
    Reboot.apply(&sandbox.host, &task(1)).unwrap();
    sandbox.write(BOOT_ID_PATH, SECOND);
    assert!(matches!(Reboot.recover(&sandbox.host, &task(2)), Recovery::Apply));
    let other = Reboot.prove(&sandbox.host, &task(2)).unwrap_err();
    assert_eq!(other.kind, FailureKind::NotProven);
}

#[test]
fn device_without_a_boot_id_is_left_running() {
    for text in [None, Some("no id")] {
        let sandbox = Sandbox::new();
        if let Some(text) = text {
            sandbox.write(BOOT_ID_PATH, text);
        }
        let refused = Reboot.plan(&sandbox.host, &task(1)).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Precondition);
        assert_eq!(Reboot.apply(&sandbox.host, &task(1)).unwrap_err().stage, "apply");
        assert!(matches!(Reboot.recover(&sandbox.host, &task(1)), Recovery::InDoubt));
        assert_eq!(asked(&sandbox), "");
    }
}

#[test]
fn device_that_cannot_write_it_down_is_left_running() {
    let sandbox = booted();
    std::fs::create_dir(sandbox.host.state_dir.join("reboot.json")).unwrap();
    let failed = Reboot.apply(&sandbox.host, &task(1)).unwrap_err();
    assert_eq!((failed.kind, failed.stage.as_str()), (FailureKind::Io, "apply"));
    assert_eq!(asked(&sandbox), "");
}
