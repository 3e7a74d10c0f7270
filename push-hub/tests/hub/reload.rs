//! Settings that change while the hub runs: who is here stays, who comes next meets them.

use std::time::Duration;

use protocol::state::Lane;
use push_hub::Config;
use push_hub::config::AdmissionConfig;
use runtime::config::Secret;
use runtime::tls::TicketConfig;

use crate::support::{World, close_header, command, command_id, config};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_change_for_whoever_comes_next_and_no_session_ends() {
    let world = World::new().await;
    let (first, second, third) = (world.device(1), world.device(2), world.device(3));
    let mut staying = first.connect().await;
    let reload = world.hub.reload();
    let admission = AdmissionConfig { max_sessions: 1, ..config().admission };
    assert_eq!(reload.follow(&Config { admission, ..config() }).unwrap(), Vec::<&str>::new());
    let refused = second.refusal().await;
    assert_eq!((refused.status().as_u16(), close_header(&refused)), (503, Some("4009")));
    let brisk = Config { heartbeat: Duration::from_secs(7), ..config() };
    reload.follow(&brisk).unwrap();
    let mut coming = second.greet_at(0).await;
    assert_eq!(coming.welcome().await.heartbeat_secs, 7);
    reload.follow(&Config { websocket: false, ..config() }).unwrap();
    assert_eq!(third.refusal().await.status().as_u16(), 404);
    for (agent, device) in [(&mut staying, &first), (&mut coming, &second)] {
        world.deliver(device.id, vec![command(1, Lane::Bulk, 10)]).await;
        assert_eq!(agent.commands(1).await, [command_id(1)], "the very session of before");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_meant_change_nothing() {
    let world = World::new().await;
    let admission = AdmissionConfig { max_sessions: 0, ..config().admission };
    let wrong = Config { websocket: false, admission, ..config() };
    let error = world.hub.reload().follow(&wrong).unwrap_err();
    assert_eq!(error.key, "admission.max_sessions");
    world.device(1).connect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_take_a_restart_are_named_and_stay() {
    let world = World::new().await;
    let secret = Some(Secret::inline("secret-of-the-hubs-0123456789-abcdef"));
    let next = Config {
        name: "other".parse().unwrap(),
        listen: "127.0.0.1:1".parse().unwrap(),
        tickets: TicketConfig { secret, ..TicketConfig::default() },
        heartbeat: Duration::from_secs(7),
        ..config()
    };
    let reload = world.hub.reload();
    let restart = ["hub.name", "hub.listen", "hub.tickets"];
    assert_eq!(reload.follow(&next).unwrap(), restart);
    let (device, mut agent) = (world.device(1), world.device(1).greet_at(0).await);
    assert_eq!(agent.welcome().await.heartbeat_secs, 7, "the others count");
    // On the channel of its former name, which it has still.
    world.deliver(device.id, vec![command(1, Lane::Bulk, 10)]).await;
    assert_eq!(agent.commands(1).await, [command_id(1)]);
    assert_eq!(reload.follow(&next).unwrap(), restart, "and are named again");
}
