//! A machine that sleeps, as far as that can be had: the clock that counts sleep jumps, and the other
//! goes on. Really putting it to sleep would take the test with it.

use std::time::Duration;

use protocol::fixture::lock;
use protocol::frame::HubFrame;

use crate::bench::{Bench, GUARD, until};

/// How often the hub says something.
const BEAT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn f16_machine_that_slept_opens_its_session_anew_before_anybody_misses_it() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let root = bench.config.state_dir.with_file_name("root");
    std::fs::create_dir_all(root.join("proc")).unwrap();
    let since_boot = |secs: u32| {
        std::fs::write(root.join("proc/fresh"), format!("{secs}.00 1.00\n")).unwrap();
        std::fs::rename(root.join("proc/fresh"), root.join("proc/uptime")).unwrap();
    };
    since_boot(1000);
    bench.config.host.root = root.clone();
    let agent = bench.start();
    let mut before = server.session().await;
    until(|| agent.status().ladder.session_id.is_some()).await;
    // Asleep for an hour. The session of before stands, and is never silent.
    since_boot(4600);
    let opened = async {
        let mut beat = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                after = server.session() => break after,
                _ = beat.tick() => before.send(HubFrame::Confirmed { receipts: Vec::new() }).await,
            }
        }
    };
    let mut after = tokio::time::timeout(GUARD, opened).await.expect("it opens another");
    assert!(after.hello.epoch > before.hello.epoch);
    let command = bench.command(1, lock(), 1);
    after.send(HubFrame::Command(command.clone())).await;
    after.receipt().await;
    assert_eq!(bench.effects(), [format!("lock {}", command.command_id)]);
    drop(before);
    agent.drain().await.unwrap();
}
