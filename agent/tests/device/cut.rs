//! How long a whole agent takes to cut its device off, and to cut it off again: its own process, a hub by
//! name over mutual TLS, the journal on disk. Nothing depends on the lengths; they are told.

use std::net::SocketAddr;

use protocol::action::{self, Action};
use protocol::frame::HubFrame;
use protocol::receipt::Outcome;
use runtime::Clock;

use crate::bench::{Bench, confirmed, until};
use crate::names::{Endpoint, HUB_NAME, on_a_lan, server};
use crate::netns::{ELSEWHERE, HUB, Netns, Sender, rounds, told};
use crate::server::HubSide;

const TABLES: &str = "table inet tocsin\ntable inet tocsin_canary\ntable netdev tocsin\n";

/// An order that is carried out, and confirmed.
async fn order(bench: &Bench, session: &mut HubSide, (number, action): (u8, Action)) {
    let command = bench.command(number, action, u64::from(number));
    let id = command.command_id;
    session.send(HubFrame::Command(command)).await;
    let receipt = session.receipt_of(id).await;
    let outcome = bench.receipt(&receipt).outcome;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    session.send(confirmed(&receipt)).await;
}

async fn measured(endpoint: Netns) -> [String; 4] {
    let (bench, clock) = (Bench::new(), Clock::system());
    let mut hub = server(&bench, HUB_NAME, format!("{}:0", HUB[0]).parse().unwrap()).await;
    let endpoint = Endpoint::new(endpoint, &bench, hub.address.port());
    let to: SocketAddr = format!("{}:9", ELSEWHERE[0]).parse().unwrap();
    let mut agent = endpoint.agent("run");
    let mut session = hub.session().await;
    let [mut cut, mut proven, mut flushed, mut started] = [const { Vec::new() }; 4];
    for round in 0..rounds() {
        let quarantine = action::Quarantine { allow: Vec::new(), resolver: false, until: None };
        let sender = Sender::new(&endpoint.machine, to);
        let begin = clock.now();
        order(&bench, &mut session, (2 * round + 1, Action::Quarantine(quarantine))).await;
        proven.push(clock.now().saturating_duration_since(begin));
        cut.push(sender.sent_after(begin));

        // The agent is there.
        let sender = Sender::new(&endpoint.machine, to);
        let begin = clock.now();
        endpoint.machine.command("nft", &["flush", "ruleset"]);
        until(|| endpoint.tables() == TABLES).await;
        flushed.push(sender.sent_after(begin));

        // It is not, and comes back.
        agent.kill();
        endpoint.machine.command("nft", &["flush", "ruleset"]);
        let sender = Sender::new(&endpoint.machine, to);
        let begin = clock.now();
        agent = endpoint.agent("run");
        until(|| endpoint.tables() == TABLES).await;
        started.push(sender.sent_after(begin));

        session = hub.session().await;
        order(&bench, &mut session, (2 * round + 2, Action::Release(action::Release {}))).await;
    }
    agent.kill();
    [
        told("from the order to the cut", cut),
        told("from the order to its receipt", proven),
        told("open after a flush", flushed),
        told("open from the start of an agent that was killed and flushed", started),
    ]
}

/// To measure: `TOCSIN_TEST_ROUNDS=100`, and `--no-capture`.
#[test]
fn agent_cuts_its_device_off_and_after_every_flush_again_and_the_times_are_told() {
    on_a_lan(measured).iter().for_each(|line| println!("{line}"));
}
