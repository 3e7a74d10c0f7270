//! What a run found: the JSON form, which README.md documents, and its numbers.
//!
//! Owns the shape of that document and nothing that measures. Numbers carry their unit in their
//! name; one that could not be measured is left out and never zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::book::Counts;
use crate::latency::Latency;
use crate::plan::Plan;
use crate::probe::Kernel;

#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod text;

/// What the JSON form calls itself. Fields may be added to it; none is taken away or changed.
pub const SCHEMA: &str = "tocsin-loadtest-2";

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The form of this document: [`SCHEMA`].
    pub schema: String,
    /// The name of the scenario.
    pub scenario: String,
    /// What the run is called in comparisons.
    pub label: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// How long it took, in seconds.
    pub secs: f64,
    /// Whether it ended before its time, by Ctrl-C.
    pub interrupted: bool,
    /// The machine.
    pub machine: Machine,
    /// The scenario with all changes.
    pub plan: Plan,
    /// Latencies, from the moment at which an order was meant to leave.
    pub latency_ms: Latencies,
    /// What came of the commands.
    pub counts: Counts,
    /// What came of the sessions.
    pub sessions: Sessions,
    /// How fast it went.
    pub rates: Rates,
    /// The hubs, if their processes are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<Hub>,
    /// All processes of the platform together, if they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Cost>,
    /// Redis, if its process is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Cost>,
    /// Hubs and Redis together, if both are processes of their own: what carries a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_and_redis: Option<Cost>,
    /// The harness itself.
    pub harness: Harness,
    /// The kernel's memory for sockets, both ends of every connection on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelCost>,
    /// What devices that never read cost, if there were any and orders for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Stalled>,
    /// Every process that was looked at, by role.
    pub processes: BTreeMap<String, Process>,
    /// The phases, in order.
    pub phases: Vec<PhaseReport>,
    /// How it went over time.
    pub series: Vec<Sample>,
    /// What went wrong, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Requirements that were missed.
    pub missed: Vec<String>,
    /// What the harness did to make the run.
    pub notes: Vec<String>,
}

/// The machine that it ran on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its processors.
    pub processors: u64,
    /// Its kernel.
    pub kernel: String,
    /// Processes that wanted to run before the run, averaged over a minute.
    pub load_before: f64,
    /// The same after the run.
    pub load_after: f64,
    /// Time that other machines of the same host took from its processors within the run, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal_ms: Option<u64>,
}

/// Latencies of one stream of orders, by stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    /// The request was handed to an open connection: how late the harness is itself.
    pub sent: Latency,
    /// Answered 201: accepted, and on the store's disk.
    pub stored: Latency,
    /// The session of its device had it from the broker: counted by the hubs, from the making of the command. Left
    /// out where their clock is not known to be the control plane's, or what they counted is not of these
    /// commands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<Latency>,
    /// Its frame was flushed to the socket: counted like `routed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Latency>,
    /// The agent read the frame: routed and written.
    pub received: Latency,
    /// Verified, and the ack was written to the socket.
    pub acked: Latency,
    /// The agent was told that the store has its receipt.
    pub confirmed: Latency,
}

impl Stages {
    /// All of them that are known with their names, in order.
    pub fn named(&self) -> Vec<(&'static str, &Latency)> {
        let all = [
            ("sent", Some(&self.sent)),
            ("stored", Some(&self.stored)),
            ("routed", self.routed.as_ref()),
            ("written", self.written.as_ref()),
            ("received", Some(&self.received)),
            ("acked", Some(&self.acked)),
            ("confirmed", Some(&self.confirmed)),
        ];
        all.into_iter().filter_map(|(name, latency)| Some((name, latency?))).collect()
    }
}

/// All latencies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Of orders of one device each.
    #[serde(flatten)]
    pub unicast: Stages,
    /// Of commands of group orders.
    pub group: Stages,
    /// Of orders of one device each that were meant to leave while something went on: from a cut until
    /// all were back, from a group order until its last ack. What a gate of a scenario is about.
    #[serde(default)]
    pub during: Stages,
    /// Of first connections: from the moment at which it was meant to begin, or without a rate from its
    /// first packet, to `welcome`.
    pub connect: Latency,
    /// Of later connections: from the cut or the loss of the one before it to `welcome`, with every wait.
    pub reconnect: Latency,
    /// Of what a hub told every session by itself, with no order and no store: from the first device that
    /// read it to each.
    #[serde(default)]
    pub hub_broadcast: Latency,
}

/// Latencies of what was ordered in one phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseLatencies {
    /// Of orders of one device each.
    #[serde(flatten)]
    pub unicast: Stages,
    /// Of commands of group orders.
    pub group: Stages,
}

/// The part of a quiet phase that is measured: its last whole heartbeats. What connecting left to do is
/// over by then, and each session is pinged as often as that.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quiet {
    /// How many heartbeats.
    pub heartbeats: u32,
    /// How long, in seconds.
    pub secs: f64,
    /// Processor time by role, in microseconds.
    pub cpu_us_by_role: BTreeMap<String, f64>,
}

/// The part of a phase in which something went on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct During {
    /// What.
    pub what: String,
    /// How long, each second counted once.
    pub secs: f64,
    /// Latencies of orders of one device each that were meant to leave within it.
    pub latency_ms: Stages,
}

/// What came of the sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Devices that had a session in the end, or had checked in.
    pub connected: u64,
    /// Sessions that ended without being asked to.
    pub dropped: u64,
    /// Frames that told agents to poll, or that they need no longer.
    pub modes: u64,
    /// Check-ins that were answered.
    pub check_ins: u64,
}

