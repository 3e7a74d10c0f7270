//! What quarantine keeps on disk: the one that stands, and what the last release observed.
//!
//! The record is written before the ruleset and removed after it, so that a crash or a reboot in
//! between leaves the device quarantined rather than open.

use std::net::{IpAddr, SocketAddr};

use nix::unistd::geteuid;
use protocol::action::AllowedPeer;
use protocol::id::CommandId;
use protocol::manifest::Hash;
use protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::state_file::StateFile;
use super::ruleset::Peers;

/// The quarantine that stands, or is being put up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// The command that ordered it.
    pub(super) command_id: CommandId,
    /// Its envelope: the justification for re-asserting it.
    pub(super) envelope: String,
    /// By what the device knows the code that ends it, where it has one.
    #[serde(default)]
    pub(super) offline_code: Option<Hash>,
    /// When that command began.
    pub(super) applied_at: Timestamp,
    /// Hubs and control plane at that time.
    pub(super) control_plane: Vec<SocketAddr>,
    /// Peers that the order allows.
    pub(super) allow: Vec<AllowedPeer>,
    /// The device's own resolvers, where the order allows them.
    #[serde(default)]
    pub(super) resolvers: Vec<IpAddr>,
    /// Until when it holds, where the order says so.
    #[serde(default)]
    pub(super) until: Option<Timestamp>,
    /// Whether the control plane was reached through it. Only then does nothing but a release
    /// lift it.
    pub(super) confirmed: bool,
    /// Digest of the table as the kernel listed it, once confirmed.
    pub(super) table_sha256: Option<String>,
    /// Digest of the machine's own tables before the quarantine, if they could be listed.
    pub(super) others_before_sha256: Option<String>,
    /// The same right after it.
    pub(super) others_after_sha256: Option<String>,
    /// The confirmed quarantine that this one replaces; a rollback returns to it.
    pub(super) previous: Option<Box<Standing>>,
}

impl StateFile for Standing {
    const NAME: &'static str = "quarantine.json";
}

impl Standing {
    /// Whom it leaves open.
    pub(super) fn peers(&self) -> Peers<'_> {
        peers(&self.control_plane, &self.allow, &self.resolvers)
    }

    /// The confirmed quarantine that an attempt to replace this record would fall back to.
    pub(super) fn confirmed(self) -> Option<Self> {
        if self.confirmed { Some(self) } else { self.previous.map(|previous| *previous) }
    }
}

/// Whom a quarantine by this agent leaves open.
pub(super) fn peers<'a>(
    control_plane: &'a [SocketAddr],
    allow: &'a [AllowedPeer],
    resolvers: &'a [IpAddr],
) -> Peers<'a> {
    Peers { control_plane, allow, resolvers, agent_uid: geteuid().as_raw() }
}

/// What a release saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Released {
    /// The command that ordered it.
    pub(super) command_id: CommandId,
    /// The quarantine that was lifted, if one stood.
    pub(super) lifted: Option<CommandId>,
    /// Digest of the machine's own tables before the release, if they could be listed.
    pub(super) others_before_sha256: Option<String>,
    /// The same right after it.
    pub(super) others_after_sha256: Option<String>,
}

impl StateFile for Released {
    const NAME: &'static str = "release.json";
}
