//! The arithmetic of sizes and fleets, on made-up numbers that can be reckoned by hand.

use std::collections::BTreeMap;

use serde_json::json;

use super::point::{Commands, Micros};
use super::*;
use crate::report::tests::{made_up, paths};
use crate::report::{PhaseReport, Quiet};

fn point(hubs: u32, connections: u64) -> Point {
    let each = |hub: f64| Micros { hub, redis: hub / 10.0, api: hub / 100.0, postgres: 0.0 };
    let commands = |per_sec: f64| Commands {
        count: 100,
        cpu_us: each(200.0),
        written_kib: 8.0,
        per_sec,
        p50_ms: 1.0,
        p99_ms: 5.0,
        last_ms: 500.0,
    };
    let sessions = crate::evaluate::float(connections);
    Point {
        label: point::label(hubs, connections),
        hubs,
        connections,
        hub_before_kib: 5_000.0,
        hub_kib: 6_000.0 + 10.0 * sessions,
        hub_kib_per_connection: (1_000.0 + 10.0 * sessions) / sessions,
        redis_kib_per_connection: 0.125,
        kernel_kib_per_connection: 8.0,
        connects_per_sec: 1_000.0,
        connect_cpu_us: each(800.0),
        // 2 µs each, and 2,000 that the process takes anyhow.
        quiet_cpu_us: each(2.0 + 2_000.0 / sessions),
        orders: commands(200.0),
        bulk: commands(2_000.0),
        back_secs: 4.0,
        reconnect_cpu_us: each(300.0),
        harness_us_per_order: 250.0,
        harness_us_per_connect: 400.0,
    }
}

fn scaling() -> Scaling {
    let text = json!({
        "schema": SCHEMA, "started_at_ms": 1, "secs": 60.0,
        "machine": { "processors": 2, "kernel": "6.1", "load_before": 0.0, "load_after": 1.0,
            "steal_ms": 7 },
        "points": [point(1, 1_000), point(1, 10_000), point(2, 10_000)],
        "check_ins": { "devices": 500, "count": 5_000, "written_kib": 0.5,
            "cpu_us": { "hub": 0.0, "redis": 10.0, "api": 90.0 } },
        "most": { "intended_per_sec": 4000.0, "stored_per_sec": 1000.0,
            "orders": point(1, 1_000).orders },
        "fleet": Fleet::default(), "derivation": [], "notes": ["<b>a size</b> was left out"],
    });
    let scaling: Scaling = serde_json::from_value(text).expect("the document's own form");
    scaling.with_fleet(Fleet { orders_per_day: 8.64, connects_per_day: 8.64, ..Fleet::default() })
}

fn value(scaling: &Scaling, part: &str, what: &str) -> f64 {
    let mut lines = scaling.derivation.iter();
    let line = lines.find(|line| line.part == part && line.what == what);
    line.unwrap_or_else(|| panic!("{part}: {what}")).value
}

#[test]
fn fleet_of_a_million_is_reckoned_from_what_was_measured() {
    let scaling = scaling();
    let close = |part: &str, what: &str, expected: f64| {
        let found = value(&scaling, part, what);
        assert!((found - expected).abs() < 1e-6 * expected.max(1.0), "{part} {what}: {found}");
    };
    close("hubs", "processes", 100.0);
    // What all sessions add, and what each process has anyhow: the line through both sizes.
    close("hubs", "memory", (10_000_000.0 + 100.0 * 6_000.0) / (1024.0 * 1024.0));
    close("hubs", "memory of their kernels for sockets", 4_000_000.0 / (1024.0 * 1024.0));
    close("hubs", "processor time of quiet sessions", 2.0 + 100.0 * 0.002);
    // 100 orders and connections a second.
    close("hubs", "processor time of orders", 0.02);
    close("hubs", "processor time of connections", 0.03);
    close("hubs", "processors to have", 4.5);
    close("hubs", "processor time while all come back", 0.5);
    close("Redis", "processor time of quiet sessions", 0.2 + 0.0002);
    close("Redis", "memory", 125_000.0 / (1024.0 * 1024.0));
    close("control plane", "processor time of check-ins", 0.1);
    close("store", "written to disk", (800.0 + 1e6 / 900.0 * 0.5) / 1024.0);
    close("store", "of the highest rate of orders of one writer", 10.0);
    close("store", "one order of everybody, until its last ack", 500.0 / 60.0);
}

