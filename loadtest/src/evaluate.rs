//! What a played run amounts to: the numbers of the report.
//!
//! Pure arithmetic over edges between phases and the book. What cannot be told apart is not told.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::state::Lane;

use crate::ages::Buckets;
use crate::book::{Book, Part, Stream};
use crate::conductor::{Edge, Played, PlayedPhase};
use crate::layout::Layout;
use crate::meters::{self, is_harness, is_hub};
use crate::plan::{Audience, Phase, Plan, Population};
use crate::probe::{self, Usage};
use crate::report::{
    Cost, During, Harness, Hub, KernelCost, Latencies, Machine, PhaseLatencies, PhaseReport,
    Process, Quiet, Rates, Report, SCHEMA, Sample, Sessions, Stages, Stalled,
};
use crate::run::Options;
use crate::tally::Stage;

#[cfg(test)]
mod tests;

/// What there is to say besides measurements.
pub(crate) struct About<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) options: &'a Options,
    pub(crate) layout: &'a Layout,
    pub(crate) started_at_ms: u64,
    pub(crate) machine: Machine,
    pub(crate) notes: Vec<String>,
}

/// A count as a number to reckon with: true up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(crate) const fn float(count: u64) -> f64 {
    count as f64
}

/// The report.
pub(crate) fn report(about: About<'_>, played: Played, interrupted: bool) -> Report {
    let About { plan, options, layout, started_at_ms, mut machine, mut notes } = about;
    let last = played.phases.last().map_or(&played.began, |phase| &phase.edges[1]);
    notes.extend(meters::unknown(&last.readings));
    machine.steal_ms = probe::stolen_ms(played.began.stolen, last.stolen);
    let book = &played.book;
    let (modes, check_ins) = book.modes_and_check_ins();
    let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    let [connect, reconnect] = book.connections();
    let latency_ms = Latencies {
        unicast: with_hubs(stages(book, Part::Run(Stream::Unicast)), &played.phases, false),
        group: with_hubs(stages(book, Part::Run(Stream::Group)), &played.phases, true),
        during: stages(book, Part::During),
        connect,
        reconnect,
        hub_broadcast: book.broadcasts(),
    };
    let mut report = Report {
        schema: SCHEMA.to_owned(),
        scenario: options.scenario.clone(),
        label: options.label.clone(),
        started_at_ms,
        secs: last.at.since(played.began.at).as_secs_f64(),
        interrupted,
        machine,
        plan: plan.clone(),
        rates: Rates {
            push_back_secs: push_back(&played, plan),
            ..rates(&played.phases, &latency_ms)
        },
        counts: book.counts(),
        sessions: Sessions { connected: last.connected, dropped: last.dropped, modes, check_ins },
        hub: hub(&played),
        platform: cost(&played.phases, |role| !is_harness(role)),
        redis: cost(&played.phases, |role| role == "redis"),
        hub_and_redis: played
            .began
            .readings
            .contains_key("redis")
            .then(|| cost(&played.phases, |role| is_hub(role) || role == "redis"))
            .flatten(),
        harness: Harness {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workers: count(layout.shares.len()),
            sources: count(layout.sources.len()).max(1),
            messages: messages(&latency_ms),
            cpu_us_per_message: harness_cost(&played.phases, &latency_ms),
            cpu_ms: used(&played.began, last, is_harness).map(millis),
        },
        latency_ms,
        kernel: kernel(&played),
        stalled: stalled(&played, &plan.population),
        processes: processes(&played, last),
        phases: played.phases.iter().map(|phase| phase_report(&played, phase)).collect(),
        series: played.samples,
        errors: book.errors(),
        missed: Vec::new(),
        notes,
    };
    if let Ok(json) = report.json() {
        report.missed = plan.require.iter().filter_map(|require| require.missed(&json)).collect();
    }
    report
}

fn stages(book: &Book, part: Part) -> Stages {
    let [sent, stored, received, acked, confirmed] =
        Stage::ALL.map(|stage| book.latency(part, stage));
    Stages { sent, stored, routed: None, written: None, received, acked, confirmed }
}

/// The same with what hubs counted of these commands, of a group or of one device each. Where both are of one
/// lane in one phase, or a hub was not there all the time, nobody can tell.
fn with_hubs(stages: Stages, phases: &[PlayedPhase], is_group: bool) -> Stages {
    let mut sums = [Buckets::default(), Buckets::default()];
    for PlayedPhase { phase, ages, .. } in phases {
        let [one, all] = lanes(phase);
        // What devices that never read are sent counts for nobody.
        let is_read = phase.group.as_ref().is_some_and(|group| group.to == Audience::All);
        let (own, other) = if is_group { (all.filter(|_| is_read), one) } else { (one, all) };
        let Some(lane) = own else { continue };
        let Some(ages) = ages.as_ref().filter(|_| other != Some(lane)) else { return stages };
        for (sum, more) in sums.iter_mut().zip(ages.of(lane)) {
            *sum = sum.plus(more);
        }
    }
    let [routed, written] = sums.map(|sum| Some(sum.latency()).filter(|latency| latency.count > 0));
    Stages { routed, written, ..stages }
}

