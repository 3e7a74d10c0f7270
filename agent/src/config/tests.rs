//! The sample and the judgement of configurations.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ArmingConfig, Config, InvalidConfig, PowerConfig};
use crate::host::Arming;

#[test]
fn sample_shows_the_defaults() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/agent.toml");
    let parsed: Config = runtime::config::load(Some(&sample), [].into_iter(), "T_").unwrap();
    assert_eq!(parsed, Config::default());
    parsed.check().unwrap();
}

#[test]
fn unknown_setting_is_an_error() {
    assert!(toml::from_str::<Config>("[host]\narmed = true\n").is_err());
}

#[test]
fn agent_that_nobody_armed_is_not_armed() {
    let config = Config::default();
    assert!(!config.is_armed());
    assert_ne!(config.host().arming, Arming::Armed);
}

#[test]
fn sandbox_cannot_power_the_machine_off() {
    let mut config = Config::default();
    config.host.arming = ArmingConfig::Simulated;
    assert_eq!(config.check(), Err(InvalidConfig::Power));
    config.host.power = PowerConfig::Record(PathBuf::from("/tmp/power"));
    assert_eq!(config.check(), Ok(()));
    config.host.arming = ArmingConfig::Sandboxed;
    assert_eq!(config.check(), Err(InvalidConfig::Sandbox));
}

#[test]
fn intervals_of_zero_and_addresses_without_port_are_refused() {
    let mut config = Config::default();
    config.ladder.check_in = Duration::ZERO;
    assert_eq!(config.check(), Err(InvalidConfig::Zero("check_in")));
    let mut config = Config::default();
    config.addresses.hubs = vec!["hub.example".to_owned()];
    assert_eq!(config.check(), Err(InvalidConfig::Address("hub.example".to_owned())));
}
