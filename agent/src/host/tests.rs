//! Paths below the root, and a power switch that cannot reach the machine of a test.

use protocol::receipt::FailureKind;

use super::{Arming, Power, Shutdown};
use crate::execute::fixtures::Sandbox;

#[test]
fn path_stays_below_the_root() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.host.path("/etc/hostname"), sandbox.host.root.join("etc/hostname"));
    assert_eq!(sandbox.host.path("etc"), sandbox.host.root.join("etc"));
}

#[test]
fn recorded_shutdown_is_one_line() {
    let sandbox = Sandbox::new();
    sandbox.host.shut_down(Shutdown::PowerOff).unwrap();
    sandbox.host.shut_down(Shutdown::Reboot).unwrap();
    let Power::Recorded(path) = &sandbox.host.power else { panic!("sandboxes record") };
    assert_eq!(std::fs::read_to_string(path).unwrap(), "power_off\nreboot\n");
}

#[test]
fn host_that_is_not_armed_never_shuts_the_machine_down() {
    for (arming, how) in
        [(Arming::Sandboxed, Shutdown::PowerOff), (Arming::Simulated, Shutdown::Reboot)]
    {
        let mut host = Sandbox::new().host;
        host.power = Power::Real;
        host.arming = arming;
        assert_eq!(host.shut_down(how).unwrap_err().kind, FailureKind::Internal);
    }
}
