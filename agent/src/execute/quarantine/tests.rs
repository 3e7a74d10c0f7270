//! The rules as values: who is let through, in which table, and that nobody else is.

use std::net::{IpAddr, SocketAddr};

use protocol::action::AllowedPeer;

use super::rule::{Meta, Rule};
use super::ruleset::{self, Chain, Peers};
use crate::mark::AGENT_MARK;

const UID: u32 = 7;

fn chains(
    make: fn(Peers<'_>) -> Vec<Chain>,
    control_plane: &[&str],
    allow: &[(&str, u16)],
) -> Vec<Chain> {
    let control_plane: Vec<SocketAddr> =
        control_plane.iter().map(|text| text.parse().unwrap()).collect();
    let allow: Vec<AllowedPeer> = allow
        .iter()
        .map(|(address, tcp_port)| AllowedPeer {
            address: address.parse().unwrap(),
            tcp_port: *tcp_port,
        })
        .collect();
    let peers =
        Peers { control_plane: &control_plane, allow: &allow, resolvers: &[], agent_uid: UID };
    make(peers)
}

fn rules<'a>(chains: &'a [Chain], name: &str) -> &'a [Rule] {
    &chains.iter().find(|chain| chain.name == name).unwrap().rules
}

/// Whether a rule's bytes hold those of another rule's conditions.
fn says(rule: &Rule, part: &Rule) -> bool {
    let (whole, part) = (rule.expressions().bytes(), part.expressions().bytes());
    whole.windows(part.len()).any(|window| window == part)
}

fn of_agent() -> [Rule; 2] {
    [
        Rule::new().meta(Meta::Mark, &AGENT_MARK.to_ne_bytes()),
        Rule::new().meta(Meta::User, &UID.to_ne_bytes()),
    ]
}

#[test]
fn control_plane_is_open_to_the_agent_and_allowed_peers_to_everybody() {
    let with = chains(ruleset::inet, &["10.0.0.1:443", "[fd00::1]:8443"], &[("10.0.0.9", 22)]);
    let without = chains(ruleset::inet, &[], &[]);
    let output = rules(&with, "output");
    assert_eq!(output.len(), rules(&without, "output").len() + 3);
    let [mark, uid] = of_agent();
    let marked: Vec<_> =
        output.iter().map(|rule| (says(rule, &mark), says(rule, &uid))).take(5).collect();
    let (agent, anybody) = ((true, true), (false, false));
    assert_eq!(marked, [anybody, agent, agent, anybody, anybody], "loopback, hubs, peer, link");
    assert_eq!(rules(&with, "input").len(), rules(&without, "input").len() + 3);
}

#[test]
fn frames_of_the_agent_are_told_by_the_mark_alone() {
    let with = chains(ruleset::egress, &["10.0.0.1:443"], &[]);
    let [mark, uid] = of_agent();
    let rule = &rules(&with, "ipv4")[0];
    assert!(says(rule, &mark) && !says(rule, &uid));
}

#[test]
fn chain_of_forwarded_packets_accepts_nothing() {
    let chains = chains(ruleset::inet, &["10.0.0.1:443"], &[("10.0.0.9", 22)]);
    let names: Vec<_> = chains.iter().map(|chain| (chain.name, chain.hook)).collect();
    assert_eq!(names, [("input", Some(1)), ("forward", Some(2)), ("output", Some(3))]);
    assert!(rules(&chains, "forward").is_empty());
}

#[test]
fn resolvers_are_open_on_their_port_by_both_transports() {
    let resolvers: [IpAddr; 1] = ["10.0.0.53".parse().unwrap()];
    let peers = Peers { control_plane: &[], allow: &[], resolvers: &resolvers, agent_uid: UID };
    let nobody = chains(ruleset::inet, &[], &[]);
    for name in ["input", "output"] {
        let more = rules(&ruleset::inet(peers), name).len() - rules(&nobody, name).len();
        assert_eq!(more, 2, "{name}");
    }
}

#[test]
fn order_and_repetition_of_addresses_do_not_change_the_rules() {
    for make in [ruleset::inet, ruleset::egress] {
        let once = chains(make, &["10.0.0.1:443", "10.0.0.2:443"], &[]);
        assert_eq!(once, chains(make, &["10.0.0.2:443", "10.0.0.1:443", "10.0.0.2:443"], &[]));
    }
}

#[test]
fn mapped_address_is_written_as_the_ipv4_address_it_is() {
    for make in [ruleset::inet, ruleset::egress] {
        let mapped = chains(make, &["[::ffff:10.0.0.1]:443"], &[]);
        assert_eq!(mapped, chains(make, &["10.0.0.1:443"], &[]));
    }
}
