//! The resolvers that this device is configured with.

use std::net::IpAddr;

use runtime::files::read_bounded;

use crate::host::Host;

/// Where they are named. A stub on loopback names those that it asks in the second place.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// Bytes of the largest file that is read.
const MAX_BYTES: usize = 64 * 1024;
/// Resolvers that are taken; the system's own library takes three.
const MOST: usize = 8;

/// The first place's resolvers that are not on this device itself.
pub(super) fn configured(host: &Host) -> Vec<IpAddr> {
    let named = |file| read_bounded(&host.path(file), MAX_BYTES).ok().map(|text| parse(&text));
    FILES.into_iter().filter_map(named).find(|found| !found.is_empty()).unwrap_or_default()
}

fn parse(text: &[u8]) -> Vec<IpAddr> {
    let text = String::from_utf8_lossy(text);
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        // A link-local address names its device behind a percent sign.
        address.split('%').next()?.parse::<IpAddr>().ok()
    });
    named.filter(|address| !address.to_canonical().is_loopback()).take(MOST).collect()
}
