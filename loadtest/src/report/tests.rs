//! The JSON form and what is said of it.

use serde_json::Value;

use super::*;
use crate::latency::Durations;
use crate::plan::{load, shipped};

/// A report of made-up numbers: each latency is `scale` times what it is at scale 1.
pub(crate) fn made_up(label: &str, scale: u64) -> Report {
    let latency = |base: u64| {
        let durations = (1..=100).map(|n| std::time::Duration::from_micros(n * base * scale));
        durations.collect::<Durations>().latency()
    };
    let stages = |base| Stages {
        sent: latency(base),
        stored: latency(base * 10),
        routed: Some(latency(base * 11)),
        written: Some(latency(base * 11)),
        received: latency(base * 12),
        acked: latency(base * 13),
        confirmed: latency(base * 20),
    };
    let latency_ms =
        Latencies { unicast: stages(10), connect: latency(500), ..Latencies::default() };
    let sample = |second: u32| Sample {
        at_secs: f64::from(second),
        connected: 100,
        acked_per_sec: 50.0,
        acked_ms: [1.0, 5.0],
        pss_kib: BTreeMap::from([("hub-1".to_owned(), 20_000 + u64::from(second))]),
        cpu: BTreeMap::from([("hub-1".to_owned(), 0.1)]),
        kernel: Kernel { socket_kib: 400, sockets: 200, time_wait: 0, slab_kib: 90_000 },
    };
    let text = shipped("unicast").expect("it is shipped");
    let phase = phase(&latency_ms.unicast);
    Report {
        schema: SCHEMA.to_owned(),
        scenario: "unicast".to_owned(),
        label: label.to_owned(),
        started_at_ms: 1,
        secs: 20.0,
        interrupted: false,
        machine: machine(),
        plan: load("unicast", text, &[]).expect("it is a scenario"),
        latency_ms: Latencies { during: seen_from_outside(&latency_ms.unicast), ..latency_ms },
        counts: Counts { ordered: 100, received: 100, acked: 100, ..Counts::default() },
        sessions: Sessions { connected: 100, ..Sessions::default() },
        rates: Rates { stored_per_sec: Some(49.9), ..Rates::default() },
        hub: Some(Hub {
            processes: vec!["hub-1".to_owned()],
            kib_per_connection: Some(f64::from(u32::try_from(scale).expect("small")) * 12.0),
            cpu_us_per_connection_second: Some(1.5),
            cpu_us_per_connect: Some(600.0),
            cpu_us_per_command: None,
        }),
        platform: Some(Cost { cpu_us_per_command: Some(900.0) }),
        redis: None,
        hub_and_redis: None,
        harness: Harness {
            version: "0".to_owned(),
            workers: 1,
            sources: 1,
            messages: 600,
            cpu_us_per_message: Some(30.0),
            cpu_ms: Some(18),
        },
        kernel: None,
        stalled: None,
        processes: BTreeMap::from([("hub-1".to_owned(), process())]),
        phases: vec![phase],
        series: (0..20).map(sample).collect(),
        errors: BTreeMap::from([("<b>connect</b>".to_owned(), 2)]),
        missed: vec!["counts.lost==0: it is 3.000".to_owned()],
        notes: vec!["started by the harness: redis, api, hub-1".to_owned()],
    }
}

/// Without what only hubs know, of which it is not known when it was.
fn seen_from_outside(stages: &Stages) -> Stages {
    Stages { routed: None, written: None, ..stages.clone() }
}

fn machine() -> Machine {
    Machine {
        processors: 2,
        kernel: "6.1".to_owned(),
        load_before: 0.5,
        load_after: 1.5,
        steal_ms: Some(3),
    }
}

fn process() -> Process {
    Process {
        cpu_ms: Some(40),
        pss_before_kib: Some(9_000),
        pss_max_kib: Some(20_000),
        written_kib: Some(0),
    }
}

