//! Hubs that die, sleep, share a device or get another certificate.

use std::fs;

use nix::sys::signal::Signal;
use runtime::Clock;

use crate::operator::{Device, eventually};
use crate::site::Site;

fn devices(site: &Site, count: usize) -> Vec<Device> {
    (1..=count).map(|number| site.device(&format!("web-{number}"))).collect()
}

#[test]
fn f05_agents_of_a_killed_hub_are_back_on_others_and_obey() {
    let mut site = Site::new(2);
    let devices = devices(&site, 3);
    let dead = site.on_one_of(&devices[0], &[0, 1]);
    let others = [1 - dead];
    let (clock, given) = (Clock::system(), site.order("lock", &devices[0].name));
    let killed_at = clock.now();
    site.hubs[dead].kill();
    for device in &devices {
        site.on_one_of(device, &others);
        site.online(&device.name);
    }
    println!("presence right {} ms after the kill", (clock.now() - killed_at).as_millis());
    // Whether or not it was on its way through the hub that died.
    assert_eq!(site.ended(&given)["state"], "succeeded");
    assert_eq!(devices[0].effects(&given), 1);
    site.obey(&devices);
    let cluster = site.json(&["cluster"]);
    assert_eq!(cluster["broker"]["delivers"], true, "{cluster}");
    assert_eq!((&cluster["devices"], &cluster["online"]), (&3.into(), &3.into()), "{cluster}");
    let hubs = cluster["hubs"].as_array().expect("hubs");
    let other = format!("hub-{}", others[0] + 1);
    let sessions = hubs.iter().find(|hub| hub["hub"] == other).map(|hub| &hub["sessions"]);
    assert_eq!(sessions, Some(&3.into()), "{cluster}");
    site.start_again(dead);
    site.obey(&devices);
}

#[test]
fn f06_hub_that_slept_beyond_its_lease_has_no_say_when_it_wakes() {
    let site = Site::new(2);
    let mut device = site.device("web-1");
    let asleep = site.on_one_of(&device, &[0, 1]);
    site.hubs[asleep].signal(Signal::SIGSTOP);
    // Its lease runs out, and with it the presence of its sessions.
    eventually("the device is absent", || {
        let absent = site.json(&["devices", "--offline"]);
        absent["items"].as_array()?.iter().any(|d| d["name"] == "web-1").then_some(())
    });
    let command = site.order("lock", "web-1");
    // Perhaps sent, to a hub that does not read it; in no case taken.
    assert!(site.command(&command)["acked_at"].is_null(), "{command}");
    assert_eq!(device.effects(&command), 0);
    // Its agent would notice the silence by itself, after 45 s.
    device.kill();
    device.start();
    site.on_one_of(&device, &[1 - asleep]);
    assert_eq!(site.ended(&command)["state"], "succeeded");
    let (_, session) = site.session(&device).expect("it has a session");
    site.hubs[asleep].signal(Signal::SIGCONT);
    // Ready: it has its lease again, and has told the broker of every session that it holds.
    site.hubs[asleep].is_ready();
    site.online("web-1");
    site.obey_in_bulk(std::slice::from_ref(&device));
    assert_eq!(site.session(&device), Some((1 - asleep, session)), "it was left alone");
    assert_eq!(device.effects(&command), 1);
}

#[test]
fn certificate_of_a_hub_is_exchanged_while_its_sessions_stay() {
    let site = Site::new(1);
    let device = site.device("web-1");
    site.on_one_of(&device, &[0]);
    let session = site.session(&device);
    let hub = &site.hubs[0];
    let end = || hub.metric("tocsin_push_hub_certificate_end_seconds", "");
    let loads = |outcome| hub.metric("tocsin_push_hub_identities_total", outcome);
    let (first_end, own) = (end(), site.identity(0));
    let next = site.issue(0, "200", "next");
    for file in ["hub-1.key", "hub-1.crt"] {
        fs::rename(next.join(file), own.join(file)).expect("it is put in place");
    }
    eventually("the new certificate is in use", || (end() > first_end).then_some(()));
    assert!(loads("taken") >= 1.0);

    let (second_end, refused) = (end(), loads("refused"));
    fs::write(own.join("hub-1.key"), "no key").expect("it is written");
    eventually("the bad key is refused", || (loads("refused") > refused).then_some(()));
    assert_eq!(end().to_bits(), second_end.to_bits());
    // Those who come now are shown the certificate that serves.
    let newcomer = site.device("web-2");
    site.on_one_of(&newcomer, &[0]);
    assert_eq!(site.session(&device), session, "the session has stayed");
    site.obey(&[device, newcomer]);
}
