//! Hubs that are restarted one after the other while orders flow. `TOCSIN_ROLLING_RATE` and
//! `TOCSIN_ROLLING_ORDERS` make more of them flow, for the figures of docs/BENCHMARKS.md;
//! `TOCSIN_ROLLING_RESTARTS` ends the restarts after as many, where they would go on with the load.

use crate::site::Site;

/// Orders per second, and how many: long enough for three hubs to go and to come.
const RATE: &str = "100/s";
const ORDERS: &str = "2000";

#[test]
fn rolling_restart_of_three_hubs_loses_nothing_and_doubles_nothing() {
    let mut site = Site::new(3);
    let real: Vec<_> = (1..=3).map(|number| site.device(&format!("web-{number}"))).collect();
    let given: Vec<_> = real.iter().map(|device| site.order("lock", &device.name)).collect();
    let setting =
        |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let orders = setting("TOCSIN_ROLLING_ORDERS", ORDERS);
    let rate = setting("TOCSIN_ROLLING_RATE", RATE);
    let options =
        [("--connections", "50"), ("--secs", "0"), ("--orders", &*orders), ("--rate", &*rate)];
    let most = setting("TOCSIN_ROLLING_RESTARTS", "1000").parse().expect("a number of restarts");
    let load = site.load("unicast", &options);
    let (mut rounds, mut under_load) = (0, 0);
    while rounds < most && (rounds < 3 || !load.is_finished()) {
        let hub = rounds % site.hubs.len();
        under_load += u32::from(!load.is_finished());
        assert!(site.hubs[hub].drain().success(), "hub {hub} drains");
        site.start_again(hub);
        rounds += 1;
    }
    assert!(under_load > 0, "the load was over before the first of {rounds} restarts");
    let report = load.join().expect("the load ends");
    println!("{rounds} restarts\n{report}");
    let counts = &report.counts;
    assert_eq!(counts.acked, counts.ordered, "{report}");
    assert_eq!(counts.confirmed, counts.ordered, "{report}");
    assert_eq!((counts.lost, counts.doubled), (0, 0), "{report}");
    for (device, command) in real.iter().zip(&given) {
        assert_eq!(site.ended(command)["state"], "succeeded");
        assert_eq!(device.effects(command), 1);
    }
    site.obey(&real);
}
