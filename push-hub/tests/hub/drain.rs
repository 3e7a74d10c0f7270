//! The end of a hub: agents are told, frames get out, nothing is left behind.

use std::collections::BTreeSet;
use std::time::Duration;

use broker::Broker as _;
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, HubFrame, POLL_PATH};
use push_hub::Config;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{GUARD, World, close_header, command_id, config, dial, upstream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_sends_agents_elsewhere_and_ends_when_they_have_gone() {
    let others = vec!["hub-2.example:8443".to_owned()];
    let world = World::with(Config { other_hubs: others.clone(), ..config() }).await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let mut agent = device.connect().await;
    world.drain.begin(GUARD);
    let HubFrame::Reconnect(reconnect) = agent.frame().await else { panic!("no reconnect") };
    assert_eq!(reconnect.hubs, others);
    assert!(reconnect.after_ms < 20_000);
    assert_eq!(world.readiness.unmet(), ["agent_port"]);
    // What an agent says on its way out still arrives.
    let ack = AgentFrame::Ack { command_id: command_id(1) };
    agent.say(&ack).await;
    agent.send(Message::Close(None)).await;
    tokio::time::timeout(GUARD, world.hub.finished()).await.expect("the hub ends");
    upstream(&mut reader, |message| message.frame == ack).await;
    assert_eq!(world.broker.hubs().await.unwrap(), []);
    assert!(dial(world.addr, device.tls.clone(), None).await.is_err(), "the hub is not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_stay_are_closed_at_the_deadline() {
    let world = World::new().await;
    let mut agent = world.device(1).connect().await;
    let drained = world.hub.drain(Duration::from_millis(50));
    let (_, code) = tokio::join!(drained, agent.closed());
    assert_eq!(code, Some(CloseCode::Drain.number()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_hub_lets_go_of_its_agents() {
    let world = World::new().await;
    let mut agent = world.device(1).connect().await;
    drop(world.hub);
    assert_eq!(agent.closed().await, Some(CloseCode::Drain.number()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_that_comes_during_the_drain_is_told_when_to_come_back_and_where_to_go() {
    let others = ["https://hub-2.example:7444", "https://hub-3.example:7444"].map(str::to_owned);
    let world = World::with(Config { other_hubs: others.to_vec(), ..config() }).await;
    let mut agent = world.device(1).connect().await;
    world.drain.begin(GUARD);
    let HubFrame::Reconnect(_) = agent.frame().await else { panic!("no reconnect") };
    let late = world.device(2);
    for _ in 0..2 {
        let refused = late.refusal().await;
        assert_eq!((refused.status().as_u16(), close_header(&refused)), (503, Some("4008")));
        let header = |name: &str| refused.headers().get(name).unwrap().to_str().unwrap();
        assert!((5..=10).contains(&header("retry-after").parse::<u64>().unwrap()));
        let named: BTreeSet<_> = header("tocsin-hubs").split(", ").collect();
        assert_eq!(named, others.iter().map(String::as_str).collect());
    }
    let (head, _) = late.request("POST", POLL_PATH, "{}").await;
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after"), "{head}");
    // Once the last session has gone, so has the port.
    agent.send(Message::Close(None)).await;
    tokio::time::timeout(GUARD, world.hub.finished()).await.expect("the hub ends");
    assert!(dial(world.addr, late.tls.clone(), None).await.is_err(), "the hub is not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_sessions_are_sent_away_faster_than_the_spread_allows() {
    let world = World::with(Config { drain_spread: Duration::from_secs(3600), ..config() }).await;
    let mut agents = Vec::new();
    for number in 1..=4 {
        agents.push(world.device(number).connect().await);
    }
    world.drain.begin(GUARD);
    for agent in &mut agents {
        let HubFrame::Reconnect(reconnect) = agent.frame().await else { panic!("no reconnect") };
        assert!(reconnect.after_ms < 1000, "{reconnect:?}");
    }
}
