//! The rungs of one device: a session with a hub, and the check-in below it, at the product's pace.

use std::time::{Duration, Instant};

use agent::config::LadderConfig;
use protocol::close::{Advice, CloseCode};
use protocol::frame::Mode;
use protocol::session::agent::{AgentHandshake, AgentSession};
use runtime::Backoff;

use crate::link::LinkId;
use crate::scene::Scene;

/// How long a session must last to count as a success.
const PROVEN_AFTER: Duration = Duration::from_secs(10);
/// What a check-in may take.
const CHECK_IN_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection whose hub has not said `welcome` yet.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) link: LinkId,
    pub(crate) handshake: Option<AgentHandshake>,
    pub(crate) deadline: Instant,
}

/// The session in use.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) link: LinkId,
    pub(crate) machine: AgentSession,
    pub(crate) mode: Mode,
    since: Instant,
}

/// What is to be done below the push rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    Wait,
    Look,
    CheckIn(Duration),
}

/// The ladder.
#[derive(Debug)]
pub(crate) struct Ladder {
    config: LadderConfig,
    pub(crate) dial: Option<Dial>,
    pub(crate) up: Option<Up>,
    pub(crate) attempt_at: Option<Instant>,
    backoff: Backoff,
    failures: u32,
    pub(crate) is_stopped: bool,
    duty: Duty,
    check_in_at: Option<Instant>,
    checks: Backoff,
    /// The number of the request under way, and when it is given up.
    asked: Option<(u64, Instant)>,
    requests: u64,
    /// Which hub is tried next.
    pub(crate) next_hub: usize,
    /// It can resume a TLS session, which skips the look at its certificate.
    pub(crate) has_ticket: bool,
    /// Waits at the cap of the back-off: no two may be the same.
    pub(crate) capped_waits: Vec<Duration>,
}

impl Ladder {
    pub(crate) fn new(scene: &Scene) -> Self {
        let config = LadderConfig {
            backoff_base: Duration::from_millis(500),
            backoff_cap: Duration::from_secs(4),
            ..LadderConfig::default()
        };
        Self {
            dial: None,
            up: None,
            attempt_at: Some(scene.now()),
            backoff: Backoff::new(config.backoff_base, config.backoff_cap),
            failures: 0,
            is_stopped: false,
            duty: Duty::Wait,
            check_in_at: None,
            checks: Backoff::new(config.backoff_base, config.check_in),
            asked: None,
            requests: 0,
            next_hub: scene.below(8),
            has_ticket: false,
            capped_waits: Vec::new(),
            config,
        }
    }

    /// The process begins anew.
    pub(crate) fn restart(&mut self, scene: &Scene) {
        let (requests, waits) = (self.requests, std::mem::take(&mut self.capped_waits));
        *self = Self { requests, capped_waits: waits, ..Self::new(scene) };
    }

    /// The connections that it holds.
    pub(crate) fn links(&self) -> Vec<LinkId> {
        let dial = self.dial.iter().map(|dial| dial.link);
        dial.chain(self.up.iter().map(|up| up.link)).collect()
    }

    /// Whether frames have somewhere to go.
    pub(crate) fn is_linked(&self) -> bool {
        self.is_pushed() || matches!(self.duty, Duty::CheckIn(_))
    }

    /// Whether frames go to the session.
    pub(crate) fn is_pushed(&self) -> bool {
        self.up.as_ref().is_some_and(|up| up.mode == Mode::Push)
    }

    pub(crate) fn wants_to_dial(&self, now: Instant) -> bool {
        self.dial.is_none() && self.attempt_at.is_some_and(|at| at <= now)
    }

    /// A session stands; answers the connection of the former one.
    pub(crate) fn opened(
        &mut self,
        link: LinkId,
        machine: AgentSession,
        now: Instant,
    ) -> Option<LinkId> {
        self.dial = None;
        self.has_ticket = true;
        let up = Up { link, machine, mode: Mode::Push, since: now };
        self.up.replace(up).map(|former| former.link)
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, code: Option<CloseCode>, scene: &Scene) {
        self.dial = None;
        self.next_hub += 1;
        self.failures = self.failures.saturating_add(1);
        if self.up.is_some() {
            // The former session still serves; moving away from it can wait.
            self.attempt_at = Some(self.after_backoff(scene));
            return;
        }
        self.ended(code, scene);
    }

