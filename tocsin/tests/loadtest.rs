//! The load harness against a real platform: its swarm enrolls, obeys, and is revoked again.

use clap::Parser as _;
use loadtest::cli::Cli;
use loadtest::live::Live;
use loadtest::run;
use runtime::Drain;
use tocsin::platform::{Config, Platform};
use tokio::sync::watch;

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
    let line =
        ["tocsin-loadtest", "unicast", "--platform", "given", "--api", &api, "--ca", authority];
    let size = ["--connections", "5", "--orders", "40", "--rate", "100/s", "--secs", "0"];
    let token = ["--token", first.token.expose()];
    let cli = Cli::parse_from([&line[..], &size, &token].concat());
    let plan = cli.run.plan().expect("a sound plan");
    let options = cli.run.options(&plan).expect("sound options");
    let (live, load) = (watch::Sender::new(Live::default()), Drain::new());
    let run = Box::pin(run::run(&plan, &options, &live, &load));
    let report = run.await.expect("the scenario runs");
    assert!(report.is_good(), "{report}");
    let counts = &report.counts;
    assert_eq!((counts.ordered, counts.acked, counts.confirmed), (40, 40, 40), "{report}");
    assert_eq!((counts.lost, counts.doubled), (0, 0), "{report}");
    assert!(report.hub.is_none(), "nobody said which process has the hub");
    platform.drain(std::time::Duration::from_secs(2)).await.expect("drains");
}
