//! The options as people type them.

use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let common = "--ca authority.pem --token secret-token";
    Cli::try_parse_from(format!("tocsin-loadtest {line} {common}").split_whitespace())
}

#[test]
fn options_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn orders_are_asked_for_as_in_the_readme() {
    let line = "order-to-ack --agents 100 --orders 1000 --rate 50/s --thresholds p50=5,p99=25";
    let cli = parse(line).expect("a sound line");
    let Scenario::OrderToAck(args) = &cli.scenario else { panic!("another scenario: {cli:?}") };
    assert_eq!((args.common.agents, args.orders), (100, 1000));
    assert_eq!(args.verb, Ordered::Lock);
}

#[test]
fn token_does_not_print() {
    let cli = parse("idle").expect("a sound line");
    assert!(!format!("{cli:?}").contains("secret-token"));
}

#[test]
fn what_is_beyond_its_bounds_is_refused() {
    for line in [
        "order-to-ack --agents 0",
        "order-to-ack --orders 1000001",
        "order-to-ack --rate 0/s",
        "order-to-ack --verb wipe",
        "idle --secs 0",
        "connect --connecting 0",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}
