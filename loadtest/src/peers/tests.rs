//! The arithmetic of a comparison, and the bytes of a message.

use super::table::median;
use super::*;
use crate::html::escape;
use crate::report::Quiet;
use crate::report::tests::{made_up, paths};

fn round(p50: f64) -> Round {
    let curve = vec![(50.0, p50), (99.0, 2.0 * p50)];
    let unicast_ms = Latency { count: 9, p50, p99: 2.0 * p50, curve, ..Latency::default() };
    Round {
        kib_per_connection: Some(10.0 * p50),
        quiet_cpu_us: Some(2.0),
        connects_per_sec: 900.0,
        cpu_us_per_connect: Some(800.0),
        unicast_ms,
        cpu_us_per_message: Some(90.0),
        client_cpu_us_per_message: Some(50.0),
        broadcast_last_ms: 300.0,
        storm_secs: 1.5,
    }
}

fn comparison() -> Comparison {
    let measured =
        |server: Server, rounds| Measured { server, promises: server.promises(), rounds };
    let servers = vec![
        measured(Server::Tocsin, vec![round(2.0)]),
        measured(Server::Nats, vec![round(0.5), round(0.5)]),
    ];
    let (median, ratio) = table::numbers(&servers);
    let machine = Machine {
        processors: 2,
        kernel: "6.1 <b>".to_owned(),
        load_before: 0.0,
        load_after: 0.0,
        steal_ms: Some(0),
    };
    Comparison {
        schema: SCHEMA.to_owned(),
        started_at_ms: 1,
        machine,
        connections: 10,
        rate: "100/s".parse().expect("a rate"),
        messages: 9,
        servers,
        median,
        ratio,
        missed: Vec::new(),
    }
}

#[test]
fn median_is_the_middle_of_the_rounds() {
    let number = |round: &Round| Some(round.unicast_ms.p50);
    let of = |values: &[f64]| {
        median(&values.iter().map(|value| round(*value)).collect::<Vec<_>>(), number)
    };
    assert_eq!(of(&[9.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    assert_eq!(of(&[]), None);
}

#[test]
fn table_says_what_each_does_not_do_and_has_ratios() {
    let text = comparison().to_string();
    let row = text.lines().find(|line| line.starts_with("one message p50")).expect("a row");
    assert!(row.contains("2.00 (1.00)") && row.contains("0.50 (0.25)"), "{row}");
    assert!(text.contains("No durable write, no signature, no ack"), "{text}");
}

#[test]
fn ratios_are_judged() {
    let mut comparison = comparison();
    let require = |text: &str| text.parse::<Requirement>().expect("a requirement");
    let holds = require("ratio.nats.unicast_p50_ms<=0.25");
    comparison.judge(&[holds, require("median.tocsin.kib_per_connection<=14")]).expect("numbers");
    assert_eq!(comparison.missed.len(), 1, "{:?}", comparison.missed);
    assert!(comparison.to_string().contains("MISSED    median.tocsin"));
}

#[test]
fn page_has_table_promises_and_plots_and_needs_nothing_else() {
    let page = page::page(&comparison());
    for part in [
        "<td>0.50 (0.25)</td>",
        "<td>durable write</td><td>yes</td><td>no</td>",
        "<td>signature</td><td>yes</td><td>no</td>",
        "<td>ack</td><td>yes</td><td>no</td>",
        "who is away misses it",
        "6.1 &lt;b&gt;",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for server in [Server::Tocsin, Server::Nats] {
        assert!(page.contains(&escape(&server.promises().sentence)), "{server:?}");
    }
    // One of percentiles, and the bars.
    assert_eq!((page.matches("<svg").count(), page.matches("<polyline").count()), (7, 2));
    for outside in ["http:", "https:", "src=", "href=", "url(", "<script", "<link", "//"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// Taking a field away or renaming one breaks those who read it: that is another schema.
#[test]
fn json_has_the_fields_of_its_schema() {
    let mut comparison = comparison();
    comparison.missed.push("x".to_owned());
    let json = serde_json::to_value(&comparison).expect("it is JSON");
    let mut found = Vec::new();
    paths(&json, "", &mut found);
    found.sort();
    found.dedup();
    let golden = include_str!("schema.txt");
    let expected: Vec<_> = golden.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(found, expected, "\n{}", found.join("\n"));
    assert_eq!(serde_json::from_value::<Comparison>(json).expect("it is one"), comparison);
}

#[test]
fn scenario_of_tocsin_is_one() {
    let plan = plan::load("peers/tocsin.toml", SCENARIO, &[]).expect("a scenario");
    let names: Vec<_> = plan.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["connect", "idle", "unicast", "broadcast", "storm"]);
}

/// A message passes through all of them, and so does a connection: presence and leases are Redis's work.
#[test]
fn every_process_of_tocsin_counts_for_connections_quiet_sessions_and_messages() {
    let mut report = made_up("tocsin", 1);
    let roles = ["hub-1", "api", "redis", "harness"];
    for role in roles {
        report.processes.insert(role.to_owned(), report.processes["hub-1"]);
    }
    let of = |values: [u64; 4]| roles.map(str::to_owned).into_iter().zip(values);
    let template = report.phases.remove(0);
    let phase = |name: &str, cpu_ms| PhaseReport {
        name: name.to_owned(),
        connected: 100,
        acked: 50,
        cpu_ms: of(cpu_ms).collect(),
        ..template.clone()
    };
    let quiet = of([100, 20, 30, 999]).map(|(role, value)| (role, float(value) * 10.0)).collect();
    let idle = PhaseReport {
        quiet: Some(Quiet { heartbeats: 1, secs: 25.0, cpu_us_by_role: quiet }),
        ..phase("idle", [0; 4])
    };
    report.phases = vec![phase("connect", [10, 4, 6, 99]), idle, phase("unicast", [1, 2, 2, 7])];
    let round = of_report(&report);
    let close = |found: Option<f64>, expected: f64| {
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-6), "{found:?}");
    };
    close(round.cpu_us_per_connect, 200.0);
    close(round.quiet_cpu_us, 0.6);
    close(round.cpu_us_per_message, 100.0);
    close(round.client_cpu_us_per_message, 140.0);
    // What is known of a part alone is known of nothing.
    report.phases[0].cpu_ms.remove("api");
    assert_eq!(of_report(&report).cpu_us_per_connect, None);
}
