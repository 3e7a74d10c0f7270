//! One device on two hubs of one bus: the session of the later epoch stays, the other is closed.

use std::time::Duration;

use broker::{Broker as _, Presence};
use protocol::close::CloseCode;
use protocol::id::DeviceId;
use protocol::state::Lane;
use push_hub::Config;

use crate::support::{Agent, GUARD, PAUSE, World, command, command_id, config};

/// Where the bus says that the device is.
async fn place(world: &World, device: DeviceId) -> Option<Presence> {
    world.broker.locate(&[device]).await.unwrap().remove(0)
}

/// Waits until the bus has that device on that hub.
async fn located(world: &World, device: DeviceId, hub: &str) -> Presence {
    let waiting = async {
        loop {
            match place(world, device).await {
                Some(found) if found.hub.as_str() == hub => return found,
                Some(_) | None => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::time::timeout(GUARD, waiting).await.expect("the device is located")
}

async fn is_replaced(agent: &mut Agent) {
    assert_eq!(agent.closed().await, Some(CloseCode::Replaced.number()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_session_on_another_hub_closes_the_earlier_at_once() {
    let first = World::new().await;
    let second = first.beside("other").await;
    let device = first.device(1);
    let mut older = device.connect_at(10).await;
    located(&first, device.id, "hub").await;
    let mut newer = device.at(&second).connect_at(11).await;
    is_replaced(&mut older).await;
    located(&first, device.id, "other").await;
    first.sessions(0).await;
    // Its departure took nothing of the newer one.
    assert_eq!(located(&first, device.id, "other").await.epoch, 11);
    let frames = vec![command(1, Lane::Urgent, 10)];
    let part = broker::Downstream::Deliver { device: device.id, frames };
    let other = "other".parse().unwrap();
    assert_eq!(first.broker.publish(&other, vec![part]).await.unwrap(), 1);
    assert_eq!(newer.commands(1).await, [command_id(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_arrives_late_is_closed_and_the_later_stays() {
    let first = World::new().await;
    let second = first.beside("other").await;
    let device = first.device(1);
    let _newer = device.at(&second).connect_at(11).await;
    let stands = located(&first, device.id, "other").await;
    let mut late = device.greet_at(10).await;
    is_replaced(&mut late).await;
    first.sessions(0).await;
    assert_eq!(place(&first, device.id).await, Some(stands));
    assert_eq!(second.hub.sessions(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_hello_of_an_earlier_epoch_on_the_same_hub_is_closed() {
    let world = World::new().await;
    let device = world.device(1);
    let _newer = device.connect_at(11).await;
    let stands = located(&world, device.id, "hub").await;
    let mut late = device.greet_at(10).await;
    is_replaced(&mut late).await;
    assert_eq!(world.hub.sessions(), 1);
    assert_eq!(place(&world, device.id).await, Some(stands));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_that_was_lost_is_back_by_itself() {
    let reassert_every = Duration::from_millis(100);
    let world = World::with(Config { reassert_every, ..config() }).await;
    let devices: Vec<_> = (1..=3).map(|n| world.device(n)).collect();
    let mut agents = Vec::new();
    for device in &devices {
        agents.push(device.connect_at(10).await);
    }
    for device in &devices {
        let stands = located(&world, device.id, "hub").await;
        assert!(world.broker.depart(device.id, &stands).await.unwrap());
        assert_eq!(located(&world, device.id, "hub").await, stands);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn earlier_session_whose_hub_was_not_told_is_found_out() {
    let first = World::new().await;
    let reassert_every = Duration::from_millis(100);
    let device = first.device(1);
    let waiting = World::with_bus(
        Config { name: "slow".parse().unwrap(), reassert_every, ..config() },
        first.broker.clone(),
        first.broker.clone(),
    )
    .await;
    let mut older = waiting.device(1).connect_at(10).await;
    located(&first, device.id, "slow").await;
    // A later session arrives elsewhere, and the word that the earlier is over is lost.
    let lease = first.broker.hubs().await.unwrap();
    let lease = lease.iter().find(|lease| lease.hub.as_str() == "hub").unwrap();
    let session = protocol::id::SessionId::from_uuid(uuid::Uuid::from_u128(7));
    first.broker.arrive(device.id, Presence::new(lease, session, 11)).await.unwrap();
    is_replaced(&mut older).await;
}
