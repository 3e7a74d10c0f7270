//! What a quarantine lets through: two tables, as values. No I/O, no decisions about when.
//!
//! The `inet` table's base chains run at priority −300, ahead of connection tracking (−200) and of
//! every ordinary firewall, so `ct state` does not exist here. What the device may receive is
//! therefore told apart by TCP flags: a bare SYN never passes, hence every flow that lives was
//! opened by the device. A verdict of `accept` here ends this table only; the machine's own
//! firewall still has its say.
//!
//! The `netdev` table judges every frame that leaves a device, whoever made it: raw and packet
//! sockets, macvlan, bridged containers. Frames that say one thing to the kernel and another on
//! the wire do not pass: on Ethernet the type in the frame must be the one in the kernel.

use std::net::{IpAddr, SocketAddr};

use protocol::action::AllowedPeer;

use super::rule::{At, Header, Meta, Rule};
use crate::mark::AGENT_MARK;

/// The name of both tables that quarantine owns.
pub(super) const TABLE: &str = "tocsin";
/// An empty table that nobody holds: whoever flushes the ruleset takes it along, and is noticed.
pub(super) const CANARY: &str = "tocsin_canary";
/// Priority of all hooks.
pub(super) const PRIORITY: i32 = -300;

/// Families of tables.
pub(super) const INET: u8 = 1;
pub(super) const NETDEV: u8 = 5;

const IPV4: u8 = 2;
const IPV6: u8 = 10;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const TYPE_VLAN: [u8; 2] = [0x81, 0x00];
/// Keys of wireless networks, and 802.1X of wired ones: without them the link itself goes down.
const TYPE_EAPOL: [u8; 2] = [0x88, 0x8e];
/// Index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;
/// Kind of Ethernet devices, and of what looks like one (`ARPHRD_ETHER`).
const ETHERNET: u16 = 1;

const PORTS: At = At(Header::Transport, 0);
const SOURCE_PORT: At = At(Header::Transport, 0);
const DESTINATION_PORT: At = At(Header::Transport, 2);
const TCP_FLAGS: At = At(Header::Transport, 13);
const ICMP_TYPE: At = At(Header::Transport, 0);
const HOP_LIMIT: At = At(Header::Network, 7);
const SOURCE_V4: At = At(Header::Network, 12);
const DESTINATION_V4: At = At(Header::Network, 16);
const SOURCE_V6: At = At(Header::Network, 8);
const DESTINATION_V6: At = At(Header::Network, 24);

/// Multicast listener query, report and done (versions 1 and 2).
const MLD_QUERY: u8 = 130;
const MLD_OUT: [u8; 3] = [131, 132, 143];
/// Router and neighbour discovery.
const ROUTER_SOLICIT: u8 = 133;
const ROUTER_ADVERT: u8 = 134;
const NEIGHBOUR: [u8; 2] = [135, 136];
/// `ff02::1:2`, all DHCP agents of the link.
const DHCP_AGENTS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
/// Bytes of the largest ARP frame that passes; one with padding has 60.
const ARP_BYTES: u32 = 60;

/// Whom a quarantined device may still talk to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peers<'a> {
    /// Hubs and control plane, reachable for the agent alone.
    pub(super) control_plane: &'a [SocketAddr],
    /// Peers that the signed order allows, reachable for every local process.
    pub(super) allow: &'a [AllowedPeer],
    /// The device's own resolvers, where the signed order allows them; for every local process.
    pub(super) resolvers: &'a [IpAddr],
    /// The user id that the agent runs as.
    pub(super) agent_uid: u32,
}

/// One chain of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// The hook's number; `None` when only other chains lead here.
    pub(super) hook: Option<u32>,
    pub(super) rules: Vec<Rule>,
}

/// Who a packet's socket must be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Agent,
    Anybody,
}

/// One peer and transport that stay open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Opening {
    address: IpAddr,
    transport: u8,
    port: u16,
    of: Of,
}

/// Where rules stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// In the `inet` table, on an agent of that user.
    Inet { agent_uid: u32 },
    /// In the `netdev` table.
    Device,
}

/// What stays open, sorted and each once, so that equal orders make equal tables.
fn openings(peers: Peers<'_>) -> Vec<Opening> {
    let tcp = |address: IpAddr, port, of| Opening {
        address: address.to_canonical(),
        transport: TCP,
        port,
        of,
    };
    let control = peers.control_plane.iter().map(|at| tcp(at.ip(), at.port(), Of::Agent));
    let allowed = peers.allow.iter().map(|at| tcp(at.address, at.tcp_port, Of::Anybody));
    let resolvers = peers.resolvers.iter().flat_map(|address| {
        let stream = tcp(*address, 53, Of::Anybody);
        [stream, Opening { transport: UDP, ..stream }]
    });
    let mut all: Vec<_> = control.chain(allowed).chain(resolvers).collect();
    let key = |at: &Opening| (at.of == Of::Anybody, at.address, at.port, at.transport);
    all.sort_unstable_by_key(key);
    all.dedup();
    all
}

