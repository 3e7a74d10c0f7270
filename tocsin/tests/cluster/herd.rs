//! Everybody at once against a hub that lets few in at a time.

use clap::Parser as _;
use loadtest::cli::Cli;
use loadtest::report::Findings;
use loadtest::scenario;
use runtime::Drain;

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
    let (herd, api) = (HERD.to_string(), site.api.said("operator_url"));
    let ca = site.path("data/authority.pem").display().to_string();
    let token = site.token();
    let cli = Cli::parse_from([
        "tocsin-loadtest",
        "connect",
        "--api",
        &api,
        "--ca",
        &ca,
        "--token",
        &token,
        "--agents",
        &herd,
        "--connecting",
        &herd,
    ]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let report = runtime.block_on(scenario::run(&cli, &Drain::new()));
    // It ends well only when every device has come to stand, twice.
    let report = report.unwrap_or_else(|error| panic!("{error:?}"));
    let Findings::Connect(found) = &report.findings else { panic!("no waves: {report}") };
    println!("{} devices back after {:.1} s", HERD, found.storm.secs);
    let attempts = connections() / f64::from(HERD) / 2.0;
    println!("{attempts:.1} attempts each, {} refused", refused());
    assert!(refused() > 0.0, "the limit was met");
    assert!(attempts < ATTEMPTS, "{attempts} attempts each");
}
