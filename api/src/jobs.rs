//! Jobs: loops that compare intended with actual, by period.
//!
//! Owns when they run. A job takes no input and waits for no signal: what cannot wait for a period
//! has a way of its own, such as the outbox, and the job finds what that way lost.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use crate::app::App;
use crate::http::Problem;
use crate::leases::Lease;
use crate::metrics;

/// What a run of a job found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing is left to do now.
    Nothing,
    /// A full batch was done: there may be more.
    More,
}

/// A job's name and its rhythm.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// Its name, for logs and metrics.
    pub name: &'static str,
    /// How often it looks, give or take a fifth.
    pub period: Duration,
}

/// Runs a job until the drain begins.
pub async fn run<F, Fut>(app: App, job: Job, work: F) -> Result<(), Infallible>
where
    F: Fn(App) -> Fut + Send,
    Fut: Future<Output = Result<Found, Problem>> + Send,
{
    loop {
        let pause = jittered(&app, job.period);
        tokio::select! {
            biased;
            () = app.drain.soft().cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        while !app.drain.is_draining() {
            match work(app.clone()).await {
                Ok(Found::More) => {}
                Ok(Found::Nothing) => break,
                Err(error) => {
                    metrics::job_failed(job.name);
                    tracing::warn!(job = job.name, error = %error, "job failed");
                    break;
                }
            }
        }
    }
}

/// Runs a job of which all nodes of a store need only one, while it is this one's.
pub(crate) async fn run_once<F, Fut>(app: App, job: Job, work: F) -> Result<(), Infallible>
where
    F: Fn(App, Lease) -> Fut + Send,
    Fut: Future<Output = Result<Found, Problem>> + Send,
{
    run(app, job, move |app| {
        let work = app.leases.of(job.name).map(|lease| work(app, lease));
        async move {
            match work {
                Some(work) => work.await,
                None => Ok(Found::Nothing),
            }
        }
    })
    .await
}

/// The period, give or take a fifth.
fn jittered(app: &App, period: Duration) -> Duration {
    let period = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
    let spread = app.entropy.below(period / 5 * 2 + 1);
    Duration::from_millis(period - period / 5 + spread)
}
