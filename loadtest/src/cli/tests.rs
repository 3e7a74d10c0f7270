//! The options as people type them.

use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(format!("tocsin-loadtest {line}").split_whitespace())
}

fn plan(line: &str) -> Result<Plan, UsageError> {
    parse(line).expect("a sound line").run.plan()
}

#[test]
fn options_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn options_change_the_scenario() {
    let line = "unicast --connections 50 --rate 300/m --orders 9 --secs 1.5 --platform up \
                --set platform.hub.heartbeat=5s --set phase.orders.orders.desks=4 \
                --require latency_ms.acked.p99<=15";
    let plan = plan(line).expect("a sound plan");
    assert_eq!((plan.population.connections, plan.platform.start), (50, Start::Up));
    assert_eq!(plan.platform.hub["heartbeat"].as_str(), Some("5s"));
    let phase = plan.phases.iter().find(|phase| phase.name == "orders").expect("it is there");
    let orders = phase.orders.as_ref().expect("it has orders");
    assert_eq!((orders.rate.to_string(), orders.count, orders.desks), ("300/m".into(), Some(9), 4));
    assert_eq!(phase.secs, Some(1.5));
    let last = plan.require.last().expect("a requirement");
    assert_eq!(last.to_string(), "latency_ms.acked.p99<=15");
}

#[test]
fn token_does_not_print() {
    let cli = parse("idle --token secret-token").expect("a sound line");
    assert!(!format!("{cli:?}").contains("secret-token"));
}

#[test]
fn what_is_beyond_its_bounds_is_refused() {
    for line in ["", "idle --workers 0", "idle --rate 0/s", "idle --require p99", "idle --watch 1"]
    {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn what_is_no_scenario_names_those_that_are() {
    let error = plan("nonsense").expect_err("there is none").to_string();
    assert!(error.contains("urgent-under-bulk"), "{error}");
}

#[test]
fn other_verbs_need_no_scenario() {
    let cli = parse("scenarios storm").expect("a sound line");
    let Some(Verb::Scenarios(args)) = cli.verb else { panic!("another verb: {cli:?}") };
    assert_eq!(args.name.as_deref(), Some("storm"));
}

#[test]
fn sizes_and_fleet_are_lists_and_numbers() {
    let line = "scaling --connections 10,20 --hubs 2 --per-hub 7 --devices 5000 --back-secs 60";
    let Some(Verb::Scaling(args)) = parse(line).expect("a sound line").verb else {
        panic!("another verb")
    };
    let (sizes, fleet) = (args.sizes(), args.fleet.fleet());
    assert_eq!((sizes.connections, sizes.hubs, sizes.per_hub), (vec![10, 20], vec![2], 7));
    assert_eq!((fleet.devices, fleet.per_hub), (5_000, None));
    assert!((fleet.back_secs - 60.0).abs() < 1e-9);
}

/// What `scripts/gates` plays is what docs/BENCHMARKS.md has.
#[test]
fn every_gate_of_the_benchmarks_is_a_command_of_this_program() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/BENCHMARKS.md");
    let text = fs::read_to_string(path).expect("the document is there");
    let (_, section) = text.split_once("\n## Gates\n").expect("it has gates");
    let block = section.split("```").nth(1).expect("in one block");
    let commands: Vec<_> = block.lines().filter(|line| !line.is_empty()).collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let words = command.split_whitespace().map(|word| word.trim_matches('\''));
        let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
        let gates = cli.run.requirements.len();
        let plan = cli.run.plan().unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!(gates > 0 && plan.require.len() >= gates, "{command}: it requires nothing");
    }
}
