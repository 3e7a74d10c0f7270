//! Urgent commands wait for nothing, and what a device just got is not put off.

use std::time::Duration;

use super::actors::{ack, commands, id_of};
use super::bench::Bench;
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