/// A phase in which something went on.
fn phase(unicast: &Stages) -> PhaseReport {
    let latency_ms = PhaseLatencies { unicast: unicast.clone(), group: unicast.clone() };
    PhaseReport {
        name: "orders".to_owned(),
        at_secs: 1.0,
        secs: 20.0,
        connected: 100,
        ordered: 100,
        acked: 100,
        latency_ms: Some(latency_ms),
        during: Some(During {
            what: "a <storm>".to_owned(),
            secs: 2.5,
            latency_ms: seen_from_outside(unicast),
        }),
        quiet: Some(Quiet {
            heartbeats: 3,
            secs: 75.0,
            cpu_us_by_role: BTreeMap::from([("hub-1".to_owned(), 1.5)]),
        }),
        steal_ms: Some(1),
        cpu_ms: BTreeMap::from([("hub-1".to_owned(), 90)]),
        pss_kib: BTreeMap::from([("hub-1".to_owned(), 20_000)]),
        written_kib: BTreeMap::from([("api".to_owned(), 4_000)]),
    }
}

#[test]
fn table_has_a_row_for_each_stage_that_was_measured() {
    let text = made_up("a", 1).to_string();
    for stage in ["sent", "stored", "routed", "written", "received", "acked", "confirmed"] {
        assert!(text.lines().any(|line| line.starts_with(stage)), "{stage}: {text}");
    }
    assert!(text.contains("from the making of the command"), "{text}");
    assert!(!text.contains("group"), "nothing was ordered of a group: {text}");
    for part in [
        "during acked",
        "2.5 s of orders, 100 orders: a <storm>",
        "2 × <b>connect</b>",
        "MISSED",
        "12.0 KiB per connection",
        "30 µs per message",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn json_is_read_as_it_was_written() {
    let report = made_up("a", 1);
    let text = serde_json::to_string(&report).expect("a report is JSON");
    assert_eq!(serde_json::from_str::<Report>(&text).expect("it is one"), report);
}

/// Every path of a document, with an `*` for the keys of maps and the places of lists.
pub(crate) fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
    let is_map = |at: &str| {
        [
            "processes",
            "errors",
            "pss_kib",
            "cpu",
            "cpu_ms",
            "written_kib",
            "median",
            "ratio",
            "cpu_us_by_role",
        ]
        .iter()
        .any(|map| at.ends_with(map))
    };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = if is_map(at) { "*" } else { key };
                paths(value, &format!("{at}.{key}"), found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| paths(item, &format!("{at}[]"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            found.push(at.trim_start_matches('.').to_owned());
        }
    }
}

/// Taking a field away or renaming one breaks those who read it: that is another schema.
#[test]
fn json_has_the_fields_of_its_schema() {
    let mut report = made_up("a", 1);
    report.kernel = Some(KernelCost {
        socket_kib_per_connection: 4.5,
        slab_kib_per_connection: 9.0,
        socket_kib_max: 900,
    });
    report.redis = report.platform;
    report.hub_and_redis = report.platform;
    report.stalled = Some(Stalled {
        devices: 50,
        hub_kib_each: Some(20.0),
        kernel_kib_each: Some(30.0),
        others_p99_ms_more: Some(-0.5),
    });
    let text = report.to_string();
    assert!(text.contains("20.0 KiB of the hubs at most for each"), "{text}");
    report.latency_ms.group = report.latency_ms.unicast.clone();
    report.latency_ms.reconnect = report.latency_ms.connect.clone();
    report.latency_ms.hub_broadcast = report.latency_ms.connect.clone();
    report.rates = Rates {
        intended_per_sec: Some(50.0),
        stored_per_sec: Some(50.0),
        connects_per_sec: Some(50.0),
        back_secs: Some(1.0),
        push_back_secs: Some(1.0),
        closed_secs: Some(1.0),
        last_ack_ms: Some(9.0),
    };
    let hub = report.hub.as_mut().expect("it has hubs");
    hub.cpu_us_per_command = Some(100.0);
    let json = report.json().expect("a report is JSON");
    let mut found = Vec::new();
    paths(&json, "", &mut found);
    // The plan has the schema of scenario files.
    found.retain(|path| !path.starts_with("plan."));
    found.sort();
    found.dedup();
    let golden = include_str!("schema.txt");
    let expected: Vec<_> = golden.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(found, expected, "\n{}", found.join("\n"));
    assert_eq!(json["schema"], SCHEMA);
}
