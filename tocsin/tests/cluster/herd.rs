//! Everybody at once against a hub that lets few in at a time.

use crate::site::Site;

/// Devices of the herd.
const HERD: u32 = 300;
/// What the hub lets in at once, and in a second.
const ADMISSION: &str = "handshakes_per_sec = 60\nhandshake_burst = 60\n";
/// Attempts that a device with a full jitter may need on average: its ceiling doubles from half a
/// second, and all are in after seconds. A loop without a pause makes thousands.
const ATTEMPTS: f64 = 10.0;

#[test]
fn herd_that_is_cut_all_at_once_gets_in_again_without_a_tight_loop() {
    let site = Site::with(1, ADMISSION);
    let connections = || site.hubs[0].metric("tocsin_push_hub_connections_total", "");
    let refused =
        || site.hubs[0].metric("tocsin_push_hub_admission_refusals_total", "\"handshakes\"");
    let herd = HERD.to_string();
    // It ends well only when every device has come to stand, twice.
    let at_once = format!("population.connecting={HERD}");
    let options = [
        ("--connections", &*herd),
        ("--secs", "0"),
        ("--orders", "1"),
        ("--set", "phase.storm.cut_at_secs=0"),
        ("--set", &*at_once),
    ];
    let load = site.load("storm", &options);
    let report = load.join().expect("the load ends");
    let back = report.rates.back_secs.expect("all were cut, and all came back");
    println!("{HERD} devices back after {back:.1} s");
    let attempts = connections() / f64::from(HERD) / 2.0;
    println!("{attempts:.1} attempts each, {} refused", refused());
    assert!(refused() > 0.0, "the limit was met");
    assert!(attempts < ATTEMPTS, "{attempts} attempts each");
}
