//! The metrics of this crate, declared with their help.
//!
//! Labels are closed enums, never ids.

use std::time::Duration;

use axum::http::StatusCode;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Declares the help of every metric. Harmless when called again.
pub fn describe() {
    describe_counter!("tocsin_api_requests_total", "Requests answered, by class of status");
    describe_histogram!("tocsin_api_request_seconds", "Time from a request's head to its answer");
    describe_counter!("tocsin_api_deliveries_total", "Commands handed to the broker, by outcome");
    describe_counter!("tocsin_api_receipts_total", "Receipts read, by judgement");
    describe_counter!("tocsin_api_upstream_frames_total", "Frames of agents read");
    describe_counter!("tocsin_api_jobs_failed_total", "Runs of jobs that failed");
    describe_gauge!("tocsin_api_broker_up", "1 while the broker answers this node");
    describe_gauge!("tocsin_api_upstream_waiting", "Messages of hubs that no node has committed");
    describe_gauge!("tocsin_api_hubs", "Hubs that hold a lease");
    describe_gauge!("tocsin_api_commands_unacked", "Commands that no device has on disk, by age");
    describe_counter!("tocsin_api_sink_events_total", "Events that a sink took, by sink");
    describe_counter!("tocsin_api_sink_failures_total", "Batches that a sink did not take");
    describe_counter!("tocsin_api_over_budget_total", "Orders refused by a budget");
    describe_counter!("tocsin_api_lockdowns_total", "Lockdowns begun by this node");
    describe_counter!("tocsin_api_factors_locked_total", "Second factors that somebody guessed at");
    describe_counter!("tocsin_api_break_glass_total", "Orders that left on break-glass");
    describe_histogram!("tocsin_api_orders_per_commit", "Orders written in one transaction");
    describe_gauge!("tocsin_api_writers_waiting", "Transactions that wait for their turn, by rank");
    describe_gauge!("tocsin_api_vault_waiting", "Texts that wait to be sealed by the present key");
    describe_counter!("tocsin_api_wakes_dropped_total", "Deliveries left to the redelivery job");
}

/// A request was answered.
pub(crate) fn request_answered(status: StatusCode, took: Duration) {
    let class = match status.as_u16() {
        0..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    counter!("tocsin_api_requests_total", "status" => class).increment(1);
    histogram!("tocsin_api_request_seconds").record(took.as_secs_f64());
}

/// Orders were committed together.
pub(crate) fn orders_committed(count: usize) {
    histogram!("tocsin_api_orders_per_commit")
        .record(cast(u64::try_from(count).unwrap_or(u64::MAX)));
}

/// Commands were or were not handed to a session.
pub(crate) fn deliveries(outcome: &'static str, count: usize) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    counter!("tocsin_api_deliveries_total", "outcome" => outcome).increment(count);
}

/// A receipt was judged.
pub(crate) fn receipt(judgement: &'static str) {
    counter!("tocsin_api_receipts_total", "judgement" => judgement).increment(1);
}

/// Frames of agents were read.
pub(crate) fn upstream_frames(count: usize) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    counter!("tocsin_api_upstream_frames_total").increment(count);
}

/// A run of a job failed.
pub(crate) fn job_failed(job: &'static str) {
    counter!("tocsin_api_jobs_failed_total", "job" => job).increment(1);
}

/// So many transactions of that rank wait for their turn.
pub(crate) fn writers_waiting(rank: &'static str, count: usize) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    gauge!("tocsin_api_writers_waiting", "rank" => rank).set(cast(count));
}

/// A delivery found its queue full.
pub(crate) fn wake_dropped() {
    counter!("tocsin_api_wakes_dropped_total").increment(1);
}

/// What waits in the broker; `None` when it does not answer.
pub(crate) fn broker(waiting: Option<u64>) {
    gauge!("tocsin_api_broker_up").set(if waiting.is_some() { 1.0 } else { 0.0 });
    if let Some(waiting) = waiting {
        gauge!("tocsin_api_upstream_waiting").set(cast(waiting));
    }
}

/// So many hubs hold a lease.
pub(crate) fn hubs(count: usize) {
    gauge!("tocsin_api_hubs").set(cast(u64::try_from(count).unwrap_or(u64::MAX)));
}

/// So many commands of that age have no ack.
pub(crate) fn unacked(age: &'static str, commands: u64) {
    gauge!("tocsin_api_commands_unacked", "age" => age).set(cast(commands));
}

#[expect(clippy::cast_precision_loss, reason = "nothing that is counted here reaches 2^52")]
const fn cast(count: u64) -> f64 {
    count as f64
}

/// An order left on the word of break-glass.
pub(crate) fn break_glass_used() {
    counter!("tocsin_api_break_glass_total").increment(1);
}

/// An order was refused by a budget.
pub(crate) fn over_budget() {
    counter!("tocsin_api_over_budget_total").increment(1);
}

/// A lockdown began here.
pub(crate) fn lockdown_began() {
    counter!("tocsin_api_lockdowns_total").increment(1);
}

/// So many texts wait to be sealed by the present key.
pub(crate) fn vault_waiting(count: u64) {
    gauge!("tocsin_api_vault_waiting").set(cast(count));
}

/// A sink took events.
pub(crate) fn sink_took(sink: &'static str, count: usize) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    counter!("tocsin_api_sink_events_total", "sink" => sink).increment(count);
}

/// A sink did not take a batch.
pub(crate) fn sink_failed(sink: &'static str) {
    counter!("tocsin_api_sink_failures_total", "sink" => sink).increment(1);
}

/// Somebody guesses codes of a second factor.
pub(crate) fn factor_locked() {
    counter!("tocsin_api_factors_locked_total").increment(1);
}
