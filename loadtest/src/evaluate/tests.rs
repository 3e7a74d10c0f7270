//! What numbers are told of a run, and which are not.

use std::sync::Arc;

use runtime::Clock;

use super::*;
use crate::ages::Ages;
use crate::book::Counts;
use crate::moment::{Moment, Timeline};
use crate::plan::{load, shipped};
use crate::probe::Kernel;
use crate::tally::{Notes, Told};

fn edge(at: Moment, hub: Usage) -> Edge {
    Edge {
        at,
        readings: [("hub-1".to_owned(), hub)].into(),
        counts: Counts::default(),
        connected: 100,
        dropped: 0,
        kernel: Kernel::default(),
        stolen: None,
    }
}

/// A run of one quiet phase of four seconds, of which the last two are measured if there is room.
fn quiet_run(usage: [Usage; 3], has_room: bool) -> Played {
    let start = Timeline::new(Clock::system()).expect("a clock").now();
    let [before, since, after] = usage;
    let at = |secs, usage| edge(start.plus(Duration::from_secs(secs)), usage);
    let plan = load("idle", shipped("idle").expect("it is shipped"), &[]).expect("a scenario");
    let phase = PlayedPhase {
        phase: plan.phases.into_iter().find(|phase| phase.is_quiet()).expect("it is quiet"),
        edges: [at(0, before), at(4, after)],
        back: None,
        closed: None,
        returned: Vec::new(),
        measured: has_room.then(|| (at(2, since), 2)),
        chapter: 0,
        ordering: None,
        ages: None,
        sessions: None,
    };
    let began = at(0, before);
    Played { began, phases: vec![phase], samples: Vec::new(), book: Arc::default() }
}

fn used_so_far(cpu_ms: u64, pss_kib: Option<u64>) -> Usage {
    Usage { pss_kib, cpu: Some(Duration::from_millis(cpu_ms)), written_kib: None }
}

/// What connecting left to do is in the first half and counts for nothing.
#[test]
fn quiet_session_costs_what_whole_heartbeats_cost() {
    let usage = [(0, 1000), (900, 2000), (901, 2000)].map(|(cpu, kib)| used_so_far(cpu, Some(kib)));
    let found = hub(&quiet_run(usage, true)).expect("there is a hub");
    let per_second = found.cpu_us_per_connection_second.expect("it is measured");
    assert!((per_second - 5.0).abs() < 1e-9, "1 ms for 100 sessions and two seconds: {per_second}");
    assert_eq!(found.kib_per_connection, Some(10.0));
    let short = hub(&quiet_run(usage, false)).expect("there is a hub");
    assert_eq!(short.cpu_us_per_connection_second, None, "no room for whole heartbeats");
}

/// As nobody but root reads the memory of a hub: its processor time is known all the same, and its
/// memory must not be nothing.
#[test]
fn memory_that_may_not_be_read_is_left_out_and_the_rest_is_told() {
    let usage = [0, 900, 901].map(|cpu| used_so_far(cpu, None));
    let found = hub(&quiet_run(usage, true)).expect("there is a hub");
    assert_eq!(found.kib_per_connection, None);
    assert!(found.cpu_us_per_connection_second.is_some());
    let unseen = hub(&quiet_run([Usage::default(); 3], true)).expect("it was named");
    assert_eq!(unseen.cpu_us_per_connection_second, None, "there is no such process");
}

/// What hubs counted of both lanes: so many commands each, of a few milliseconds.
fn ages(urgent: u64, bulk: u64) -> Ages {
    let name = "tocsin_push_hub_routed_age_seconds";
    let lane = |lane: &str, count: u64| {
        format!(
            "{name}_bucket{{lane=\"{lane}\",le=\"0.0045\"}} {count}\n\
             {name}_sum{{lane=\"{lane}\"}} 0\n{name}_count{{lane=\"{lane}\"}} {count}\n"
        )
    };
    Ages::read(&[lane("urgent", urgent), lane("bulk", bulk)].concat())
}

/// A phase of a scenario with orders, and what hubs counted in it.
fn ordering(scenario: &str, changes: &[&str], ages: Option<Ages>) -> PlayedPhase {
    let text = shipped(scenario).expect("it is shipped");
    let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
    let plan = load(scenario, text, &changes).expect("a scenario");
    let mut phases = plan.phases.into_iter().rev();
    let phase = phases.find(|phase| phase.group.is_some()).expect("it has one");
    let start = Timeline::new(Clock::system()).expect("a clock").now();
    let edges = [edge(start, Usage::NOTHING), edge(start, Usage::NOTHING)];
    let played = quiet_run([Usage::NOTHING; 3], false).phases.remove(0);
    PlayedPhase { phase, edges, ages, ..played }
}

