//! What keys and channels are called.
//!
//! Owns every name that this program uses in Redis. Each key stands alone, so that a cluster may
//! put it anywhere; a hub's channels share a slot, so that one connection serves them all.

use protocol::id::{DeviceId, HubId};

/// Buckets that presence is spread over. Few enough devices in each for Redis to keep them in its
/// compact form (`hash-max-listpack-entries`, 128 by default): 500,000 devices.
const BUCKETS: u16 = 4096;

/// Names under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

/// The channels of one hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Channels {
    /// From the control plane.
    pub(super) hub: String,
    /// From other hubs, which may say less.
    pub(super) peer: String,
    /// From itself, to see whether anything comes.
    pub(super) probe: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn lease(&self, hub: &HubId) -> String {
        format!("{}:lease:{hub}", self.prefix)
    }

    /// The hubs that ever held a lease, by the time of its last renewal.
    pub(super) fn hubs(&self) -> String {
        format!("{}:hubs", self.prefix)
    }

    pub(super) fn upstream(&self) -> String {
        format!("{}:upstream", self.prefix)
    }

    /// The bucket of a device. The last bytes of a UUIDv7 are random.
    pub(super) fn presence(&self, device: DeviceId) -> String {
        let bytes = device.as_bytes();
        let bucket = u16::from_be_bytes([bytes[14], bytes[15]]) % BUCKETS;
        format!("{}:presence:{bucket:03x}", self.prefix)
    }

    pub(super) fn channels(&self, hub: &HubId) -> Channels {
        let name = |kind: &str| format!("{}:{kind}:{{{hub}}}", self.prefix);
        Channels { hub: name("hub"), peer: name("peer"), probe: name("probe") }
    }
}

/// The part of a key that decides its slot: what is between the first braces, if anything is
/// (Redis cluster specification, "hash tags").
fn tag(key: &str) -> &str {
    let inner = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    inner.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// Slots of a cluster.
pub(super) const SLOTS: usize = 16_384;

/// The slot of a key: CRC-16/XMODEM of its tag.
pub(super) fn slot(key: &str) -> usize {
    let crc = tag(key).bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    });
    usize::from(crc) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot("123456789"), 0x31c3);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("a{foo}b"), slot("foo"));
    }

    #[test]
    fn channels_of_a_hub_share_a_slot() {
        let Channels { hub, peer, probe } =
            Names::new("tocsin").channels(&"hub-a".parse().expect("a name"));
        assert_eq!(hub, "tocsin:hub:{hub-a}");
        assert!(slot(&hub) == slot(&peer) && slot(&peer) == slot(&probe));
    }
}