#[test]
fn every_line_names_the_measurement_that_it_comes_from() {
    for line in scaling().derivation {
        assert!(!line.from.is_empty() && !line.how.is_empty(), "{line:?}");
        for given in &line.from {
            let is_known = ["1 hub, ", "2 hubs, ", derive::CHECK_INS, derive::MOST]
                .iter()
                .any(|of| given.of.starts_with(of));
            assert!(is_known, "{line:?}");
        }
    }
}

#[test]
fn one_size_alone_gives_memory_as_well() {
    let mut scaling = scaling();
    scaling.points = vec![point(1, 1_000)];
    let scaling = scaling.with_fleet(Fleet { devices: 1_000, ..Fleet::default() });
    // 11 KiB of each session, and what the process had before.
    let expected = (11_000.0 + 5_000.0) / (1024.0 * 1024.0);
    assert!((value(&scaling, "hubs", "memory") - expected).abs() < 1e-9);
}

#[test]
fn postgres_has_a_part_of_its_own_where_it_was_measured() {
    let without = scaling();
    assert!(without.derivation.iter().all(|line| line.part != "PostgreSQL"));
    assert!(!page::markdown(&without).contains("| PostgreSQL"), "and no rows");
    let mut with = without.clone();
    with.store = Store::Postgres;
    for point in &mut with.points {
        point.orders.cpu_us.postgres = 300.0;
        point.reconnect_cpu_us.postgres = 20.0;
        point.quiet_cpu_us.postgres = 1_000.0 / crate::evaluate::float(point.connections);
    }
    let check_ins = with.check_ins.as_mut().expect("they were measured");
    check_ins.cpu_us.postgres = 36.0;
    let fleet = with.fleet.clone();
    let with = with.with_fleet(fleet);
    let close = |what: &str, expected: f64| {
        let found = value(&with, "PostgreSQL", what);
        assert!((found - expected).abs() < 1e-6, "{what}: {found}");
    };
    // 100 orders and connections a second; a check-in of a million devices every quarter of an hour.
    close("processor time of orders", 0.03);
    close("processor time of connections", 0.002);
    close("processor time of check-ins", 0.04);
    close("processors to have", 2.0 * (0.03 + 0.002 + 0.04 + 0.001));
    let text = page::markdown(&with);
    assert!(text.contains("| PostgreSQL µs per order | 300 |"), "{text}");
    assert!(text.contains("µs of PostgreSQL, and 0.500 KiB written"), "{text}");
}

/// A fleet is reckoned anew from the document alone.
#[test]
fn another_fleet_needs_no_other_measurement() {
    let text = serde_json::to_string(&scaling()).expect("it is JSON");
    let read: Scaling = serde_json::from_str(&text).expect("it is one");
    let what = "processor time of quiet sessions";
    assert!((value(&read, "hubs", what) - 2.2).abs() < 1e-9);
    let half = read.with_fleet(Fleet { devices: 500_000, ..scaling().fleet });
    assert!((value(&half, "hubs", what) - 1.1).abs() < 1e-9);
}

#[test]
fn a_size_is_read_from_its_report_without_what_is_quiet_anyhow() {
    let mut report = made_up("x", 1);
    let phase = |name: &str, secs: f64, (hub, acked): (u64, u64)| PhaseReport {
        name: name.to_owned(),
        at_secs: 0.0,
        secs,
        connected: 1_000,
        ordered: acked,
        acked,
        latency_ms: None,
        during: None,
        quiet: None,
        steal_ms: None,
        cpu_ms: BTreeMap::from([("hub-1".to_owned(), hub), ("harness".to_owned(), 9_999)]),
        pss_kib: BTreeMap::from([("hub-1".to_owned(), 14_000)]),
        written_kib: BTreeMap::from([("api".to_owned(), 800)]),
    };
    // 10 µs for each session and second.
    report.phases = vec![
        phase("connect", 2.0, (700, 0)),
        phase("quiet", 10.0, (100, 0)),
        phase("orders", 10.0, (150, 100)),
        phase("storm", 5.0, (80, 0)),
    ];
    report.plan.population.connections = 1_000;
    let before = report.processes.get_mut("hub-1").expect("it is there");
    before.pss_before_kib = Some(4_000);
    report.latency_ms.reconnect.count = 1_000;
    let point = Point::of(&report, "x".to_owned(), 1);
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found}");
    close(point.hub_kib_per_connection, 10.0);
    close(point.connect_cpu_us.hub, 700.0);
    close(point.quiet_cpu_us.hub, 10.0);
    // 50 ms of 150 are the orders'.
    close(point.orders.cpu_us.hub, 500.0);
    close(point.orders.written_kib, 8.0);
    close(point.orders.per_sec, 10.0);
    close(point.reconnect_cpu_us.hub, 30.0);
}

