//! The switch on the server's console, with the real programs.

use crate::installation::Installation;

#[test]
fn lockdown_on_the_console_stops_every_token_until_the_console_lifts_it() {
    let site = Installation::new();
    let device = site.device("desk-1");
    let data = site.path("data").display().to_string();
    let place = ["--data", data.as_str()];
    let lock = ["lock", device.name.as_str(), "--reason", "a test", "--yes", "--no-wait"];
    let on = [&["lockdown", "on", "--reason", "stolen laptop"], &place[..]].concat();
    site.succeed(&on);
    let refused = site.tocsin(&lock);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("stolen laptop"), "{said}");
    let shown = site.json(&[&["lockdown", "show"], &place[..]].concat());
    assert_eq!(shown["items"][0]["level"], "everything");
    site.succeed(&[&["lockdown", "off"], &place[..]].concat());
    assert_eq!(site.ended(&site.order("lock", &device.name))["state"], "succeeded");
    assert_eq!(site.events("lockdown_began").len(), 1);
}
