//! Urgent commands wait for nothing, and what a device just got is not put off.

use std::future::{Future as _, poll_fn};
use std::task::Poll;
use std::time::Duration;

use api::audit::Actor;
use api::db::Rank;
use protocol::frame::AgentFrame;
use protocol::id::CommandId;
use protocol::state::Lane;

use super::actors::{ack, commands, id_of};
use super::bench::{Bench, GUARD, PAUSE};
use super::gate::Held;

#[tokio::test(flavor = "multi_thread")]
async fn urgent_command_leaves_while_the_broker_holds_bulk_ones() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;
    bench.gate.hold(Held::PublishingBulk);
    let bulk = bench.order("refresh", &[agent.id]).await["commands"][0]["id"].clone();
    bench.gate.until_one_waits().await;
    let urgent = bench.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
    assert_eq!(id_of(&hub.command_for(agent.id).await), urgent);
    assert_eq!(bench.command(&bulk).await["state"], "queued");
    bench.gate.release();
    assert_eq!(id_of(&hub.command_for(agent.id).await), bulk);
}

/// The redelivery job asks where a device is, hears that it is away, and meanwhile the device has
/// come and got its command: that command's next delivery is soon, not in minutes.
#[tokio::test(flavor = "multi_thread")]
async fn command_whose_device_came_meanwhile_is_not_put_off() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut hub = bench.hub("hub-1").await;
    let id = bench.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
    bench.gate.until_one_was_located().await;
    bench.gate.hold(Held::Locating);
    bench.hand.advance(Duration::from_secs(3));
    bench.gate.until_one_waits().await;

    hub.say(&agent, vec![agent.hello()]).await;
    let told = commands(&hub.frames_for(agent.id).await);
    assert_eq!(told.len(), 1);
    assert_eq!(id_of(&told[0]), id);
    bench.until_state(&id, "sent").await;
    hub.arrive(agent.id, bench.session()).await;
    bench.gate.release();

    // It did not ack, so it is told again when its time has come.
    bench.hand.advance(Duration::from_secs(3));
    let again = hub.command_for(agent.id).await;
    assert_eq!(id_of(&again), id);
    hub.say(&agent, vec![ack(&again)]).await;
    bench.until_state(&id, "acked").await;
}

/// Yields until it is so.
async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_order_is_written_before_bulk_ones_that_asked_for_the_store_earlier() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let app = bench.api.app();
    let held = app.db.write(Actor::System, bench.now()).await.unwrap();
    let devices = [agent.id];
    let bulk =
        async { tokio::join!(bench.order("refresh", &devices), bench.order("refresh", &devices)) };
    let urgent = async {
        // One of the two is with the task that writes them, and the other waits behind it.
        until(|| app.intake.waiting(Lane::Bulk) == 1).await;
        until(|| app.db.waiting(Rank::InOrder) > 0).await;
        bench.order("lock", &devices).await
    };
    let release = async {
        until(|| app.db.waiting(Rank::First) == 1).await;
        drop(held);
    };
    let (bulk, urgent, ()) = tokio::join!(bulk, urgent, release);
    let created = bench.events("order_created").await;
    let order: Vec<_> = created.iter().map(|event| event["subject"].clone()).collect();
    assert_eq!(order.len(), 3);
    assert_eq!(order[0], urgent["order"]["id"], "{order:?}");
    assert!([&bulk.0, &bulk.1].iter().all(|bulk| order.contains(&bulk["order"]["id"])));
}

/// A transaction of somebody else between any two that take part: what many reports are written in
/// is seen half done.
#[tokio::test(flavor = "multi_thread")]
async fn many_reports_are_written_in_several_transactions() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;
    bench.order("lock", &[agent.id]).await;
    let first = hub.command_for(agent.id).await;
    bench.order("refresh", &[agent.id]).await;
    let last = hub.command_for(agent.id).await;

    let db = &bench.api.app().db;
    let mut held = db.write(Actor::System, bench.now()).await.unwrap();
    let unknown =
        || AgentFrame::Ack { command_id: CommandId::new(bench.now(), bench.entropy.bytes()) };
    let mut said = vec![ack(&first)];
    said.extend((0..600).map(|_| unknown()));
    said.push(ack(&last));
    hub.say(&agent, said).await;
    let state = async |id| bench.command(&id).await["state"].clone();
    while state(id_of(&first)).await != "acked" {
        // Asked for before the one before it ends: one transaction of others fits between them.
        let mut next = Box::pin(db.write(Actor::System, bench.now()));
        let is_asked =
            poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending())).await;
        assert!(is_asked, "the turn is ours");
        drop(held);
        held = next.await.unwrap();
    }
    assert_ne!(state(id_of(&last)).await, "acked");
    drop(held);
    bench.until_state(&id_of(&last), "acked").await;
}
