//! What an entry of presence looks like in Redis.
//!
//! Owns its bytes: epoch (6, the largest first), session (16), the end of the incarnation (8), the
//! hub's name. Small, so that a bucket stays in Redis's compact form, where a value may have 64
//! bytes; the whole incarnation is in the lease, without which the entry says nothing anyway.

use protocol::id::{DeviceId, HubId, SessionId};
use uuid::Uuid;

use crate::{HubLease, Presence};

/// Bytes before the name.
const HEAD: usize = 30;
/// Bytes of an incarnation that an entry keeps: those that are random.
const TAG: usize = 8;

/// An entry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    epoch: u64,
    pub(super) session: SessionId,
    tag: [u8; TAG],
    pub(super) hub: HubId,
}

/// The entry of a session.
pub(super) fn encode(presence: &Presence) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + presence.hub.as_str().len());
    bytes.extend_from_slice(&presence.epoch.to_be_bytes()[2..]);
    bytes.extend_from_slice(presence.session.as_bytes());
    bytes.extend_from_slice(&tag(presence.incarnation));
    bytes.extend_from_slice(presence.hub.as_str().as_bytes());
    bytes
}

/// `None` when it is no entry.
pub(super) fn decode(bytes: &[u8]) -> Option<Entry> {
    let (epoch, rest) = bytes.split_first_chunk::<6>()?;
    let (session, rest) = rest.split_first_chunk::<16>()?;
    let (tag, hub) = rest.split_first_chunk::<TAG>()?;
    let epoch = epoch.iter().fold(0, |epoch, byte| epoch << 8 | u64::from(*byte));
    Some(Entry {
        epoch,
        session: SessionId::from_uuid(Uuid::from_bytes(*session)),
        tag: *tag,
        hub: std::str::from_utf8(hub).ok()?.parse().ok()?,
    })
}

impl Entry {
    /// The session, if its hub's lease of this moment is the one that it was written under.
    pub(super) fn live(&self, incarnation: Option<SessionId>) -> Option<Presence> {
        let incarnation = incarnation.filter(|known| tag(*known) == self.tag)?;
        let lease = HubLease { hub: self.hub.clone(), incarnation };
        Some(Presence::new(&lease, self.session, self.epoch))
    }
}

/// The field of a device.
pub(super) fn field(device: DeviceId) -> [u8; 16] {
    *device.as_bytes()
}

/// The incarnation that a lease names.
pub(super) fn incarnation(bytes: &[u8]) -> Option<SessionId> {
    Some(SessionId::from_uuid(Uuid::from_bytes(bytes.try_into().ok()?)))
}

fn tag(incarnation: SessionId) -> [u8; TAG] {
    let mut tag = [0; TAG];
    tag.copy_from_slice(&incarnation.as_bytes()[16 - TAG..]);
    tag
}

#[cfg(test)]
mod tests {
    use protocol::fixture;
    use protocol::limits::EPOCH_MAX;

    use super::*;

    #[test]
    fn entry_is_read_as_it_was_written_under_its_lease_only() {
        let hub = "hub-a".parse().expect("a name");
        let lease = HubLease { hub, incarnation: fixture::session(1) };
        for epoch in [0, 1, 1_767_225_600_000, EPOCH_MAX] {
            let presence = Presence::new(&lease, fixture::session(9), epoch);
            let entry = decode(&encode(&presence)).expect("an entry");
            assert_eq!(entry.live(Some(fixture::session(1))), Some(presence));
            assert_eq!(entry.live(Some(fixture::session(2))), None);
            assert_eq!(entry.live(None), None);
        }
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for wrong in [&b""[..], &[0; 30], &[0; 31], &[b'A'; 40], &[b'a'; 30 + 64]] {
            assert_eq!(decode(wrong), None, "{wrong:?}");
        }
        assert!(decode(&[b'a'; 30 + 63]).is_some());
    }
}
