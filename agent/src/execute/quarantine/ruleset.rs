//! Writes the nftables ruleset of a quarantine. Pure text: no I/O, no decisions about when.
//!
//! One `inet` table whose base chains run at priority −300, ahead of connection tracking (−200)
//! and of every ordinary firewall, so `ct state` does not exist here. What the device may receive
//! is therefore told apart by TCP flags: a bare SYN never passes, hence every flow that lives was
//! opened by the device. A verdict of `accept` here ends this table only; the machine's own
//! firewall still has its say.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use protocol::action::AllowedPeer;

/// Family and name of the one table that quarantine owns.
pub(super) const TABLE: &str = "inet tocsin";

/// Removes the table, also when it is not there: `add` makes the `delete` safe, and both are one
/// transaction.
pub(super) const DELETE: &str = "add table inet tocsin\ndelete table inet tocsin\n";

/// Neighbour and router discovery: without it a device has no IPv6. The hop limit proves that the
/// sender is on the same link (RFC 4861, section 11.2). DHCP renewals come from privileged ports.
///
/// "Packet too big" is the one message from elsewhere that passes: without it the way to the hub
/// stalls wherever a path carries less than the link. The kernel believes it only about flows it
/// has, and it changes nothing but the size of what the device sends (RFC 1191, RFC 8201).
const INPUT_LINK: &str = "\
\t\ticmp type destination-unreachable icmp code frag-needed accept
\t\ticmpv6 type packet-too-big accept
\t\ticmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept
\t\tmeta nfproto ipv4 udp sport 67 udp dport 68 accept
\t\tip6 saddr fe80::/10 udp sport 547 udp dport 546 accept
";
const OUTPUT_LINK: &str = "\
\t\ticmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept
\t\tmeta nfproto ipv4 udp sport 68 udp dport 67 accept
\t\tmeta nfproto ipv6 udp sport 546 udp dport 547 accept
";
/// Local processes learn at once that they are cut off, instead of waiting for time-outs.
const OUTPUT_REFUSAL: &str = "\
\t\tmeta l4proto tcp reject with tcp reset
\t\treject with icmpx admin-prohibited
";

/// Whom a quarantined device may still talk to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peers<'a> {
    /// Hubs and control plane, reachable for the agent alone.
    pub(super) control_plane: &'a [SocketAddr],
    /// Peers that the signed order allows, reachable for every local process.
    pub(super) allow: &'a [AllowedPeer],
    /// The user id that the agent runs as.
    pub(super) agent_uid: u32,
}

/// The transaction that replaces whatever quarantine stands by this one.
///
/// The agent's own traffic is told by the user id of the socket (`meta skuid`): other processes
/// of that user reach the control plane's ports as well, and nothing else.
pub(super) fn transaction(peers: Peers<'_>) -> String {
    let mut control: Vec<_> =
        peers.control_plane.iter().map(|at| (at.ip().to_canonical(), at.port())).collect();
    let mut allowed: Vec<_> =
        peers.allow.iter().map(|peer| (peer.address.to_canonical(), peer.tcp_port)).collect();
    for list in [&mut control, &mut allowed] {
        list.sort_unstable();
        list.dedup();
    }
    let of_agent = format!("meta skuid {} ", peers.agent_uid);
    let (mut input, mut output) = (String::new(), String::new());
    for (peer, owner) in
        control.iter().map(|peer| (peer, of_agent.as_str())).chain(allowed.iter().map(|p| (p, "")))
    {
        write_peer(&mut input, &mut output, *peer, owner);
    }
    format!(
        "{DELETE}table {TABLE} {{\n\
         {}\t\tiif lo accept\n{input}{INPUT_LINK}\t}}\n\
         {}\t\toif lo accept\n{output}{OUTPUT_LINK}{OUTPUT_REFUSAL}\t}}\n\
         {}\t}}\n}}\n",
        chain("input"),
        chain("output"),
        chain("forward"),
    )
}

fn chain(hook: &str) -> String {
    format!("\tchain {hook} {{\n\t\ttype filter hook {hook} priority -300; policy drop;\n")
}

fn write_peer(input: &mut String, output: &mut String, peer: (IpAddr, u16), owner: &str) {
    let (address, port) = peer;
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    let not_syn = "tcp flags & (syn | ack) != syn";
    writeln!(input, "\t\t{family} saddr {address} tcp sport {port} {not_syn} accept")
        .and_then(|()| {
            writeln!(output, "\t\t{family} daddr {address} tcp dport {port} {owner}accept")
        })
        .expect("writing to a String cannot fail");
}