/// The chains of the `inet` table.
pub(super) fn inet(peers: Peers<'_>) -> Vec<Chain> {
    let loopback = |device| Rule::new().meta(device, &LOOPBACK.to_ne_bytes()).accept();
    let openings = openings(peers);
    let scope = Scope::Inet { agent_uid: peers.agent_uid };
    let mut input = vec![loopback(Meta::InDevice)];
    input.extend(openings.iter().map(|opening| answer(scope, *opening)));
    input.extend(link_input(scope));
    let mut output = vec![loopback(Meta::OutDevice)];
    output.extend(openings.iter().map(|opening| question(scope, *opening)));
    output.extend(link_output_v4(scope));
    output.extend(link_output_v6(scope));
    // Local processes learn at once that they are cut off, instead of waiting for time-outs.
    output.push(Rule::new().meta(Meta::Transport, &[TCP]).reset());
    output.push(Rule::new().prohibit());
    vec![
        Chain { name: "input", hook: Some(1), rules: input },
        Chain { name: "forward", hook: Some(2), rules: Vec::new() },
        Chain { name: "output", hook: Some(3), rules: output },
    ]
}

/// The chains of the `netdev` table that a device's base chain leads to; see [`ON_DEVICE`].
pub(super) fn egress(peers: Peers<'_>) -> Vec<Chain> {
    let (openings, scope) = (openings(peers), Scope::Device);
    let of_family = |is_v4: bool| {
        let family = openings.iter().filter(move |opening| opening.address.is_ipv4() == is_v4);
        family.map(|opening| question(scope, *opening)).collect::<Vec<_>>()
    };
    let (mut v4, mut v6) = (of_family(true), of_family(false));
    v4.extend(link_output_v4(scope));
    v6.extend(link_output_v6(scope));
    vec![
        Chain { name: "ipv4", hook: None, rules: v4 },
        Chain { name: "ipv6", hook: None, rules: v6 },
        Chain { name: "ethernet", hook: None, rules: ethernet() },
        Chain { name: ON_DEVICE, hook: None, rules: on_device() },
    ]
}

/// The chain that judges what leaves a device.
pub(super) const ON_DEVICE: &str = "leaving";

fn on_device() -> Vec<Rule> {
    vec![
        Rule::new().meta(Meta::OutDevice, &LOOPBACK.to_ne_bytes()).accept(),
        Rule::new().meta(Meta::OutDeviceKind, &ETHERNET.to_ne_bytes()).go("ethernet"),
        Rule::new().meta(Meta::Protocol, &TYPE_IPV4).go("ipv4"),
        Rule::new().meta(Meta::Protocol, &TYPE_IPV6).go("ipv6"),
    ]
}

/// The kernel's word for a frame and the frame's own must be the same, also behind the tag of a
/// virtual LAN. ARP is held small: it is for addresses.
fn ethernet() -> Vec<Rule> {
    const TYPE: At = At(Header::Link, 12);
    const TAGGED_TYPE: At = At(Header::Link, 16);
    let plain = |kind: [u8; 2]| Rule::new().meta(Meta::Protocol, &kind).bytes(TYPE, &kind);
    let tagged = |kind: [u8; 2]| {
        let rule = Rule::new().meta(Meta::Protocol, &kind);
        rule.bytes(TYPE, &TYPE_VLAN).bytes(TAGGED_TYPE, &kind)
    };
    let with = |rule: &dyn Fn([u8; 2]) -> Rule| {
        [
            rule(TYPE_IPV4).go("ipv4"),
            rule(TYPE_IPV6).go("ipv6"),
            rule(TYPE_ARP).at_most(ARP_BYTES).accept(),
        ]
    };
    let mut rules = [with(&plain), with(&tagged)].concat();
    rules.push(plain(TYPE_EAPOL).accept());
    rules
}

/// What a peer that stays open may send: never the first packet of a connection.
fn answer(scope: Scope, opening: Opening) -> Rule {
    const SYN_AND_ACK: u8 = 0x12;
    const SYN: u8 = 0x02;
    let rule = match opening.address {
        IpAddr::V4(from) => scope.packets(IPV4, opening.transport).bytes(SOURCE_V4, &from.octets()),
        IpAddr::V6(from) => scope.packets(IPV6, opening.transport).bytes(SOURCE_V6, &from.octets()),
    };
    let rule = rule.bytes(SOURCE_PORT, &opening.port.to_be_bytes());
    if opening.transport == TCP {
        rule.not_masked(TCP_FLAGS, &[SYN_AND_ACK], &[SYN]).accept()
    } else {
        rule.accept()
    }
}

