//! The mark by which a quarantine tells the agent's own packets from everybody else's.
//!
//! Every socket that the agent opens to hubs and control plane bears it from its first packet on,
//! quarantined or not, so that a session outlives the moment in which a quarantine begins.

use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

/// The mark (`SO_MARK`).
///
/// Of its bits none is used by Kubernetes (0x4000, 0x8000), Calico (0xffff0000), Cilium (0x0f00),
/// Tailscale (0xff0000), CNI (0x2000) or the AWS CNI (0x80), whose rules look at single bits.
pub const AGENT_MARK: u32 = 0x1056;

/// Marks the packets that this socket will send.
///
/// # Errors
/// The system's, to whoever has no `CAP_NET_ADMIN`: there is no quarantine then either.
pub fn mark(socket: &impl AsFd) -> std::io::Result<()> {
    Ok(setsockopt(socket, sockopt::Mark, &AGENT_MARK)?)
}
