//! Tests of the settings' defaults and rules.

use super::Config;

#[test]
fn defaults_are_valid() {
    assert_eq!(Config::default().validate(), Ok(()));
}

#[test]
fn keys_out_of_bounds_are_named() {
    for (text, key) in [
        ("heartbeat = \"60s\"", "dead_after"),
        ("poll_hold = \"2m\"", "poll_hold"),
        ("[tickets]\nrotate_every = \"48h\"", "tickets.rotate_every"),
        ("[socket]\nmax_message_bytes = 1000000", "socket.max_message_bytes"),
        ("[socket]\ncontrols_per_sec = 0", "socket.controls_per_sec"),
        ("[admission]\nmax_sessions = 0", "admission.max_sessions"),
        ("other_hubs = [\"hub-2\"]", "other_hubs"),
        ("other_hubs = [\"https://a:1, https://b:2\"]", "other_hubs"),
    ] {
        let config: Config = toml::from_str(text).expect(text);
        assert_eq!(config.validate().expect_err(text).key, key);
    }
}

#[test]
fn unknown_keys_are_refused() {
    for text in ["heart_beat = 25", "[socket]\ncompression = true"] {
        assert!(toml::from_str::<Config>(text).is_err(), "{text}");
    }
}
