//! Every shipped scenario, tiny, against the real platform in processes of its own.
//!
//! They need the program `tocsin`, which a build of the whole workspace puts beside this crate's.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use loadtest::report::Report;

/// The program under test, and the one that it starts.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tocsin-loadtest");

fn tocsin() -> Option<PathBuf> {
    let beside = PathBuf::from(PROGRAM).with_file_name("tocsin");
    let is_there = beside.is_file();
    if !is_there {
        let why = "is not built; build the whole workspace";
        let said = writeln!(std::io::stderr(), "skipped: {} {why}", beside.display());
        said.expect("standard error is there");
    }
    is_there.then_some(beside)
}

/// Runs the program to its end.
fn load(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().expect("the program starts")
}

/// Runs a scenario with those changes, and reads its report. `None`: there is no platform here.
fn run(scenario: &str, args: &[&str]) -> Option<Report> {
    let tocsin = tocsin()?;
    let folder = tempfile::tempdir().expect("a folder");
    let (json, html) = (folder.path().join("report.json"), folder.path().join("report.html"));
    let [tocsin, json_text, html_text] =
        [&tocsin, &json, &html].map(|path| path.to_str().expect("a plain path"));
    let own = [scenario, "--tocsin", tocsin, "--json", json_text, "--html", html_text];
    let output = load(&[&own[..], args].concat());
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario}: {said}\n{errors}");
    let page = std::fs::read_to_string(html).expect("the page is written");
    assert!(page.contains("<svg") && page.ends_with("</body></html>\n"));
    let text = std::fs::read_to_string(json).expect("the report is written");
    Some(serde_json::from_str(&text).expect("it is a report"))
}

#[test]
fn idle_measures_what_a_quiet_session_costs() {
    let beats = ["--set", "platform.hub={heartbeat=\"300ms\"}"];
    let size = ["--connections", "20", "--secs", "1"];
    let Some(report) = run("idle", &[&size[..], &beats].concat()) else { return };
    let hub = report.hub.expect("the harness started it");
    assert_eq!(hub.processes, ["hub-1"]);
    assert!(hub.kib_per_connection.is_some() && hub.cpu_us_per_connection_second.is_some());
    let quiet = report.phases.iter().find_map(|phase| phase.quiet.as_ref()).expect("it was quiet");
    assert_eq!(quiet.heartbeats, 2);
    assert!(quiet.secs >= 0.6 && quiet.cpu_us_by_role["hub-1"] > 0.0, "{quiet:?}");
    assert!(report.processes.keys().any(|role| role == "redis"));
    assert!(!report.series.is_empty() && report.machine.processors > 0);
}

#[test]
fn connect_and_storm_bring_everybody_back() {
    let Some(report) = run("connect", &["--connections", "20"]) else { return };
    assert_eq!(report.latency_ms.connect.count, 20);
    assert!(report.rates.connects_per_sec.is_some());
    // A platform of others has limits: who is told to come again later does.
    let limits = ["--set", "platform.api={enrolls_per_min=120,enroll_burst=1}"];
    let report = run("connect", &[&["--connections", "4"][..], &limits].concat());
    assert_eq!(report.expect("it ran before").latency_ms.connect.count, 4);
    let cut = ["--connections", "20", "--secs", "1", "--set", "phase.storm.cut_at_secs=0.3"];
    let report = run("storm", &cut).expect("it ran before");
    assert_eq!(report.latency_ms.reconnect.count, 20);
    assert!(report.rates.back_secs.is_some() && report.counts.acked == report.counts.ordered);
    let storm = report.phases.iter().find(|phase| phase.name == "storm").expect("it was played");
    let during = storm.during.as_ref().expect("orders left while all were away");
    assert!(during.what.contains("cut") && during.secs > 0.0, "{during:?}");
    assert_eq!(during.latency_ms, report.latency_ms.during, "there was one");
    let all = report.latency_ms.unicast.acked.count;
    assert!(report.latency_ms.during.acked.count < all, "and calm before it");
}

