//! The TPM of a device that is wiped: a real one in software, and a key that was made in it.

use agent::execute::Executor as _;
use agent::execute::wipe::Wipe;
use agent::host::{Shutdown, WipedTpm};
use agent::identity::{KeyPair, KeyPlace, Made};
use protocol::action::{self, WipeLevel};

use crate::scene::Scene;
use crate::soft_tpm::SoftTpm;
use crate::support::host::task;

#[test]
fn tpm_is_cleared_after_the_proof_and_one_with_the_devices_key_when_the_power_goes() {
    for holds_device_key in [false, true] {
        let mut scene = Scene::new();
        let tpm = SoftTpm::new(&scene.folder.path().join("tpm"));
        let (file, place) = (
            scene.folder.path().join("device.key"),
            KeyPlace { tpm: tpm.socket(), made: Made::Tpm },
        );
        KeyPair::load_or_make(&file, &place).unwrap();
        let opens = || KeyPair::load(&file, &tpm.socket()).is_ok();
        scene.host.tpm = WipedTpm::at(tpm.socket(), holds_device_key);
        let (level, power_off) = (WipeLevel::Keys, true);
        let wipe = Wipe::new(action::Wipe { level, power_off });
        let plan = wipe.plan(&scene.host, &task(1)).unwrap();
        assert!(plan.steps.iter().any(|step| step.ends_with("socket: clear the TPM")));

        wipe.apply(&scene.host, &task(1)).unwrap();
        wipe.prove(&scene.host, &task(1)).unwrap();
        assert!(opens(), "the proof has not left yet");
        assert_eq!(wipe.has_remainder(&scene.host, &task(1)), !holds_device_key);
        wipe.finish(&scene.host, &task(1)).unwrap();
        let evidence = wipe.prove(&scene.host, &task(1)).unwrap();
        let fate = if holds_device_key { "with_power" } else { "cleared" };
        assert_eq!(evidence.get("tpm"), Some(&fate.into()));
        assert_eq!(opens(), holds_device_key, "what signs the receipt stays");
        scene.assert_destroyed();

        scene.host.shut_down(Shutdown::Reboot).unwrap();
        assert_eq!(opens(), holds_device_key, "a reboot is no end");
        // Another process of the agent knows it from the record.
        scene.host.tpm = WipedTpm::at(tpm.socket(), holds_device_key);
        scene.host.shut_down(Shutdown::PowerOff).unwrap();
        assert!(!opens());
    }
}

#[test]
fn tpm_that_holds_the_devices_key_stays_while_the_power_does() {
    let mut scene = Scene::new();
    let tpm = SoftTpm::new(&scene.folder.path().join("tpm"));
    scene.host.tpm = WipedTpm::at(tpm.socket(), true);
    let wipe = crate::scene::wipe(WipeLevel::Keys);
    let evidence = crate::scene::carry_out(&wipe, &scene.host, &task(1)).unwrap();
    assert_eq!(evidence.get("tpm"), Some(&"kept_for_key".into()));
    // None is named, and none is there.
    for missing in [WipedTpm::default(), WipedTpm::at(scene.folder.path().join("none"), false)] {
        scene.reset();
        scene.host.tpm = missing;
        let evidence = crate::scene::carry_out(&wipe, &scene.host, &task(1)).unwrap();
        assert_eq!(evidence.get("tpm"), None);
    }
}
