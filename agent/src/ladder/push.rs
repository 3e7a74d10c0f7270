//! The push rung: always tries to hold one session, and moves it without a gap.

use std::time::{Duration, Instant};

use protocol::close::{Advice, CloseCode};
use protocol::frame::{AgentFrame, Mode, Reconnect};
use runtime::Backoff;
use runtime::lifecycle::CancellationToken;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::hubs::Hubs;
use super::socket::{self, AttemptError, Control, Session};
use super::suspend::Watch;
use super::{Obstacle, PushState, Shared};
use crate::reconcile::{Event, Linked};
use crate::status::Rung;

/// The longest wait that a hub may ask for before a reconnect.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);

/// A session with a renewed certificate takes over within this part of the certificate's life.
const SPREAD: u32 = 12;

/// How long a session must last to count as a success.
const PROVEN_AFTER: Duration = Duration::from_secs(10);

/// The session in use.
struct Live {
    number: u64,
    hub: String,
    /// Keeps the session open while a check-in carries the frames.
    frames: mpsc::Sender<AgentFrame>,
    mode: Mode,
    check_in: Duration,
    since: Instant,
}

struct Push {
    shared: Shared,
    state: watch::Sender<PushState>,
    control: mpsc::Sender<(u64, Control)>,
    sessions: JoinSet<()>,
    stop: CancellationToken,
    hubs: Hubs,
    backoff: Backoff,
    live: Option<Live>,
    opened: u64,
    failures: u32,
    attempt_at: Option<Instant>,
}

/// Runs until `stop`. `reached` says that a device which was told not to come back may try again.
pub(crate) async fn run(
    shared: Shared,
    state: watch::Sender<PushState>,
    reached: &Notify,
    mut suspend: Watch,
    stop: CancellationToken,
) {
    let (control, mut told) = mpsc::channel(16);
    let mut identity = shared.identity.clone();
    let mut push = Push {
        hubs: Hubs::starting(shared.entropy.next_u64()),
        backoff: Backoff::new(shared.config.backoff_base, shared.config.backoff_cap),
        attempt_at: Some(shared.clock.now()),
        shared,
        state,
        control,
        sessions: JoinSet::new(),
        stop: stop.clone(),
        live: None,
        opened: 0,
        failures: 0,
    };
    loop {
        let attempt_at = push.attempt_at;
        let is_stopped = *push.state.borrow() == PushState::Stopped;
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some((number, control)) = told.recv() => push.told(number, control),
            Some(_) = push.sessions.join_next() => {}
            Ok(()) = identity.changed() => push.renewed(),
            slept = suspend.slept() => push.woke(slept, is_stopped),
            () = reached.notified(), if is_stopped && attempt_at.is_none() => {
                push.attempt_at = Some(push.after_backoff());
            }
            () = at(&push.shared, attempt_at) => {
                push.attempt_at = None;
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = push.attempt() => {}
                }
            }
        }
    }
    // Each session sees the same stop, and says goodbye.
    drop(told);
    while push.sessions.join_next().await.is_some() {}
}

impl Push {
    async fn attempt(&mut self) {
        let known = self.known();
        let in_use = self.live.as_ref().map(|live| live.hub.as_str());
        let Some(hub) = self.hubs.next(&known, in_use, self.shared.clock.now()) else {
            return self.failed(None, AttemptError::NoAddress);
        };
        match socket::open(&self.shared, &hub).await {
            Ok(session) => self.opened(session, hub).await,
            Err(error) => self.failed(Some(&hub), error),
        }
    }

    /// The hubs of the configuration, and no others.
    fn known(&self) -> Vec<String> {
        self.shared.places.borrow().hubs.clone()
    }

    /// A session stands: it takes over from the former one, which ends when it has nothing left.
    async fn opened(&mut self, session: Session, hub: String) {
        self.opened += 1;
        let welcome = session.welcome().clone();
        let (frames, receiver) = mpsc::channel(super::FRAMES);
        self.shared.tell(Event::ServerTime(welcome.server_time)).await;
        self.shared.tell(Event::Linked(Linked { frames: frames.clone() })).await;
        let control = (self.opened, self.control.clone());
        let run = session.run(receiver, self.shared.events.clone(), control, self.stop.clone());
        self.sessions.spawn(run);
        self.shared.stands(Rung::Push, &hub, Some(welcome.session_id));
        // A hub must not make its agents besiege the control plane.
        let check_in = Duration::from_secs(u64::from(welcome.checkin_secs));
        let check_in = check_in.max(self.shared.config.check_in);
        let since = self.shared.clock.now();
        let number = self.opened;
        self.live = Some(Live { number, hub, frames, mode: Mode::Push, check_in, since });
        self.state.send_replace(PushState::Up { mode: Mode::Push, check_in });
    }

    fn failed(&mut self, hub: Option<&str>, mut error: AttemptError) {
        tracing::info!(error = super::chain(&error), "no session");
        if let Some(hub) = hub {
            let known = self.known();
            self.hubs.tried(hub, &known, (error.retry_after(), self.shared.clock.now()));
            let others = error.take_hubs();
            if !others.is_empty() {
                self.hubs.prefer(others, &known);
            }
        }
        self.failures = self.failures.saturating_add(1);
        if self.live.is_some() {
            // The former session still serves; moving away from it can wait.
            self.attempt_at = Some(self.after_backoff());
            return;
        }
        self.shared.falls(Rung::Push, &error);
        self.ended(error.close_code(), error.obstacle());
    }