    /// The session in use is gone.
    pub(crate) fn fell(&mut self, code: Option<CloseCode>, scene: &Scene) {
        let Some(up) = self.up.take() else { return };
        // A `welcome` alone proves nothing.
        if scene.now().saturating_duration_since(up.since) >= PROVEN_AFTER {
            self.backoff.reset();
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        self.ended(code, scene);
    }

    fn ended(&mut self, code: Option<CloseCode>, scene: &Scene) {
        match code.map_or(Advice::Reconnect, CloseCode::advice) {
            Advice::Stop => {
                self.is_stopped = true;
                self.attempt_at = None;
                return;
            }
            Advice::ReconnectElsewhere => self.next_hub += 1,
            Advice::Reconnect | Advice::Renew => {}
        }
        self.attempt_at = Some(self.after_backoff(scene));
    }

    /// Make before break: the next session opens while this one still serves.
    pub(crate) fn reconnect(&mut self, after_ms: u64, now: Instant) {
        let wait = Duration::from_millis(after_ms).max(self.config.backoff_base);
        self.next_hub += 1;
        self.attempt_at = Some(now + wait);
    }

    fn after_backoff(&mut self, scene: &Scene) -> Instant {
        let ceiling = self.backoff.ceiling();
        let wait = self.backoff.next(scene.chance.next_u64());
        if ceiling == self.config.backoff_cap {
            self.capped_waits.push(wait);
        }
        scene.now() + wait
    }

    fn due_duty(&self) -> Duty {
        match &self.up {
            Some(up) if up.mode == Mode::Push => Duty::Look,
            Some(_) => Duty::CheckIn(self.config.check_in),
            None if self.is_stopped => Duty::CheckIn(self.config.check_in_healthy),
            None if self.failures < self.config.attempts => Duty::Wait,
            None => Duty::CheckIn(self.config.check_in),
        }
    }

    /// Turns to what is to be done now. Says whether a check-in begins to carry the frames.
    pub(crate) fn turn(&mut self, scene: &Scene) -> bool {
        let now = scene.now();
        if self.asked.is_some_and(|(_, until)| until <= now) {
            self.unanswered(scene);
        }
        let duty = self.due_duty();
        if duty == self.duty {
            return false;
        }
        self.duty = duty;
        self.asked = None;
        self.check_in_at = match duty {
            Duty::Wait => None,
            Duty::Look => Some(now + jittered(self.config.check_in_healthy, scene)),
            Duty::CheckIn(_) => Some(now),
        };
        matches!(duty, Duty::CheckIn(_))
    }

    /// The number of the check-in to send now, if one is due. Frames that wait do not wait long.
    pub(crate) fn ask(&mut self, has_frames: bool, now: Instant) -> Option<u64> {
        let is_due = self.check_in_at.is_some_and(|at| at <= now);
        let is_carrying = matches!(self.duty, Duty::CheckIn(_)) && !self.is_stopped;
        let is_wanted = has_frames && is_carrying && self.checks.attempts() == 0;
        if self.asked.is_some() || !(is_due || is_wanted) {
            return None;
        }
        self.requests += 1;
        self.asked = Some((self.requests, now + CHECK_IN_TIMEOUT));
        Some(self.requests)
    }

    /// Whether that answer is still waited for; then the next check-in is planned.
    pub(crate) fn answered(&mut self, number: u64, is_accepted: bool, scene: &Scene) -> bool {
        if self.asked.is_none_or(|(asked, _)| asked != number) {
            return false;
        }
        if !is_accepted {
            self.unanswered(scene);
            return false;
        }
        self.asked = None;
        self.checks.reset();
        let pace = match self.duty {
            Duty::CheckIn(pace) => pace,
            Duty::Look | Duty::Wait => self.config.check_in_healthy,
        };
        self.check_in_at = Some(scene.now() + jittered(pace, scene));
        if self.is_stopped && self.attempt_at.is_none() {
            self.attempt_at = Some(self.after_backoff(scene));
            self.is_stopped = false;
        }
        true
    }

    fn unanswered(&mut self, scene: &Scene) {
        self.asked = None;
        let wait = self.checks.next(scene.chance.next_u64());
        self.check_in_at = Some(scene.now() + wait);
    }
}

/// That duration ± 20 %.
fn jittered(duration: Duration, scene: &Scene) -> Duration {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2);
    Duration::from_millis(millis - millis / 5 + scene.chance.below(millis / 5 * 2 + 1))
}