#[test]
fn page_and_markdown_have_every_size_and_every_line() {
    let scaling = scaling();
    let (text, page) = (page::markdown(&scaling), page::page(&scaling));
    for point in &scaling.points {
        assert!(text.contains(&point.label) && page.contains(&point.label));
    }
    for line in &scaling.derivation {
        assert!(text.contains(&line.how) && page.contains(&crate::html::escape(&line.how)));
    }
    assert!(text.contains("| hubs | processes | 100 processes |"), "{text}");
    assert!(text.contains("Of 4000 orders a second, 1000 were taken"), "{text}");
    assert!(page.contains("&lt;b&gt;a size") && !page.contains("<b>a size"));
    assert_eq!(page.matches("<svg").count(), 4);
}

#[test]
fn own_scenarios_are_scenarios() {
    for (name, text) in [POINT, CHECK_INS, MOST] {
        plan::load(name, text, &[]).expect("a scenario");
    }
}

/// Taking a field away or renaming one breaks those who read it: that is another schema.
#[test]
fn json_has_the_fields_of_its_schema() {
    let mut scaling = scaling();
    scaling.fleet.per_hub = Some(1);
    let json = serde_json::to_value(&scaling).expect("it is JSON");
    let mut found = Vec::new();
    paths(&json, "", &mut found);
    found.sort();
    found.dedup();
    let golden = include_str!("schema.txt");
    let expected: Vec<_> = golden.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(found, expected, "\n{}", found.join("\n"));
}

#[test]
fn quiet_cost_is_that_of_whole_heartbeats_where_there_are_any() {
    let mut report = made_up("x", 1);
    let mut phase = report.phases.remove(0);
    phase.name = "quiet".to_owned();
    phase.secs = 75.0;
    phase.connected = 1_000;
    // What connecting left to do is in the phase, and not in its last two heartbeats.
    phase.cpu_ms = BTreeMap::from([("hub-1".to_owned(), 900)]);
    let cpu_us_by_role = BTreeMap::from([("hub-1".to_owned(), 75_000.0), ("api".to_owned(), 50.0)]);
    phase.quiet = Some(Quiet { heartbeats: 2, secs: 50.0, cpu_us_by_role });
    report.phases = vec![phase];
    report.plan.population.connections = 1_000;
    let point = Point::of(&report, "x".to_owned(), 1);
    assert!((point.quiet_cpu_us.hub - 1.5).abs() < 1e-9, "{:?}", point.quiet_cpu_us);
    assert!((point.quiet_cpu_us.api - 0.001).abs() < 1e-9, "{:?}", point.quiet_cpu_us);
}

/// A control plane that does nothing for devices has jobs all the same: a check-in is not to pay for them.
#[test]
fn check_in_is_without_what_is_done_whoever_is_there() {
    let background = Point::background(&[point(1, 10_000), point(1, 1_000)]);
    let quiet = point(1, 1_000).quiet_cpu_us;
    assert_eq!(
        background,
        Micros { redis: quiet.redis * 1e3, api: quiet.api * 1e3, ..Micros::default() }
    );
    let mut report = made_up("x", 1);
    let mut phase = report.phases.remove(0);
    phase.secs = 10.0;
    phase.cpu_ms = BTreeMap::from([("api".to_owned(), 300)]);
    report.phases = vec![phase.clone(), phase];
    report.sessions.check_ins = 100;
    let background = Micros { api: 20_000.0, ..Micros::default() };
    let found = CheckIns::of(&report, background).expect("there were some");
    // 600 ms in 20 s, of which 400 are the api's own.
    assert!((found.cpu_us.api - 2_000.0).abs() < 1e-6, "{found:?}");
}
