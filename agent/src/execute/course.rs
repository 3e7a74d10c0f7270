//! What binds a running step to the agent around it: how long it may take, whether anybody still waits for it, and
//! how far it is.
//!
//! The one way in which executors wait: everything that may hang is asked [`Course::within`] the time that is left,
//! and what is looked at again and again is looked at [`Course::until`] then. Knows nothing of what a step does.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use protocol::advance::Advance;
use protocol::receipt::{Failure, FailureKind};
use runtime::Clock;

use super::failure;

#[cfg(test)]
mod tests;

/// How often is looked at what tells nothing by itself.
const LOOK: Duration = Duration::from_millis(100);

/// What single waits may take, where the step leaves them the time: the one list of them.
pub mod patience {
    use std::time::Duration;

    /// A program of the endpoint.
    pub const TOOL: Duration = Duration::from_secs(30);
    /// A call on the system bus, or connecting to it.
    pub const BUS: Duration = Duration::from_secs(15);
    /// Detaching all file systems that may be on a network that is gone.
    pub const DETACH: Duration = Duration::from_secs(5);
    /// Pages of swap that come back into memory.
    pub const SWAP_OFF: Duration = Duration::from_secs(120);
    /// `cryptsetup` at one keyslot: its owner chose how long a passphrase is stretched.
    pub const KEYSLOT: Duration = Duration::from_secs(120);
    /// Sessions that the login manager was told to end.
    pub const SESSIONS: Duration = Duration::from_secs(3);
    /// Processes that were asked to end.
    pub const ASKED_TO_END: Duration = Duration::from_secs(2);
    /// Processes that are killed, and what they fork meanwhile.
    pub const KILLED: Duration = Duration::from_secs(5);
    /// Screens that were asked to lock themselves.
    pub const SCREENS: Duration = Duration::from_secs(5);
    /// Closing the doors of a device that is being wiped: its keys wait so long.
    pub const DOORS: Duration = Duration::from_secs(10);
    /// Whoever else changes the account database, as long as `lckpwdf(3)` waits.
    pub const PASSWORD_LOCK: Duration = Duration::from_secs(15);
    /// A section of evidence: reading about a process waits for locks that it may hold for ever.
    pub const SECTION: Duration = Duration::from_secs(10);
    /// The name service, before a quarantine cuts it off.
    pub const NAMES: Duration = Duration::from_secs(2);
    /// The control plane, before there is a quarantine and through one.
    pub const CONTROL_PLANE: Duration = Duration::from_secs(30);
    /// One connection to it.
    pub const CONNECT: Duration = Duration::from_secs(1);
    /// One greeting: whoever accepts and says nothing must not keep us from the next address.
    pub const GREETING: Duration = Duration::from_secs(10);
    /// A refusal on this very device.
    pub const REFUSAL: Duration = Duration::from_secs(3);
}

type Tell = Box<dyn Fn(Advance) + Send + Sync>;

/// The course of one command's steps. Copies are the same course.
#[derive(Clone)]
pub struct Course {
    clock: Clock,
    is_left: Arc<AtomicBool>,
    step: Arc<(Mutex<Step>, Condvar)>,
    tell: Arc<OnceLock<Tell>>,
}

/// The step that it is at.
#[derive(Debug, Default)]
struct Step {
    /// When its time is up.
    ends: Option<Instant>,
    /// Nobody waits for it any more.
    is_given_up: bool,
}

impl Default for Course {
    fn default() -> Self {
        Self::by(Clock::system())
    }
}

impl fmt::Debug for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Course").field("is_left", &self.is_left).finish_non_exhaustive()
    }
}

impl Course {
    /// One whose time is told by that clock. As long as nothing is allowed it has all the time.
    pub fn by(clock: Clock) -> Self {
        let (is_left, step, tell) = (Arc::default(), Arc::default(), Arc::default());
        Self { clock, is_left, step, tell }
    }

    /// Monotonic time, by the clock of the course.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// A step begins, which has so much time; with `None` as much as it needs.
    pub fn allow(&self, budget: Option<Duration>) {
        let ends = budget.and_then(|budget| self.clock.now().checked_add(budget));
        let mut step = self.step.0.lock().unwrap_or_else(PoisonError::into_inner);
        *step = Step { ends, is_given_up: false };
    }

    /// The agent stops: whatever goes on without it is left to the next one.
    pub fn leave(&self) {
        self.is_left.store(true, Ordering::SeqCst);
    }

    /// Whether the agent stops.
    pub fn is_left(&self) -> bool {
        self.is_left.load(Ordering::SeqCst)
    }

    /// Nobody waits for the step any more: what it still waits for is over at once.
    pub fn give_up(&self) {
        self.leave();
        self.step.0.lock().unwrap_or_else(PoisonError::into_inner).is_given_up = true;
        self.step.1.notify_all();
    }

    /// How long a wait may take that would take `most`: never longer than what is left of the step.
    pub fn within(&self, most: Duration) -> Duration {
        let step = self.step.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (step.is_given_up, step.ends) {
            (true, _) => Duration::ZERO,
            (false, None) => most,
            (false, Some(ends)) => ends.saturating_duration_since(self.clock.now()).min(most),
        }
    }

    /// Goes on only while the step has time.
    ///
    /// # Errors
    /// `Timeout` when it has had it.
    pub fn check(&self, stage: &str) -> Result<(), Failure> {
        if self.within(LOOK).is_zero() {
            return Err(failure(FailureKind::Timeout, stage, "the step has had its time"));
        }
        Ok(())
    }

    /// Looks again and again until it is so, for `most` or what is left of the step. Whether it came to that.
    pub fn until(&self, most: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let ends = self.clock.now().checked_add(self.within(most));
        loop {
            if is_so() {
                return true;
            }
            let left = ends.map_or(LOOK, |ends| ends.saturating_duration_since(self.clock.now()));
            let left = self.within(left.min(LOOK));
            if left.is_zero() {
                return false;
            }
            self.pause(left);
        }
    }

    /// Waits out that time, unless nobody waits for the step any more.
    fn pause(&self, time: Duration) {
        let step = self.step.0.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |step: &mut Step| !step.is_given_up;
        drop(self.step.1.wait_timeout_while(step, time, goes_on));
    }

    /// From now on advances go there. The first listener stays.
    pub fn listen(&self, tell: impl Fn(Advance) + Send + Sync + 'static) {
        self.tell.get_or_init(|| Box::new(tell));
    }

    /// Tells how far it is. This never waits, and costs next to nothing: only the newest counts.
    pub fn tell(&self, advance: Advance) {
        if let Some(tell) = self.tell.get() {
            tell(advance);
        }
    }
}