#[test]
fn group_orders_reach_everybody_and_hold_urgent_ones_up_by_nothing_that_is_lost() {
    let quick = ["--connections", "10", "--set", "phase.bulk.group.rate=5/s"];
    let Some(report) = run("bulk", &quick) else { return };
    assert_eq!(report.latency_ms.group.acked.count, 30);
    assert!(report.rates.last_ack_ms.is_some() && report.latency_ms.unicast.acked.count == 0);
    let quick = ["--connections", "10", "--set", "phase.broadcast.group.rate=5/s"];
    let store = ["--set", "platform.store=postgres"];
    let report = run("broadcast", &[&quick[..], &store].concat()).expect("it ran before");
    assert_eq!(report.counts.confirmed, 50);
    let database = report.processes.get("postgres").expect("the harness started it");
    assert!(database.cpu_ms.is_some_and(|ms| ms > 0), "all of its processes: {database:?}");
    let both = [
        "--connections",
        "10",
        "--secs",
        "1",
        "--set",
        "phase.both.group.at_secs=0",
        "--set",
        "phase.both.group.rate=5/s",
    ];
    let report = run("urgent-under-bulk", &both).expect("it ran before");
    let latencies = &report.latency_ms;
    assert_eq!((latencies.unicast.acked.count, latencies.group.acked.count), (20, 30));
    let counts = [&latencies.unicast, &latencies.group].map(|own| own.routed.as_ref());
    let counts = counts.map(|routed| routed.expect("hubs tell the lanes apart").count);
    assert!(counts[0] >= 20 && counts[1] >= 30, "{counts:?}");
    let both = report.phases.iter().find(|phase| phase.name == "both").expect("it was played");
    let during = both.during.as_ref().expect("urgent orders left meanwhile");
    assert!(during.secs > 0.0 && during.what.contains("everybody"), "{during:?}");
}

#[test]
fn stalled_churning_and_polling_devices_lose_nothing() {
    let size = ["--connections", "10", "--secs", "1"];
    let Some(report) = run("churn", &size) else { return };
    assert!(report.latency_ms.reconnect.count > 0, "sockets were cut");
    let stalled = [&size[..], &["--set", "population.stalled=3"]].concat();
    let few = ["--set", "phase.under.group.times=4", "--set", "phase.under.group.rate=8/s"];
    let once = ["--set", "phase.before.group.times=1"];
    let report = run("slow-consumers", &[&stalled[..], &few, &once].concat());
    let report = report.expect("it ran before");
    assert_eq!(report.counts.ordered, report.counts.confirmed);
    let cost = report.stalled.expect("three never read");
    assert!(cost.devices == 3 && cost.others_p99_ms_more.is_some(), "{cost:?}");
    assert!(cost.hub_kib_each.is_some(), "{cost:?}");
    let short = ["--secs", "1", "--set", "population.polling=5"];
    let pace = ["--set", "population.check_in_secs=0.3"];
    let report = run("poll-only", &[&short[..], &pace].concat()).expect("it ran before");
    assert!(report.sessions.check_ins > 5 && report.counts.confirmed == report.counts.ordered);
    let mixed = ["--set", "phase.soak.group.at_secs=0", "--set", "phase.soak.group.times=1"];
    run("soak", &[&size[..], &mixed].concat()).expect("it ran before");
}

#[test]
fn drained_hub_and_dead_redis_lose_nothing() {
    let size = ["--connections", "10", "--secs", "4"];
    let faults = "phase.drain.fault=[{at_secs=0.3,what=\"drain\",process=\"hub-1\"},\
                  {at_secs=3,what=\"start\",process=\"hub-1\"}]";
    let drain = [&size[..], &["--set", faults]].concat();
    if run("drain", &drain).is_none() {
        return;
    }
    let faults = "phase.failover.fault=[{at_secs=0.3,what=\"kill\",process=\"redis\"},\
                  {at_secs=2.5,what=\"start\",process=\"redis\"}]";
    let pace = ["--set", "population.check_in_secs=0.3", "--set", faults];
    // A hub of a busy machine needs its time to find the server again and to say so to everybody.
    let size = ["--connections", "10", "--secs", "15"];
    let report = run("redis-failover", &[&size[..], &pace].concat()).expect("it ran before");
    assert!(report.sessions.modes >= 20, "everybody was told to poll, and to stop");
    assert_eq!(report.latency_ms.hub_broadcast.count, report.sessions.modes);
    assert!(report.sessions.check_ins > 0);
    assert!(report.rates.push_back_secs.is_some_and(|secs| secs > 0.0), "{:?}", report.rates);
}

