//! Jobs: loops that compare intended with actual, woken by a signal and by period.
//!
//! Owns when they run. A job takes no input: a lost signal costs one period, never the work.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use tokio::sync::Notify;

use crate::app::{App, Wakes};
use crate::http::Problem;
use crate::metrics;

/// What a run of a job found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing is left to do now.
    Nothing,
    /// A full batch was done: there may be more.
    More,
}

/// Runs a job until the drain begins.
pub async fn run<F, Fut>(
    app: App,
    name: &'static str,
    wake: fn(&Wakes) -> &Notify,
    work: F,
) -> Result<(), Infallible>
where
    F: Fn(App) -> Fut + Send,
    Fut: Future<Output = Result<Found, Problem>> + Send,
{
    loop {
        let pause = jittered(&app);
        tokio::select! {
            biased;
            () = app.drain.soft().cancelled() => return Ok(()),
            () = wake(&app.wakes).notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        while !app.drain.is_draining() {
            match work(app.clone()).await {
                Ok(Found::More) => {}
                Ok(Found::Nothing) => break,
                Err(error) => {
                    metrics::job_failed(name);
                    tracing::warn!(job = name, error = %error, cause = ?error.source(), "job failed");
                    break;
                }
            }
        }
    }
}

/// The period, give or take a fifth.
fn jittered(app: &App) -> Duration {
    let period = u64::try_from(app.config.job_period.as_millis()).unwrap_or(u64::MAX);
    let spread = app.entropy.below(period / 5 * 2 + 1);
    Duration::from_millis(period - period / 5 + spread)
}