/// The lanes of what is ordered in a phase: of one device each, and of many at once.
fn lanes(phase: &Phase) -> [Option<Lane>; 2] {
    let one = phase.orders.as_ref().map(|orders| orders.verb.action().lane());
    let all = phase.group.as_ref().map(|group| group.verb.action().lane());
    [one, all]
}

/// Processor time between two edges, if all of it can be read.
fn used(before: &Edge, after: &Edge, is_meant: impl Fn(&str) -> bool) -> Option<Duration> {
    let sum = |edge: &Edge| meters::sum(&edge.readings, &is_meant).cpu;
    Some(sum(after)?.saturating_sub(sum(before)?))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn rates(phases: &[PlayedPhase], latencies: &Latencies) -> Rates {
    let seconds = |phase: &PlayedPhase| phase.edges[1].at.since(phase.edges[0].at).as_secs_f64();
    let mut rates = Rates::default();
    let ordering: Vec<_> = phases.iter().filter_map(|phase| phase.ordering).collect();
    let wanted: u64 = ordering.iter().map(|(_, count)| count).sum();
    if wanted > 0 {
        let took: f64 = ordering.iter().map(|(took, _)| took.as_secs_f64()).sum();
        rates.stored_per_sec = Some(float(latencies.unicast.stored.count) / took.max(1e-3));
        let intended = phases.iter().filter_map(|phase| phase.phase.orders.as_ref());
        rates.intended_per_sec = intended.map(|orders| orders.rate.per_sec()).reduce(f64::max);
    }
    let connecting: f64 = phases.iter().filter(|phase| phase.phase.connect).map(seconds).sum();
    if latencies.connect.count > 0 && connecting > 0.0 {
        rates.connects_per_sec = Some(float(latencies.connect.count) / connecting);
    }
    let back = phases.iter().filter_map(|phase| phase.back);
    rates.back_secs = back.map(|back| back.as_secs_f64()).reduce(f64::max);
    let closed = phases.iter().filter_map(|phase| phase.closed);
    rates.closed_secs = closed.map(|closed| closed.as_secs_f64()).reduce(f64::max);
    let last_ack = &latencies.group.acked;
    rates.last_ack_ms = (last_ack.count > 0).then_some(last_ack.max);
    rates
}

/// From each return of Redis until the last device was told to push again: the longest. `None` when it never
/// returned, or some were not told before the next fault or the end of the phase.
fn push_back(played: &Played, plan: &Plan) -> Option<f64> {
    let devices = usize::try_from(plan.population.connections).ok()?;
    let mut longest = None;
    for PlayedPhase { returned, edges, .. } in &played.phases {
        for (at, from) in returned.iter().enumerate() {
            let until = returned.get(at + 1).copied().unwrap_or(edges[1].at);
            let told = played.book.first_told(*from, until, devices)?;
            longest = longest.max(Some(told.since(*from)));
        }
    }
    longest.map(|longest| longest.as_secs_f64())
}

fn hub(played: &Played) -> Option<Hub> {
    let roles = played.began.readings.keys().filter(|role| is_hub(role));
    let processes: Vec<_> = roles.cloned().collect();
    if processes.is_empty() {
        return None;
    }
    let pss = |edge: &Edge| meters::sum(&edge.readings, is_hub).pss_kib.map(float);
    let memory = settled(played).filter(|edge| edge.connected > 0);
    let kib_per_connection =
        memory.and_then(|edge| Some((pss(edge)? - pss(&played.began)?) / float(edge.connected)));
    let connecting = played.phases.iter().find(|phase| {
        let phase = &phase.phase;
        phase.connect && phase.orders.is_none() && phase.group.is_none()
    });
    let cpu_us_per_connect =
        connecting.and_then(|PlayedPhase { edges: [before, after], .. }| {
            let came = after.connected.saturating_sub(before.connected);
            used(before, after, is_hub).filter(|_| came > 0).map(|cpu| micros(cpu) / float(came))
        });
    let cpu_us_per_command = per_command(&played.phases, is_hub);
    Some(Hub {
        processes,
        kib_per_connection,
        cpu_us_per_connection_second: quiet(played),
        cpu_us_per_connect,
        cpu_us_per_command,
    })
}

/// Processor time of the hubs for a session and second, in microseconds, over whole heartbeats.
fn quiet(played: &Played) -> Option<f64> {
    let (mut cpu, mut connection_secs) = (Duration::ZERO, 0.0);
    for PlayedPhase { edges: [_, after], measured, .. } in &played.phases {
        let Some((since, _)) = measured else { continue };
        cpu += used(since, after, is_hub)?;
        connection_secs += after.at.since(since.at).as_secs_f64() * float(after.connected);
    }
    (connection_secs > 0.0).then(|| micros(cpu) / connection_secs)
}

/// The edge at which everybody is there and nothing has been ordered yet: after the last quiet
/// phase before orders, else after connecting.
fn settled(played: &Played) -> Option<&Edge> {
    let calm = |phase: &&PlayedPhase| phase.phase.is_quiet() || phase.phase.connect;
    let calm = played.phases.iter().take_while(calm).filter(|phase| phase.edges[1].connected > 0);
    calm.last().map(|phase| &phase.edges[1])
}

/// Processor time of a command in phases with orders, in microseconds.
fn per_command(phases: &[PlayedPhase], is_meant: impl Fn(&str) -> bool + Copy) -> Option<f64> {
    let (mut cpu, mut acked) = (Duration::ZERO, 0);
    // Handshakes would count as the commands' where sockets are cut.
    let is_calm =
        |phase: &&PlayedPhase| phase.phase.cut_at_secs.is_none() && phase.phase.churn.is_none();
    for PlayedPhase { edges: [before, after], .. } in with_orders(phases).filter(is_calm) {
        cpu += used(before, after, is_meant)?;
        acked += after.counts.acked.saturating_sub(before.counts.acked);
    }
    (acked > 0).then(|| micros(cpu) / float(acked))
}

fn with_orders(phases: &[PlayedPhase]) -> impl Iterator<Item = &PlayedPhase> {
    phases.iter().filter(|phase| phase.phase.orders.is_some() || phase.phase.group.is_some())
}

fn cost(phases: &[PlayedPhase], is_meant: impl Fn(&str) -> bool + Copy) -> Option<Cost> {
    let is_known = phases.first()?.edges[0].readings.keys().any(|role| is_meant(role));
    let cpu_us_per_command = per_command(phases, is_meant).filter(|_| is_known)?;
    Some(Cost { cpu_us_per_command: Some(cpu_us_per_command) })
}

/// What the harness wrote and read: an order and its answer; a command, its ack, its receipt and
/// the confirmation.
const fn messages(latencies: &Latencies) -> u64 {
    let (one, many) = (&latencies.unicast, &latencies.group);
    2 * one.sent.count
        + one.received.count
        + one.acked.count
        + 2 * one.confirmed.count
        + many.received.count
        + many.acked.count
        + 2 * many.confirmed.count
}

fn harness_cost(phases: &[PlayedPhase], latencies: &Latencies) -> Option<f64> {
    let cpu = with_orders(phases)
        .map(|PlayedPhase { edges: [before, after], .. }| used(before, after, is_harness))
        .sum::<Option<Duration>>()?;
    let messages = messages(latencies);
    (messages > 0).then(|| micros(cpu) / float(messages))
}

fn kernel(played: &Played) -> Option<KernelCost> {
    let edge = settled(played)?;
    let (before, then) = (played.began.kernel, edge.kernel);
    let each = |then: u64, before: u64| (float(then) - float(before)) / float(edge.connected);
    let most = played.samples.iter().map(|sample| sample.kernel.socket_kib).max();
    Some(KernelCost {
        socket_kib_per_connection: each(then.socket_kib, before.socket_kib),
        slab_kib_per_connection: each(then.slab_kib, before.slab_kib),
        socket_kib_max: most.unwrap_or(then.socket_kib),
    })
}

/// What those cost that never read, beyond what everybody took before the first order. `None` unless hubs had all of
/// their sessions when the phase with orders for them began: of sessions that are gone nothing can be measured.
fn stalled(played: &Played, population: &Population) -> Option<Stalled> {
    let devices = population.stalled;
    let is_meant = |own: &PlayedPhase| {
        own.phase.group.as_ref().is_some_and(|group| group.to == Audience::Stalled)
    };
    let at = played.phases.iter().position(is_meant).filter(|_| devices > 0)?;
    let (earlier, under) = (&played.phases[..at], &played.phases[at]);
    let expected = population.connections + devices;
    under.sessions.filter(|sessions| *sessions >= expected)?;
    let [before, after] = &under.edges;
    let calm = settled(played).unwrap_or(before);
    let secs = |edge: &Edge| edge.at.since(played.began.at).as_secs_f64();
    let within = secs(before)..=secs(after);
    let samples = || played.samples.iter().filter(|sample| within.contains(&sample.at_secs));
    let hub_kib = |sample: &Sample| {
        let of_hubs = sample.pss_kib.iter().filter(|(role, _)| is_hub(role));
        float(of_hubs.map(|(_, kib)| kib).sum())
    };
    let each = |most: f64, before: f64| (most - before).max(0.0) / float(devices);
    let at_edge = |edge: &Edge| meters::sum(&edge.readings, is_hub).pss_kib.map(float);
    // A short phase may have no sample of its own.
    let hub_kib_each = at_edge(calm).zip(at_edge(after)).map(|(before, at_end)| {
        let most = samples().map(hub_kib).fold(at_end, f64::max);
        each(most, before)
    });
    let kernel_kib = samples().map(|sample| float(sample.kernel.socket_kib));
    let kernel_kib = kernel_kib.fold(float(after.kernel.socket_kib), f64::max);
    let p99 = |own: &PlayedPhase| {
        let acked = played.book.latency(Part::Chapter(own.chapter, Stream::Unicast), Stage::Acked);
        (acked.count > 0).then_some(acked.p99)
    };
    let without = earlier.iter().rev().find(|own| own.phase.orders.is_some());
    Some(Stalled {
        devices,
        hub_kib_each,
        kernel_kib_each: Some(each(kernel_kib, float(calm.kernel.socket_kib))),
        others_p99_ms_more: without.and_then(|without| Some(p99(under)? - p99(without)?)),
    })
}

fn processes(played: &Played, last: &Edge) -> BTreeMap<String, Process> {
    let of = |(role, usage): (&String, &Usage)| {
        let before = played.began.readings.get(role).copied().unwrap_or_default();
        let seen = played.samples.iter().filter_map(|sample| sample.pss_kib.get(role)).max();
        let process = Process {
            cpu_ms: usage
                .cpu
                .zip(before.cpu)
                .map(|(cpu, before)| millis(cpu.saturating_sub(before))),
            pss_before_kib: before.pss_kib,
            pss_max_kib: seen.copied().max(usage.pss_kib),
            written_kib: more(before.written_kib, usage.written_kib),
        };
        (role.clone(), process)
    };
    last.readings.iter().map(of).collect()
}

fn more(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    Some(after?.saturating_sub(before?))
}

/// What was ordered in that phase, and how it fared while something went on.
fn phase_latencies(book: &Book, played: &PlayedPhase) -> (Option<PhaseLatencies>, Option<During>) {
    let PlayedPhase { phase, chapter, .. } = played;
    if phase.orders.is_none() && phase.group.is_none() {
        return (None, None);
    }
    let alone = std::slice::from_ref(played);
    let of = |stream| {
        let own = stages(book, Part::Chapter(*chapter, stream));
        with_hubs(own, alone, stream == Stream::Group)
    };
    let latencies = PhaseLatencies { unicast: of(Stream::Unicast), group: of(Stream::Group) };
    let during = book.disturbed(*chapter).filter(|_| phase.orders.is_some());
    let during = during.map(|whole| During {
        what: phase.disturbance(),
        secs: whole.as_secs_f64(),
        latency_ms: stages(book, Part::ChapterDuring(*chapter)),
    });
    (Some(latencies), during)
}

fn quiet_report((since, heartbeats): &(Edge, u32), after: &Edge) -> Quiet {
    let of = |role: &String| Some((role.clone(), micros(used(since, after, |own| own == role)?)));
    Quiet {
        heartbeats: *heartbeats,
        secs: after.at.since(since.at).as_secs_f64(),
        cpu_us_by_role: after.readings.keys().filter_map(of).collect(),
    }
}

fn phase_report(run: &Played, played: &PlayedPhase) -> PhaseReport {
    let [before, after] = &played.edges;
    let (latency_ms, during) = phase_latencies(&run.book, played);
    let by_role = |value: &dyn Fn(&String) -> Option<u64>| {
        let with = |role: &String| Some((role.clone(), value(role)?));
        after.readings.keys().filter_map(with).collect()
    };
    let of = |edge: &Edge, role: &String| edge.readings.get(role).copied().unwrap_or_default();
    let written = |role: &String| more(of(before, role).written_kib, of(after, role).written_kib);
    PhaseReport {
        name: played.phase.name.clone(),
        at_secs: before.at.since(run.began.at).as_secs_f64(),
        secs: after.at.since(before.at).as_secs_f64(),
        connected: after.connected,
        ordered: after.counts.ordered - before.counts.ordered,
        acked: after.counts.acked.saturating_sub(before.counts.acked),
        latency_ms,
        during,
        quiet: played.measured.as_ref().map(|measured| quiet_report(measured, after)),
        steal_ms: probe::stolen_ms(before.stolen, after.stolen),
        cpu_ms: by_role(&|role| used(before, after, |own| own == role).map(millis)),
        pss_kib: by_role(&|role| of(after, role).pss_kib),
        written_kib: by_role(&written),
    }
}
