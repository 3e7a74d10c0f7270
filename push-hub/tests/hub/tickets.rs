//! Sessions of TLS that are resumed where they did not begin, and who is refused all the same.

use std::time::Duration;

use broker::{Broker as _, Downstream};
use protocol::close::CloseCode;
use push_hub::Config;
use runtime::Clock;
use runtime::config::Secret;
use runtime::tls::TicketConfig;

use crate::support::{Device, World, close_header, config, refusal};

const SECRET: &str = "secret-of-the-hubs-0123456789-abcdef";
const DAY: Duration = Duration::from_secs(86_400);

fn sharing(name: &str, secret: &str) -> Config {
    let tickets = TicketConfig { secret: Some(Secret::inline(secret)), ..TicketConfig::default() };
    Config { name: name.parse().unwrap(), tickets, ..config() }
}

/// Whether a session that begins there is a resumed one. It works in any case.
async fn resumes(device: &Device, at: &World) -> bool {
    let (stream, resumed) = device.at(at).dial(None).await;
    drop(stream);
    device.at(at).connect().await;
    resumed
}

/// A device that has a ticket of the hub.
async fn known(world: &World) -> Device {
    let device = world.device(1);
    drop(device.connect().await);
    device
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_resumes_on_another_hub_and_after_a_restart() {
    let first = World::with(sharing("hub", SECRET)).await;
    let second = first.beside_with(sharing("other", SECRET), Clock::system()).await;
    let device = known(&first).await;
    assert!(resumes(&device, &second).await);
    // A drain gives the name back, which the next life of the hub takes.
    first.hub.drain(Duration::ZERO).await;
    let again = second.beside_with(sharing("hub", SECRET), Clock::system()).await;
    assert!(resumes(&device, &again).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_with_another_secret_or_none_makes_a_full_handshake_and_serves() {
    let first = World::with(sharing("hub", SECRET)).await;
    let stranger = "secret-of-strangers-0123456789-abcdef";
    let other = first.beside_with(sharing("other", stranger), Clock::system()).await;
    let alone = first.beside("alone").await;
    for world in [&other, &alone] {
        let device = known(&first).await;
        assert!(!resumes(&device, world).await);
        assert!(resumes(&device, world).await, "its own tickets are good");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_resumes_through_a_change_of_keys_and_not_for_ever() {
    let first = World::with(sharing("hub", SECRET)).await;
    for (days, resumed) in [(1, true), (6, true), (8, false)] {
        let (clock, hand) = Clock::manual();
        hand.set_unix_millis(Clock::system().unix_millis());
        hand.advance(DAY * days);
        let config = sharing(&format!("later-{days}"), SECRET);
        let later = first.beside_with(config, clock).await;
        let device = first.device_for(1, 30 * 86_400);
        drop(device.connect().await);
        assert_eq!(resumes(&device, &later).await, resumed, "{days} days later");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_device_is_refused_when_it_resumes_at_another_hub() {
    let first = World::with(sharing("hub", SECRET)).await;
    let second = first.beside_with(sharing("other", SECRET), Clock::system()).await;
    let device = known(&first).await;
    // The same device with a ticket of nobody: the end of its session says that the hub has heard.
    let mut live = second.device(1).connect().await;
    let revoke = Downstream::Revoke { device: device.id, through_generation: 1 };
    let other = "other".parse().unwrap();
    assert_eq!(second.broker.publish(&other, vec![revoke]).await.unwrap(), 1);
    assert_eq!(live.closed().await, Some(CloseCode::Revoked.number()));
    let (stream, resumed) = device.at(&second).dial(None).await;
    assert!(resumed, "TLS itself does not look");
    let refused = refusal(stream).await;
    assert_eq!((refused.status().as_u16(), close_header(&refused)), (403, Some("4006")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_past_its_end_is_refused_when_resumed_at_another_hub() {
    let first = World::with(sharing("hub", SECRET)).await;
    let device = known(&first).await;
    let (clock, hand) = Clock::manual();
    hand.set_unix_millis(Clock::system().unix_millis());
    hand.advance(2 * DAY);
    let later = first.beside_with(sharing("other", SECRET), clock).await;
    let (stream, resumed) = device.at(&later).dial(None).await;
    assert!(resumed);
    let refused = refusal(stream).await;
    assert_eq!((refused.status().as_u16(), close_header(&refused)), (403, Some("4007")));
}