    fn told(&mut self, number: u64, control: Control) {
        let Some(live) = self.live.as_mut().filter(|live| live.number == number) else { return };
        match control {
            Control::Mode(mode) => {
                if live.mode == Mode::Poll && mode == Mode::Push {
                    let linked = Linked { frames: live.frames.clone() };
                    // A full queue means that the core has enough to do; the check-in goes on.
                    if self.shared.events.try_send(Event::Linked(linked)).is_err() {
                        return;
                    }
                }
                live.mode = mode;
                self.state.send_replace(PushState::Up { mode, check_in: live.check_in });
            }
            Control::Reconnect(reconnect) => self.reconnect(reconnect),
            Control::Ended(code) => {
                let now = self.shared.clock.now();
                let lasted = now.saturating_duration_since(live.since);
                let hub = self.live.take().map(|live| live.hub).unwrap_or_default();
                self.judge(lasted);
                if code.map(CloseCode::advice) == Some(Advice::ReconnectElsewhere) {
                    let known = self.known();
                    self.hubs.tried(&hub, &known, (None, now));
                }
                let error = AttemptError::Closed(code);
                self.shared.falls(Rung::Push, &error);
                self.ended(code, Obstacle::Unreachable);
            }
        }
    }

    /// A `welcome` alone proves nothing: a hub that says it and closes must not keep its agents
    /// from the lower rungs, nor have them come back at once.
    fn judge(&mut self, lasted: Duration) {
        if lasted >= PROVEN_AFTER {
            self.backoff.reset();
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// Make before break: the next session opens while this one still serves.
    fn reconnect(&mut self, reconnect: Reconnect) {
        tracing::info!(reason = reconnect.reason, "hub asks to reconnect");
        // Not at once, however often a hub asks: the session in use serves meanwhile.
        let wait = Duration::from_millis(reconnect.after_ms).min(LONGEST_WAIT);
        let wait = wait.max(self.shared.config.backoff_base);
        let known = self.known();
        self.hubs.prefer(reconnect.hubs, &known);
        self.attempt_at = Some(self.shared.clock.now() + wait);
    }

    /// The certificate was renewed, or other authorities are trusted: a session that shows and knows
    /// them takes over before the hub ends this one with its certificate. All devices may have to do
    /// so at once.
    fn renewed(&mut self) {
        if self.live.is_none() {
            return;
        }
        let identity = self.shared.identity.borrow();
        let lasts = identity.not_after.since(identity.not_before);
        drop(identity);
        // A third of the former one is left, when it was renewed in time.
        let spread = (lasts / SPREAD).min(self.shared.config.check_in);
        let spread = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
        let wait = Duration::from_millis(self.shared.entropy.below(spread));
        let at = self.shared.clock.now() + wait;
        self.attempt_at = Some(self.attempt_at.map_or(at, |sooner| sooner.min(at)));
    }

    /// The machine slept: the session in use is likely to be over for the hub, and waiting for its
    /// silence to be noticed would take as long as for anybody else.
    fn woke(&mut self, slept: Duration, is_stopped: bool) {
        tracing::info!(slept_secs = slept.as_secs(), "machine slept");
        if is_stopped {
            return;
        }
        self.backoff.reset();
        self.failures = 0;
        // A host may wake all its machines at once.
        let spread = u64::try_from(self.shared.config.backoff_base.as_millis()).unwrap_or(0);
        let wait = Duration::from_millis(self.shared.entropy.below(spread.max(1)));
        self.attempt_at = Some(self.shared.clock.now() + wait);
    }

    /// There is no session: what follows from how the last one ended.
    fn ended(&mut self, code: Option<CloseCode>, obstacle: Obstacle) {
        let down = PushState::Down { failures: self.failures, obstacle };
        let advice = code.map_or(Advice::Reconnect, CloseCode::advice);
        match advice {
            Advice::Stop => {
                tracing::error!(code = ?code, "device was told not to come back");
                self.attempt_at = None;
                self.state.send_replace(PushState::Stopped);
                return;
            }
            Advice::Renew => self.shared.renew.notify_one(),
            // The hub was noted as tried, so the next one is another.
            Advice::ReconnectElsewhere | Advice::Reconnect => {}
        }
        self.attempt_at = Some(self.after_backoff());
        self.state.send_replace(down);
    }

    /// When to try again: full jitter, on top of what the next hub asked for.
    fn after_backoff(&mut self) -> Instant {
        let now = self.shared.clock.now();
        let in_use = self.live.as_ref().map(|live| live.hub.as_str());
        let next = self.hubs.next(&self.known(), in_use, now);
        let wait = next.map_or(Duration::ZERO, |hub| self.hubs.wait(&hub, now));
        now + wait + self.backoff.next(self.shared.entropy.next_u64())
    }
}

async fn at(shared: &Shared, at: Option<Instant>) {
    match at {
        Some(at) => {
            tokio::time::sleep(at.saturating_duration_since(shared.clock.now())).await;
        }
        None => std::future::pending().await,
    }
}
