//! What happens to a command's effect without an order reaches the control plane.

use std::time::Duration;

use protocol::action::{Action, Quarantine};
use protocol::frame::{AgentFrame, HubFrame};
use protocol::notice;
use protocol::receipt::Outcome;
use protocol::time::Timestamp;

use crate::bench::{Bench, confirmed, now};
use crate::netns::Lan;

/// How long a quarantine that ends by itself stands.
const LONG: Duration = Duration::from_secs(600);

fn is_notice(frame: &AgentFrame) -> bool {
    matches!(frame, AgentFrame::Notice { .. })
}

#[test]
fn tampering_is_told_and_repeated_until_it_is_confirmed() {
    let lan = Lan::new();
    lan.endpoint.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::sandboxed();
            let mut server = bench.server().await;
            let agent = bench.start();
            let mut hub = server.session().await;
            let quarantine =
                Action::Quarantine(Quarantine { allow: Vec::new(), resolver: false, until: None });
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

/// Whether the tables of a quarantine stand.
pub(crate) fn stands() -> bool {
    let listed =
        std::process::Command::new("nft").args(["list", "table", "inet", "tocsin"]).output();
    listed.unwrap().status.success()
}

#[test]
fn quarantine_ends_by_itself_at_its_signed_end_and_says_so_also_after_a_restart() {
    let lan = Lan::new();
    lan.endpoint.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::sandboxed();
            bench.config.ladder.uphold = Duration::from_millis(200);
            let mut server = bench.server().await;
            let (clock, hand) = runtime::Clock::manual();
            hand.set_unix_millis(now().as_millis());
            let start = || {
                let entropy = runtime::Entropy::system();
                let deps =
                    agent::Deps { clock: clock.clone(), entropy, drain: runtime::Drain::new() };
                agent::Agent::start(bench.config.clone(), deps).unwrap()
            };
            let agent = start();
            let mut hub = server.session().await;
            // By the agent's clock, which stands still while the machine's goes on.
            let until = Some(Timestamp::from_millis(clock.unix_millis()).plus(LONG));
            let quarantine = Quarantine { allow: Vec::new(), resolver: false, until };
            let command = bench.command(1, Action::Quarantine(quarantine), 1);
            hub.send(HubFrame::Command(command.clone())).await;
            let receipt = hub.receipt().await;
            let outcome = bench.receipt(&receipt).outcome;
            assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
            hub.send(confirmed(&receipt)).await;
            drop(hub);
            agent.drain().await.unwrap();
            assert!(stands(), "an agent that ends leaves it");

            // It is put up again as it was, and ends as soon as somebody looks.
            let agent = start();
            hand.advance(LONG);
            let mut hub = server.session().await;
            let notice = hub.wait_for(is_notice).await;
            let AgentFrame::Notice { command_id, jws } = notice else { unreachable!("a notice") };
            assert_eq!(command_id, command.command_id);
            assert_eq!(notice::verify(&jws, &bench.key).unwrap().what, "quarantine_ended");
            assert!(!stands());
            hub.send(HubFrame::Confirmed { receipts: vec![jws.sha256()] }).await;
            agent.drain().await.unwrap();
            let agent = start();
            assert!(!stands(), "and it does not come back");
            agent.drain().await.unwrap();
        });
    });
}
