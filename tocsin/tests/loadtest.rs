//! The load harness against a real platform: its swarm enrolls, obeys, and is revoked again.

use clap::Parser as _;
use loadtest::cli::Cli;
use loadtest::report::Findings;
use loadtest::scenario::{self, Verdict};
use runtime::Drain;
use tocsin::platform::{Config, Platform};

/// A platform on free ports of loopback, in a folder that goes away with the test.
fn config(folder: &tempfile::TempDir) -> Config {
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut config = Config { admin_listen: any, ..Config::default() };
    config.api.data_dir = folder.path().join("data");
    config.api.operator_listen = any;
    config.api.agent_listen = any;
    config.api.server_names = vec!["127.0.0.1".to_owned()];
    config.hub.listen = any;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn swarm_acks_and_proves_every_order_of_a_real_platform() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let drain = Drain::new();
    let mut platform = Platform::start(config(&folder), drain.clone()).await.expect("starts");
    let authority = folder.path().join("authority.pem");
    std::fs::write(&authority, &platform.authority_pem).expect("written");
    let first = platform.first_start.take().expect("the first start");
    let api = format!("https://{}", platform.operator_addr);
    let authority = authority.to_str().expect("a plain path");
    let cli = Cli::parse_from([
        "tocsin-loadtest",
        "order-to-ack",
        "--api",
        &api,
        "--ca",
        authority,
        "--token",
        first.token.expose(),
        "--agents",
        "5",
        "--orders",
        "40",
        "--rate",
        "100/s",
    ]);
    let report = scenario::run(&cli, &Drain::new()).await.expect("the scenario runs");
    assert!(matches!(report.verdict(), Verdict::Good), "{report}");
    let Findings::OrderToAck(orders) = &report.findings else { panic!("not orders: {report}") };
    let counts = &orders.counts;
    assert_eq!((counts.ordered, counts.acked, counts.confirmed), (40, 40, 40), "{report}");
    assert_eq!((counts.lost, counts.doubled), (0, 0), "{report}");
    platform.drain(std::time::Duration::from_secs(2)).await.expect("drains");
}