#[test]
fn hubs_tell_the_lanes_apart_and_what_is_mixed_or_partly_unknown_is_not_told() {
    let counts = |phases: &[PlayedPhase]| {
        let of = |is_group| with_hubs(Stages::default(), phases, is_group).routed;
        [of(false), of(true)].map(|routed| routed.map(|routed| routed.count))
    };
    let both = |ages| ordering("urgent-under-bulk", &[], ages);
    assert_eq!(counts(&[both(Some(ages(3, 7)))]), [Some(3), Some(7)]);
    assert_eq!(counts(&[both(Some(ages(3, 7))), both(Some(ages(1, 2)))]), [Some(4), Some(9)]);
    assert_eq!(counts(&[both(Some(ages(3, 7))), both(None)]), [None, None], "a hub was killed");
    let alike = ordering("urgent-under-bulk", &["phase.both.group.verb=lock"], Some(ages(9, 0)));
    assert_eq!(counts(&[alike]), [None, None], "both are urgent");
    let stalled = ordering("slow-consumers", &[], Some(ages(3, 7)));
    assert_eq!(counts(&[stalled]), [Some(3), None], "nobody is to read those");
}

/// Two devices; the second is told half a second after the first. What was told while Redis was away is not meant.
#[test]
fn push_is_back_when_the_last_device_was_told_so() {
    let plan = load("idle", shipped("idle").expect("it is shipped"), &[]).expect("a scenario");
    let plan = |connections| {
        let mut plan = plan.clone();
        plan.population.connections = connections;
        plan
    };
    let mut played = quiet_run([Usage::NOTHING; 3], false);
    let began = played.began.at;
    let at = |ms| began.plus(Duration::from_millis(ms));
    played.phases[0].returned = vec![at(1_000)];
    let told = [(0, 200), (0, 300), (1, 1_900), (1, 2_400)];
    let told = told.map(|(before, ms)| Told { before, at: at(ms) });
    played.book.take_in(Notes { told: told.into(), ..Notes::default() });
    assert_eq!(push_back(&played, &plan(2)), Some(1.4));
    assert_eq!(push_back(&played, &plan(3)), None, "one was never told");
    played.phases[0].returned.clear();
    assert_eq!(push_back(&played, &plan(2)), None, "it was not away");
}

/// Hubs have 100 MiB at the beginning of the phase, and a sample in it and one after it says how much more.
#[test]
fn what_devices_that_never_read_cost_is_the_most_of_their_phase_alone() {
    let mut played = quiet_run([used_so_far(0, Some(102_400)); 3], false);
    let phase = ordering("slow-consumers", &[], None);
    let edges = played.phases[0].edges.clone();
    played.phases = vec![PlayedPhase { edges, sessions: Some(101), ..phase }];
    let text = shipped("slow-consumers").expect("it is shipped");
    let plan = load("slow-consumers", text, &[]).expect("a scenario");
    let of = |stalled| Population { connections: 1, stalled, ..plan.population.clone() };
    let sample = |at_secs: f64, kib: u64, socket_kib: u64| Sample {
        at_secs,
        pss_kib: [("hub-1".to_owned(), kib), ("redis".to_owned(), 9_999_999)].into(),
        kernel: Kernel { socket_kib, ..Kernel::default() },
        ..Sample::default()
    };
    played.samples =
        vec![sample(1.0, 104_400, 300), sample(3.0, 103_000, 100), sample(9.0, 999_999, 9_999)];
    let found = stalled(&played, &of(100)).expect("they were sent orders");
    assert_eq!((found.hub_kib_each, found.kernel_kib_each), (Some(20.0), Some(3.0)));
    assert_eq!(found.others_p99_ms_more, None, "there was nothing before it");
    assert_eq!(stalled(&played, &of(0)), None, "there was nobody");
    played.samples.clear();
    let found = stalled(&played, &of(100)).expect("they were sent orders");
    assert_eq!(found.hub_kib_each, Some(0.0), "without a sample, what the end of the phase says");
    played.phases[0].sessions = Some(100);
    assert_eq!(stalled(&played, &of(100)), None, "a hub had closed one before");
    played.phases[0].sessions = None;
    assert_eq!(stalled(&played, &of(100)), None, "the hubs did not say");
}
