//! The arithmetic of a comparison, and the bytes of a message.

use super::table::median;
use super::*;

fn round(p50: f64) -> Round {
    Round { unicast_p50_ms: p50, ..Round::default() }
}

#[test]
fn median_is_the_middle_of_the_rounds() {
    let number = |round: &Round| round.unicast_p50_ms;
    let of = |values: &[f64]| {
        median(&values.iter().map(|value| round(*value)).collect::<Vec<_>>(), number)
    };
    assert_eq!(of(&[9.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    assert_eq!(of(&[]), None);
}

#[test]
fn table_says_what_each_does_not_do_and_has_ratios() {
    let servers =
        vec![(Server::Tocsin, vec![round(2.0)]), (Server::Nats, vec![round(0.5), round(0.5)])];
    let rate = "100/s".parse().expect("a rate");
    let comparison =
        Comparison { schema: SCHEMA.to_owned(), connections: 10, rate, load_before: 0.0, servers };
    let text = comparison.to_string();
    let row = text.lines().find(|line| line.starts_with("one message p50")).expect("a row");
    assert!(row.contains("2.00 (1.00)") && row.contains("0.50 (0.25)"), "{row}");
    assert!(text.contains("not written, not signed, not acked"), "{text}");
    let json = serde_json::to_string(&comparison).expect("it is JSON");
    assert_eq!(serde_json::from_str::<Comparison>(&json).expect("it is one"), comparison);
}

#[test]
fn scenario_of_tocsin_is_one() {
    let plan = plan::load("peers/tocsin.toml", SCENARIO, &[]).expect("a scenario");
    let names: Vec<_> = plan.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["connect", "idle", "unicast", "broadcast", "storm"]);
}