/// How fast it went; what did not happen is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Orders of one device each, as they were meant to leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intended_per_sec: Option<f64>,
    /// The rate at which they were answered 201.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_per_sec: Option<f64>,
    /// First connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connects_per_sec: Option<f64>,
    /// From the cut of all sockets until all were back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_secs: Option<f64>,
    /// From the return of Redis until the last of the devices with a session was told that it need not poll any
    /// more: the longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_back_secs: Option<f64>,
    /// Until hubs had ended the sessions of all devices that never read, from the first order for them or from the
    /// beginning of the phase: the longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_secs: Option<f64>,
    /// From the moment at which a group order was meant to leave to its last ack: the longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ack_ms: Option<f64>,
}

/// What the hubs cost. With `up`, their process has the control plane in it as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hub {
    /// Their processes.
    pub processes: Vec<String>,
    /// Memory (PSS) of a quiet session, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kib_per_connection: Option<f64>,
    /// Processor time of a quiet session and second, in microseconds: over whole heartbeats, after one has
    /// passed. Left out where a quiet phase has no room for two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_connection_second: Option<f64>,
    /// Processor time of a connection, from TCP to `welcome`, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_connect: Option<f64>,
    /// Processor time of a command, heartbeats included, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_command: Option<f64>,
}

/// What something cost for each command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Processor time of a command that was acked, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_command: Option<f64>,
}

/// The harness itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Harness {
    /// Its version.
    pub version: String,
    /// Processes that held sessions.
    pub workers: u64,
    /// Addresses that their connections came from.
    pub sources: u64,
    /// Messages that it wrote or read: orders, answers, commands, acks, receipts, confirmations.
    pub messages: u64,
    /// Processor time of a message, in phases with orders, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_message: Option<f64>,
    /// Processor time of all its processes, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
}

/// The kernel's memory for sockets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KernelCost {
    /// Buffers of both ends of a connection, in KiB.
    pub socket_kib_per_connection: f64,
    /// Objects of the kernel for both ends of a connection, in KiB, with whatever else it kept more
    /// of meanwhile: true on a machine that does nothing else.
    #[serde(default)]
    pub slab_kib_per_connection: f64,
    /// The most that all TCP sockets of the machine had, in KiB.
    pub socket_kib_max: u64,
}

/// What devices that never read cost while they are sent orders. Nothing is said unless the hubs had all of their
/// sessions when that began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Stalled {
    /// How many there were.
    pub devices: u64,
    /// Memory of the hubs for each at its highest, beyond what everybody took before the first order, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_kib_each: Option<f64>,
    /// Socket buffers of the kernel for each at their highest, beyond those before the first order, both ends, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_kib_each: Option<f64>,
    /// How much longer the 99th percentile of the others was, from order to ack, than in the phase with orders before
    /// it, in milliseconds; less than nothing where it was shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others_p99_ms_more: Option<f64>,
}

/// One process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Processor time within the run, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Memory (PSS) before anybody connected, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pss_before_kib: Option<u64>,
    /// The most that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pss_max_kib: Option<u64>,
    /// What it had written to disks within the run, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_kib: Option<u64>,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// When it began, in seconds from the beginning of the run.
    pub at_secs: f64,
    /// How long it took.
    pub secs: f64,
    /// Devices with a session at its end.
    pub connected: u64,
    /// Commands that were ordered and acked in it.
    pub ordered: u64,
    /// Of these and earlier ones: acked in it.
    pub acked: u64,
    /// Latencies of what was ordered in it, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<PhaseLatencies>,
    /// The part of it in which something went on, if orders of one device each left meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<During>,
    /// The part of it that is measured, if it is quiet and long enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Quiet>,
    /// Time that other machines took from the processors, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal_ms: Option<u64>,
    /// Processor time by role, in milliseconds.
    pub cpu_ms: BTreeMap<String, u64>,
    /// Memory (PSS) at its end by role, in KiB.
    #[serde(default)]
    pub pss_kib: BTreeMap<String, u64>,
    /// What was written to disks by role, in KiB.
    #[serde(default)]
    pub written_kib: BTreeMap<String, u64>,
}

/// How things stood at a moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds from the beginning of the run.
    pub at_secs: f64,
    /// Devices with a session.
    pub connected: u64,
    /// Commands acked per second, since the sample before.
    pub acked_per_sec: f64,
    /// Median and 99th percentile of the acks since the sample before, in milliseconds.
    pub acked_ms: [f64; 2],
    /// Memory (PSS) by role, in KiB.
    pub pss_kib: BTreeMap<String, u64>,
    /// Processors in use by role, since the sample before.
    pub cpu: BTreeMap<String, f64>,
    /// The kernel.
    pub kernel: Kernel,
}

impl Report {
    /// The JSON form.
    ///
    /// # Errors
    /// None that a report can have: every key is a text and every number is finite.
    pub fn json(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(self)
    }

    /// What could not be read of the platform's processes, for people; `None`: everything was.
    pub fn lacks(&self) -> Option<String> {
        let is_whole = |process: &Process| {
            process.cpu_ms.is_some()
                && process.pss_max_kib.is_some()
                && process.written_kib.is_some()
        };
        let lacking = self.processes.iter().filter(|(_, process)| !is_whole(process));
        let roles: Vec<_> = lacking.map(|(role, _)| role.as_str()).collect();
        (!roles.is_empty()).then(|| format!("only root may read all of {}", roles.join(", ")))
    }

    /// Whether the platform did as it should.
    pub const fn is_good(&self) -> bool {
        self.missed.is_empty()
    }
}