#[test]
fn killed_hub_loses_nothing_and_dead_peers_are_noticed_when_something_urgent_waits() {
    let faults = "phase.killed.fault=[{at_secs=0.3,what=\"kill\",process=\"hub-1\"},\
                  {at_secs=2.5,what=\"start\",process=\"hub-1\"}]";
    let size = ["--connections", "10", "--secs", "4", "--rate", "20/s", "--set", faults];
    let Some(report) = run("hub-killed", &size) else { return };
    assert!(report.latency_ms.reconnect.count > 0, "its devices went to the other one");
    assert!(report.latency_ms.unicast.routed.is_none(), "what it had counted is gone");
    let size = ["--connections", "3", "--set", "population.stalled=3"];
    let report = run("dead-peers-urgent", &size).expect("it ran before");
    assert!(report.rates.closed_secs.is_some_and(|secs| secs > 0.0), "{:?}", report.rates);
}

#[test]
fn many_devices_are_spread_over_four_hubs() {
    let Some(report) = run("many", &["--connections", "40", "--secs", "1"]) else { return };
    let hubs = report.hub.expect("the harness started them").processes;
    assert_eq!(hubs, ["hub-1", "hub-2", "hub-3", "hub-4"]);
    // 100 orders of single devices, and one of everybody.
    assert_eq!((report.sessions.connected, report.counts.confirmed), (40, 140));
}

#[test]
fn workers_in_processes_of_their_own_count_like_one() {
    let sources = ["--source", "127.0.0.2", "--source", "127.0.0.3"];
    let size = ["--connections", "21", "--secs", "1", "--workers", "3", "--rate", "40/s"];
    let Some(report) = run("unicast", &[&size[..], &sources].concat()) else { return };
    assert_eq!((report.harness.workers, report.harness.sources), (3, 2));
    assert_eq!((report.sessions.connected, report.counts.confirmed), (21, 40));
    let workers = report.processes.keys().filter(|role| role.starts_with("harness-worker"));
    assert_eq!(workers.count(), 3, "their processor time counts as the harness's");
    let note = report.notes.join("\n");
    assert!(note.contains("3 worker processes") && note.contains("127.0.0.3"), "{note}");
    // Moments of other processes are of the same clock: no stage comes before the one before it.
    let latencies = report.latency_ms.unicast;
    assert!(latencies.received.p50 <= latencies.acked.p50, "{latencies:?}");
    assert!(latencies.acked.p50 <= latencies.confirmed.p50, "{latencies:?}");
    // Hubs count each command at least once. A mean is as good as its many whole milliseconds are.
    let by_hubs = latencies.routed.zip(latencies.written).expect("the harness started the hub");
    assert!(by_hubs.0.count >= 40 && by_hubs.1.count >= 40, "{by_hubs:?}");
    assert!(by_hubs.0.mean <= by_hubs.1.mean, "{by_hubs:?}");
}

/// The control plane stands still for two of three seconds. Only one order is out meanwhile, as
/// there is one connection: who counts from when orders left would find one slow order.
#[test]
fn orders_that_were_due_while_the_platform_stood_still_are_charged_to_it() {
    let faults = "phase.orders.fault=[{at_secs=0.5,what=\"stop\",process=\"api\"},\
                  {at_secs=2.5,what=\"continue\",process=\"api\"}]";
    let stall = ["--set", faults, "--set", "phase.orders.orders.desks=1"];
    let size = ["--connections", "5", "--secs", "3", "--rate", "40/s"];
    let Some(report) = run("unicast", &[&size[..], &stall].concat()) else { return };
    let stored = &report.latency_ms.unicast.stored;
    assert_eq!(stored.count, 120, "all of them left in the end");
    // Two thirds were due in the stall, and wait a second on average.
    assert!(stored.p50 > 250.0, "the median order was due in the stall: {stored:?}");
    assert!(stored.max > 1500.0, "one waited for all of it: {stored:?}");
    assert!(report.latency_ms.unicast.sent.p50 > 250.0, "and the report says that it left late");
}

#[test]
fn missed_requirements_and_wrong_usage_have_codes_of_their_own() {
    if tocsin().is_none() {
        return;
    }
    let size = ["connect", "--connections", "2", "--platform", "up"];
    let missed = load(&[&size[..], &["--require", "latency_ms.connect.p50<0.001"]].concat());
    let said = String::from_utf8_lossy(&missed.stdout);
    assert_eq!(missed.status.code(), Some(1), "{said}");
    assert!(said.contains("MISSED       latency_ms.connect.p50<0.001"), "{said}");
    let unknown = load(&["nonsense"]);
    assert_eq!(unknown.status.code(), Some(2));
    let typo = load(&["idle", "--set", "population.conections=1"]);
    assert_eq!(typo.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&typo.stderr).contains("conections"));
    let nowhere = load(&["idle", "--platform", "given"]);
    assert_eq!(nowhere.status.code(), Some(3));
}
