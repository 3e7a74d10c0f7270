//! The manifest: exactly what approvers sign, and the proof that a device belongs to it.
//!
//! The devices of an order are bound by the root of a Merkle tree over their sorted ids, hashed
//! as RFC 6962 (2.1) does, so that one approval covers many envelopes and none can be added.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::action::{Action, Quarantine, Verb};
use crate::id::{DeviceId, OrderId, PersonName};
use crate::time::Timestamp;

#[cfg(test)]
mod tests;

/// What approvers sign: an order's action, its end, and its devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The order. It takes effect at most once on a device, whatever command carries it.
    pub order_id: OrderId,
    /// What is ordered.
    pub action: Action,
    /// When the order's validity ends.
    #[serde(with = "crate::time::numeric_date")]
    pub expires_at: Timestamp,
    /// How many devices.
    pub device_count: u32,
    /// Root of the Merkle tree over the devices.
    pub device_root: Hash,
    /// What the order was approved for: the hash of the plan that each device signed. Empty: for
    /// whatever the devices find. A device whose plan has another hash by then refuses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plans: BTreeMap<DeviceId, Hash>,
    /// How long each device waits, after it has accepted an order that destroys, before it begins:
    /// so long the order can be called back. A trust root may ask for longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_secs: Option<u32>,
    /// By what each device knows the code that ends the order's effect where nobody reaches it; see
    /// [`crate::offline`]. Empty: only another order ends it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offline_codes: BTreeMap<DeviceId, Hash>,
    /// The operator who asked for the order, as the control plane knows them. Whoever that is by the
    /// trust root does not approve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<PersonName>,
    /// Whether it is for simulated devices: whoever acts refuses it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
}

impl Manifest {
    /// What an offline code of this order does on a device; `None` when it has none.
    pub fn ended_offline(&self) -> Option<Verb> {
        if self.offline_codes.is_empty() { None } else { self.action.ended_by() }
    }

    /// What this order lets go of without an order to do so: by a code, by an end of its own, or by
    /// what it spares. It takes the place of what stands, and so would undo that by the way.
    pub fn lets_go(&self) -> Option<Verb> {
        let Action::Quarantine(Quarantine { allow, resolver, until }) = &self.action else {
            return self.ended_offline();
        };
        let is_loose = until.is_some() || *resolver || !allow.is_empty();
        if is_loose { self.action.ended_by() } else { self.ended_offline() }
    }

    /// Whether the proof shows that the device is one of those ordered.
    pub fn includes(&self, device: &DeviceId, proof: &InclusionProof) -> bool {
        proof.leads_to(&self.device_root, self.device_count, device)
    }
}

/// A SHA-256 hash. As text: base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash of these bytes.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(&[bytes])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(part);
        }
        Self::from_digest(&context.finish())
    }

    /// A hash that was made elsewhere, with SHA-256.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn from_digest(digest: &Digest) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    fn leaf(device: &DeviceId) -> Self {
        Self::of(&[&[0], device.as_bytes()])
    }

    fn node(left: &Self, right: &Self) -> Self {
        Self::of(&[&[1], &left.0, &right.0])
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = BASE64
            .decode(String::deserialize(deserializer)?)
            .map_err(|_| serde::de::Error::custom("not base64url"))?;
        bytes.try_into().map(Self).map_err(|_| serde::de::Error::custom("not 32 bytes"))
    }
}

/// The Merkle tree over the devices of one order.
#[derive(Debug, Clone)]
pub struct DeviceTree {
    devices: Vec<DeviceId>,
    /// Hashes of each level, leaves first. A last odd node is carried up unchanged.
    levels: Vec<Vec<Hash>>,
}

impl DeviceTree {
    /// The tree over those devices, sorted and without doubles. `None` when there are none.
    pub fn new(devices: impl IntoIterator<Item = DeviceId>) -> Option<Self> {
        let mut devices: Vec<_> = devices.into_iter().collect();
        devices.sort_unstable();
        devices.dedup();
        if devices.is_empty() {
            return None;
        }
        let mut levels = vec![devices.iter().map(Hash::leaf).collect::<Vec<_>>()];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below.chunks(2).map(|pair| match pair {
                [left, right] => Hash::node(left, right),
                odd => odd.first().copied().unwrap_or(Hash([0; 32])),
            });
            levels.push(above.collect());
        }
        Some(Self { devices, levels })
    }

    /// The devices, sorted.
    pub fn devices(&self) -> &[DeviceId] {
        &self.devices
    }

    /// The root that stands for exactly these devices.
    pub fn root(&self) -> Hash {
        self.levels.last().and_then(|top| top.first()).copied().unwrap_or(Hash([0; 32]))
    }

    /// The proof that a device is one of these; `None` when it is not.
    pub fn proof(&self, device: &DeviceId) -> Option<InclusionProof> {
        let index = self.devices.binary_search(device).ok()?;
        let mut at = index;
        let mut path = Vec::new();
        for level in &self.levels {
            path.extend(level.get(at ^ 1).copied());
            at /= 2;
        }
        Some(InclusionProof { index: u32::try_from(index).ok()?, path })
    }
}

/// The proof that one device is among those of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InclusionProof {
    /// Place of the device among the sorted ids.
    pub index: u32,
    /// Sibling hashes from the leaf up.
    pub path: Vec<Hash>,
}

impl InclusionProof {
    fn leads_to(&self, root: &Hash, count: u32, device: &DeviceId) -> bool {
        if self.index >= count {
            return false;
        }
        let (mut index, mut width) = (self.index, count);
        let mut hash = Hash::leaf(device);
        let mut siblings = self.path.iter();
        while width > 1 {
            let is_carried_up = index == width - 1 && width % 2 == 1;
            if !is_carried_up {
                let Some(sibling) = siblings.next() else { return false };
                hash = if index % 2 == 0 {
                    Hash::node(&hash, sibling)
                } else {
                    Hash::node(sibling, &hash)
                };
            }
            index /= 2;
            width = width.div_ceil(2);
        }
        siblings.next().is_none() && hash == *root
    }
}
