//! The texts: what the ruleset says, and which lines of a listing are whose.

use std::net::SocketAddr;

use protocol::action::AllowedPeer;

use super::nft::without_own_table;
use super::ruleset::{Peers, transaction};

fn text(control_plane: &[&str], allow: &[(&str, u16)]) -> String {
    let control_plane: Vec<SocketAddr> =
        control_plane.iter().map(|text| text.parse().unwrap()).collect();
    let allow: Vec<AllowedPeer> = allow
        .iter()
        .map(|(address, tcp_port)| AllowedPeer {
            address: address.parse().unwrap(),
            tcp_port: *tcp_port,
        })
        .collect();
    transaction(Peers { control_plane: &control_plane, allow: &allow, agent_uid: 7 })
}

#[test]
fn control_plane_is_open_to_the_agent_and_allowed_peers_to_everybody() {
    let rules = text(&["10.0.0.1:443", "[fd00::1]:8443"], &[("10.0.0.9", 22)]);
    assert!(rules.contains("ip daddr 10.0.0.1 tcp dport 443 meta skuid 7 accept\n"));
    assert!(rules.contains("ip6 daddr fd00::1 tcp dport 8443 meta skuid 7 accept\n"));
    assert!(rules.contains("\tip daddr 10.0.0.9 tcp dport 22 accept\n"));
    assert!(rules.contains("ip saddr 10.0.0.9 tcp sport 22 tcp flags & (syn | ack) != syn accept"));
}

#[test]
fn every_chain_drops_and_nothing_is_said_about_established() {
    let rules = text(&["10.0.0.1:443"], &[]);
    assert_eq!(rules.matches("priority -300; policy drop;").count(), 3);
    assert!(!rules.contains("ct state"));
    assert!(!rules.contains("dport 53"));
}

#[test]
fn path_mtu_messages_come_in_and_no_other_error_does() {
    let rules = text(&["10.0.0.1:443"], &[]);
    let (input, beyond) = rules.split_once("chain output").unwrap();
    let icmp = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with("icmp"));
        lines.map(str::to_owned).collect()
    };
    let errors = [
        "icmp type destination-unreachable icmp code frag-needed accept",
        "icmpv6 type packet-too-big accept",
    ];
    let neighbours = "nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert";
    let link = format!("icmpv6 type {{ {neighbours} }} ip6 hoplimit 255 accept");
    assert_eq!(icmp(input), [errors[0], errors[1], &link]);
    assert!(icmp(beyond).iter().all(|line| line.starts_with("icmpv6 type { nd-router-solicit")));
}

#[test]
fn order_and_repetition_of_addresses_do_not_change_the_text() {
    let once = text(&["10.0.0.1:443", "10.0.0.2:443"], &[]);
    assert_eq!(once, text(&["10.0.0.2:443", "10.0.0.1:443", "10.0.0.2:443"], &[]));
}

#[test]
fn mapped_address_is_written_as_the_ipv4_address_it_is() {
    let rules = text(&["[::ffff:10.0.0.1]:443"], &[]);
    assert!(rules.contains("ip daddr 10.0.0.1 tcp dport 443"));
}

#[test]
fn own_table_alone_is_left_out_of_the_others() {
    let ruleset = "table ip nat { # handle 1\n\tchain a { # handle 1\n\t}\n}\n\
                   table inet tocsin { # handle 2\n\tchain input { # handle 1\n\t}\n}\n\
                   table inet tocsin2 { # handle 3\n}\n";
    let others = "table ip nat { # handle 1\n\tchain a { # handle 1\n\t}\n}\n\
                  table inet tocsin2 { # handle 3\n}\n";
    assert_eq!(without_own_table(ruleset), others);
    assert_eq!(without_own_table(others), others);
}
