//! What is left to do below the push rung, as that one fares.

use std::time::{Duration, Instant};

use protocol::frame::Mode;
use runtime::Backoff;
use runtime::lifecycle::CancellationToken;
use tokio::sync::{Notify, watch};

use super::hubs::Hubs;
use super::rotation::Rotation;
use super::{Obstacle, PushState, Shared, check_in, long_poll};

/// What is to be done below the push rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    /// Nothing yet: a session may stand in a moment.
    Wait,
    /// The slow second look under a healthy session.
    Look(Duration),
    LongPoll,
    /// The last rung, at that pace.
    CheckIn(Duration),
}

/// Runs until `stop`. Each check-in that succeeds notifies `reached`.
pub(crate) async fn run(
    shared: Shared,
    mut push: watch::Receiver<PushState>,
    reached: &Notify,
    stop: CancellationToken,
) {
    let mut hubs = Hubs::starting(shared.entropy.next_u64());
    let mut api = Rotation::starting(shared.entropy.next_u64());
    let mut no_poll_before: Option<Instant> = None;
    let mut polls = Backoff::new(shared.config.backoff_base, shared.config.backoff_cap);
    loop {
        let may_poll = no_poll_before.is_none_or(|at| at <= shared.clock.now());
        let duty = duty(&shared, *push.borrow_and_update(), may_poll);
        let work = async {
            match duty {
                Duty::Wait => std::future::pending().await,
                Duty::Look(pace) => {
                    check_in::look(&shared, &mut api, pace).await;
                    None
                }
                Duty::CheckIn(pace) => {
                    check_in::carry(&shared, &mut api, pace, reached).await;
                    None
                }
                Duty::LongPoll => Some(long_poll::run(&shared, &mut hubs).await),
            }
        };
        let changed = changed(&shared, &mut push, duty, no_poll_before.filter(|_| !may_poll));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = changed => {}
            failed = work => if let Some(error) = failed {
                tracing::warn!(error = super::chain(&error), "long-poll failed, checking in");
                let pause = polls.next(shared.entropy.next_u64()).max(shared.config.backoff_base);
                no_poll_before = Some(shared.clock.now() + pause);
            },
        }
    }
}

fn duty(shared: &Shared, state: PushState, may_poll: bool) -> Duty {
    let config = &shared.config;
    match state {
        PushState::Down { failures, .. } if failures < config.attempts => Duty::Wait,
        PushState::Down { obstacle: Obstacle::Refused, .. } if may_poll => Duty::LongPoll,
        PushState::Down { .. } | PushState::Up { mode: Mode::Poll, .. } => {
            Duty::CheckIn(config.check_in)
        }
        PushState::Up { mode: Mode::Push, check_in } => {
            Duty::Look(check_in.min(config.check_in_healthy))
        }
        PushState::Stopped => Duty::CheckIn(config.check_in_healthy),
    }
}

/// Waits until something else is to be done: failures that only count up change nothing.
async fn changed(
    shared: &Shared,
    push: &mut watch::Receiver<PushState>,
    now_doing: Duty,
    may_poll_at: Option<Instant>,
) {
    let pause = may_poll_at.map(|at| at.saturating_duration_since(shared.clock.now()));
    let poll_again = async {
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => std::future::pending().await,
        }
    };
    let other = async {
        let differs = |state: &PushState| duty(shared, *state, pause.is_none()) != now_doing;
        let is_gone = push.wait_for(differs).await.is_err();
        if is_gone {
            // The push loop ends only when the agent stops.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = other => {}
        () = poll_again => {}
    }
}
