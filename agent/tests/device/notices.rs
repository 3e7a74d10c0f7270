//! What happens to a command's effect without an order reaches the control plane.

use agent::config::ArmingConfig;
use protocol::action::{Action, Quarantine};
use protocol::frame::{AgentFrame, HubFrame};
use protocol::notice;
use protocol::receipt::Outcome;

use crate::bench::{Bench, confirmed};
use crate::netns::Lan;

fn is_notice(frame: &AgentFrame) -> bool {
    matches!(frame, AgentFrame::Notice { .. })
}

#[test]
fn tampering_is_told_and_repeated_until_it_is_confirmed() {
    let lan = Lan::new();
    lan.endpoint.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new();
            bench.config.host.arming = ArmingConfig::Sandboxed;
            bench.config.host.root = bench.config.state_dir.with_file_name("root");
            bench.config.host.dbus = Some(String::new());
            std::fs::create_dir(&bench.config.host.root).unwrap();
            let mut server = bench.server().await;
            let agent = bench.start();
            let mut hub = server.session().await;
            let quarantine = Action::Quarantine(Quarantine { allow: Vec::new(), resolver: false });
            let command = bench.command(1, quarantine, 1);
            hub.send(HubFrame::Command(command.clone())).await;
            let receipt = hub.receipt().await;
            let outcome = bench.receipt(&receipt).outcome;
            assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
            hub.send(confirmed(&receipt)).await;

            let nft = std::process::Command::new("nft").args(["flush", "ruleset"]).status();
            assert!(nft.unwrap().success());
            let first = hub.wait_for(is_notice).await;
            assert_eq!(hub.wait_for(is_notice).await, first, "until it is confirmed");
            let AgentFrame::Notice { command_id, jws } = first else { unreachable!("a notice") };
            assert_eq!(command_id, command.command_id);
            let said = notice::verify(&jws, &bench.key).unwrap();
            assert_eq!((said.command_id, &*said.what), (command_id, "quarantine_flushed"));
            hub.send(HubFrame::Confirmed { receipts: vec![jws.sha256()] }).await;
            agent.drain().await.unwrap();
        });
    });
}
