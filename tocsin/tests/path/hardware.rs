//! A device whose key is in a TPM: enrolled, ordered, killed, and back after a boot of its TPM.

use crate::installation::Installation;
use crate::soft_tpm::SoftTpm;

#[test]
fn device_with_its_key_in_a_tpm_proves_what_it_did_before_and_after_a_boot() {
    let installation = Installation::new();
    let mut tpm = SoftTpm::new(&installation.path("tpm"));
    let settings = format!("[key]\nplace = \"tpm\"\ntpm = {:?}\n", tpm.socket());
    let mut device = installation.enroll_with("web-1", &settings);
    let key = std::fs::read(device.state().join("device.key")).expect("it is enrolled");
    assert!(key.starts_with(b"-----BEGIN TSS2 PRIVATE KEY-----"));
    device.start();
    let locked = installation.order("lock", &device.name);
    assert_eq!(installation.ended(&locked)["state"], "succeeded");
    installation.succeed(&["proof", &locked]);
    assert_eq!(device.status().expect("it tells")["key_in_tpm"], true);

    device.kill();
    tpm.switch_off();
    tpm.switch_on();
    device.start();
    let unlocked = installation.order("unlock", &device.name);
    assert_eq!(installation.ended(&unlocked)["state"], "succeeded");
    installation.succeed(&["proof", &unlocked]);
}
