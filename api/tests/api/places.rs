//! Devices that move from hub to hub: where the control plane sends what it has for them.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::actors::{ack, id_of};
use super::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn device_that_says_hello_elsewhere_is_reached_there() {
    let bench = Bench::start().await;
    let agent = bench.agent("web-17", None).await;
    let (mut first, mut second) = (bench.hub("hub-1").await, bench.hub("hub-2").await);
    first.arrive(agent.id, bench.session()).await;
    bench.order("lock", &[agent.id]).await;
    first.command_for(agent.id).await;

    second.arrive(agent.id, bench.session()).await;
    second.say(&agent, vec![agent.hello()]).await;
    // What is pending comes in answer to the hello; from then on the new place is known.
    let pending = second.command_for(agent.id).await;
    second.say(&agent, vec![ack(&pending)]).await;
    let created = bench.order("unlock", &[agent.id]).await;
    let command = second.command_for(agent.id).await;
    assert_eq!(created["commands"][0]["id"], id_of(&command));
    assert!(first.next().now_or_never().is_none(), "the former hub was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn place_where_nobody_listens_is_looked_up_again() {
    let bench = Bench::start().await;
    let agent = bench.agent("web-17", None).await;
    let (mut first, mut second) = (bench.hub("hub-1").await, bench.hub("hub-2").await);
    first.arrive(agent.id, bench.session()).await;
    bench.order("lock", &[agent.id]).await;
    let command = first.command_for(agent.id).await;
    first.say(&agent, vec![ack(&command)]).await;
    bench.until_state(&id_of(&command), "acked").await;

    drop(first);
    second.arrive(agent.id, bench.session()).await;
    bench.order("unlock", &[agent.id]).await;
    let command = second.command_for(agent.id).await;
    bench.until_state(&id_of(&command), "sent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivery_never_guesses() {
    let bench = Bench::start().await;
    let agent = bench.agent("web-17", None).await;
    let (mut first, mut second) = (bench.hub("hub-1").await, bench.hub("hub-2").await);
    first.arrive(agent.id, bench.session()).await;
    bench.order("lock", &[agent.id]).await;
    let command = first.command_for(agent.id).await;
    bench.until_state(&id_of(&command), "sent").await;
    // It moves, and this node hears nothing of it.
    second.arrive(agent.id, bench.session()).await;
    bench.hand.advance(Duration::from_secs(3));
    assert_eq!(second.command_for(agent.id).await.command_id, command.command_id);
    assert!(first.next().now_or_never().is_none(), "the former hub was asked again");
}