/// What may be sent to a peer that stays open. The agent's packets are told by the mark and, where
/// packets still have an owner, by the user as well.
fn question(scope: Scope, opening: Opening) -> Rule {
    let transport = opening.transport;
    let rule = match opening.address {
        IpAddr::V4(to) => scope.packets(IPV4, transport).bytes(DESTINATION_V4, &to.octets()),
        IpAddr::V6(to) => scope.packets(IPV6, transport).bytes(DESTINATION_V6, &to.octets()),
    };
    let rule = rule.bytes(DESTINATION_PORT, &opening.port.to_be_bytes());
    let marked = |rule: Rule| rule.meta(Meta::Mark, &AGENT_MARK.to_ne_bytes());
    match (opening.of, scope) {
        (Of::Anybody, _) => rule.accept(),
        (Of::Agent, Scope::Device) => marked(rule).accept(),
        (Of::Agent, Scope::Inet { agent_uid }) => {
            marked(rule).meta(Meta::User, &agent_uid.to_ne_bytes()).accept()
        }
    }
}

impl Scope {
    /// The packets of a family and a transport. The chains of devices are of one family each, and
    /// the `netdev` hooks call every packet their own.
    fn packets(self, family: u8, transport: u8) -> Rule {
        let rule = match self {
            Self::Inet { .. } => Rule::new().meta(Meta::Family, &[family]),
            Self::Device => Rule::new(),
        };
        rule.meta(Meta::Transport, &[transport])
    }

    fn icmpv6(self, kind: u8, hop_limit: u8) -> Rule {
        let rule = self.packets(IPV6, ICMPV6).bytes(ICMP_TYPE, &[kind]);
        rule.bytes(HOP_LIMIT, &[hop_limit])
    }
}

/// Neighbour and router discovery: without it a device has no IPv6. The hop limit proves that the
/// sender is on the same link (RFC 4861, section 11.2). Switches that listen to multicast groups
/// pass neighbours' questions only to who answered their query. DHCP comes from privileged ports.
///
/// "Packet too big" is the one message from elsewhere that passes: without it the way to the hub
/// stalls wherever a path carries less than the link. The kernel believes it only about flows it
/// has, and it changes nothing but the size of what the device sends (RFC 1191, RFC 8201).
fn link_input(scope: Scope) -> Vec<Rule> {
    const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
    const TOO_BIG: u8 = 2;
    let discovery = [ROUTER_ADVERT, NEIGHBOUR[0], NEIGHBOUR[1]];
    let mut rules = vec![
        scope.packets(IPV4, ICMP).bytes(ICMP_TYPE, &FRAGMENTATION_NEEDED).accept(),
        scope.packets(IPV6, ICMPV6).bytes(ICMP_TYPE, &[TOO_BIG]).accept(),
    ];
    rules.extend(discovery.map(|kind| scope.icmpv6(kind, 255).accept()));
    rules.push(from_link(scope.icmpv6(MLD_QUERY, 1)).accept());
    rules.push(scope.packets(IPV4, UDP).bytes(PORTS, &ports(67, 68)).accept());
    rules.push(from_link(scope.packets(IPV6, UDP).bytes(PORTS, &ports(547, 546))).accept());
    rules
}

/// DHCP goes to everybody on the link and to nobody else: a lease is then renewed a little later
/// (RFC 2131, section 4.4.5: rebinding), and no server far away can pose as one.
fn link_output_v4(scope: Scope) -> Vec<Rule> {
    let dhcp =
        scope.packets(IPV4, UDP).bytes(DESTINATION_V4, &[255; 4]).bytes(PORTS, &ports(68, 67));
    vec![dhcp.accept()]
}

fn link_output_v6(scope: Scope) -> Vec<Rule> {
    let discovery = [ROUTER_SOLICIT, NEIGHBOUR[0], NEIGHBOUR[1]];
    let mut rules: Vec<_> = discovery.map(|kind| scope.icmpv6(kind, 255).accept()).into();
    // To link-local groups only.
    let group = |rule: Rule| rule.bytes(DESTINATION_V6, &[0xff, 2]);
    rules.extend(MLD_OUT.map(|kind| group(scope.icmpv6(kind, 1)).accept()));
    let dhcp = scope.packets(IPV6, UDP).bytes(DESTINATION_V6, &DHCP_AGENTS);
    rules.push(dhcp.bytes(PORTS, &ports(546, 547)).accept());
    rules
}

fn from_link(rule: Rule) -> Rule {
    rule.masked(SOURCE_V6, &[0xff, 0xc0], &[0xfe, 0x80])
}

fn ports(source: u16, destination: u16) -> [u8; 4] {
    let (source, destination) = (source.to_be_bytes(), destination.to_be_bytes());
    [source[0], source[1], destination[0], destination[1]]
}
