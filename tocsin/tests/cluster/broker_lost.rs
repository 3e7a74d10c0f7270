//! A broker that dies or hangs: sockets stay, orders go on, and push comes back by itself.

use crate::operator::eventually;
use crate::site::Site;

/// Devices of the load, and how often they are ordered something.
const AGENTS: f64 = 20.0;
const RATE: &str = "20/s";
const ORDERS: &str = "200";
/// Orders that must be accepted while the broker hangs.
const MEANWHILE: usize = 60;

#[test]
fn orders_go_on_by_check_in_while_redis_is_dead_and_push_comes_back_by_itself() {
    let mut site = Site::new(1);
    let device = site.device("web-1");
    site.on_one_of(&device, &[0]);
    let session = site.session(&device);
    site.redis.kill();
    eventually("the hub says that it does not push", || {
        let (status, why) = site.hubs[0].admin("/readyz");
        (status == "503" && why.contains("broker")).then_some(())
    });
    // The device is told to poll, and checks in although it has a session.
    site.obey_in_bulk(std::slice::from_ref(&device));
    assert_eq!(site.session(&device), session, "the socket has stayed");

    site.redis.restart();
    site.hubs[0].is_ready();
    site.online("web-1");
    let pushed = || site.api.metric("tocsin_api_deliveries_total", "outcome=\"taken\"");
    let before = pushed();
    site.obey_in_bulk(std::slice::from_ref(&device));
    assert!(pushed() > before, "it went through the hub again");
    assert_eq!(site.session(&device), session, "the socket has stayed");
}

#[test]
fn order_is_accepted_while_the_broker_does_not_answer() {
    let site = Site::new(1);
    let device = site.device("web-1");
    site.on_one_of(&device, &[0]);
    // Not a refusal, which would be quick: its sockets stay open, and nothing comes back.
    site.redis.pause();
    let command = site.order("lock", "web-1");
    assert!(site.command(&command)["id"].is_string());
    site.redis.resume();
    assert_eq!(site.ended(&command)["state"], "succeeded");
    assert_eq!(device.effects(&command), 1);
}

#[test]
fn answers_do_not_wait_for_a_broker_that_hangs_and_nothing_is_lost_by_it() {
    let site = Site::new(1);
    let agents = AGENTS.to_string();
    let options =
        [("--connections", &*agents), ("--secs", "0"), ("--orders", ORDERS), ("--rate", RATE)];
    let load = site.load("unicast", &options);
    let accepted = || site.json(&["commands"])["items"].as_array().map_or(0, Vec::len);
    // Not later: of the orders so many must be left as are looked for.
    let sessions = || site.hubs[0].metric("tocsin_push_hub_sessions", "");
    eventually("its agents are there", || (sessions() >= AGENTS).then_some(()));
    site.redis.pause();
    let before = accepted();
    eventually("orders are accepted all the same", || {
        (accepted() >= before + MEANWHILE).then_some(())
    });
    site.redis.resume();
    let report = load.join().expect("the load ends");
    println!("{report}");
    let counts = &report.counts;
    assert_eq!((counts.failed, counts.lost, counts.doubled), (0, 0, 0), "{report}");
    assert_eq!(counts.confirmed, counts.ordered, "{report}");
}
