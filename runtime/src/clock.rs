//! Time as a value: the system's clock, one that a test advances by hand, or one that goes with the
//! timers of a runtime whose time a test makes.
//!
//! Owns every reading of ambient time. Must not sleep: waiting belongs to whoever owns a timer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::entropy::Entropy;

#[cfg(test)]
mod tests;

/// Where Linux publishes the identity of the current boot (`random(4)`).
pub const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// A source of time. Cloning is cheap, and clones read the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(ManualClock),
    /// When it was made, and the wall time of that moment.
    Runtime(Instant, u64),
}

impl Clock {
    /// The clock of the machine.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until its [`ManualClock`] is moved. Wall time starts at 0.
    #[must_use]
    pub fn manual() -> (Self, ManualClock) {
        let hand = ManualClock::new();
        (hand.clock(), hand)
    }

    /// The clock that goes with the timers of the Tokio runtime it is made in, also where a test has
    /// paused them or makes their time. It must be asked within that runtime. Wall time goes on
    /// from `unix_millis`.
    #[must_use]
    pub fn of_runtime(unix_millis: u64) -> Self {
        Self(Source::Runtime(runtime_now(), unix_millis))
    }

    /// Whether it is the clock of the machine, and not one that a test makes.
    #[must_use]
    pub const fn is_of_machine(&self) -> bool {
        matches!(self.0, Source::System)
    }

    /// Monotonic time, for timers and durations.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads monotonic time")]
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::System => Instant::now(),
            Source::Manual(hand) => hand.now(),
            Source::Runtime(..) => runtime_now(),
        }
    }

    /// Wall time in milliseconds since the Unix epoch. May jump in both directions; a clock
    /// before the epoch reads 0.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads wall time")]
    pub fn unix_millis(&self) -> u64 {
        match &self.0 {
            Source::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            Source::Manual(hand) => hand.unix_millis(),
            Source::Runtime(since, at_first) => {
                let elapsed = runtime_now().saturating_duration_since(*since).as_millis();
                at_first.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
            }
        }
    }

    /// Time since the boot, also while the machine slept, which nobody sets: it orders what several
    /// processes of one boot did. `None` where the kernel does not say.
    #[must_use]
    pub fn since_boot(&self) -> Option<Duration> {
        match &self.0 {
            Source::System => clock_gettime(ClockId::CLOCK_BOOTTIME).ok().map(Duration::from),
            Source::Manual(hand) => Some(hand.elapsed()),
            Source::Runtime(since, at_first) => {
                let elapsed = runtime_now().saturating_duration_since(*since);
                Some(Duration::from_millis(*at_first) + elapsed)
            }
        }
    }

    /// Wall time in whole seconds since the Unix epoch, as JWT claims count it.
    #[must_use]
    pub fn unix_secs(&self) -> u64 {
        self.unix_millis() / 1000
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the timers' time")]
fn runtime_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The hand that moves a [`Clock`] in tests.
#[derive(Clone, Debug)]
pub struct ManualClock {
    state: Arc<ManualState>,
}

#[derive(Debug)]
struct ManualState {
    base: Instant,
    elapsed_nanos: AtomicU64,
    /// Wall time minus elapsed time, wrapping.
    offset_millis: AtomicU64,
}

impl ManualClock {
    /// A hand whose wall time starts at 0.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::new(ManualState {
                base: Clock::system().now(),
                elapsed_nanos: AtomicU64::new(0),
                offset_millis: AtomicU64::new(0),
            }),
        }
    }

    /// A clock that this hand moves.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(self.clone()))
    }

    /// Moves monotonic and wall time forward together.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.state.elapsed_nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Sets wall time alone, as a clock jump does; monotonic time does not move.
    pub fn set_unix_millis(&self, unix_millis: u64) {
        let offset = unix_millis.wrapping_sub(self.elapsed_millis());
        self.state.offset_millis.store(offset, Ordering::SeqCst);
    }

    fn unix_millis(&self) -> u64 {
        self.state.offset_millis.load(Ordering::SeqCst).wrapping_add(self.elapsed_millis())
    }

    fn elapsed_millis(&self) -> u64 {
        self.state.elapsed_nanos.load(Ordering::SeqCst) / 1_000_000
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.state.elapsed_nanos.load(Ordering::SeqCst))
    }

    fn now(&self) -> Instant {
        self.state.base + self.elapsed()
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

/// The identity of the current boot, in the kernel's UUID text form.
///
/// `path` is [`BOOT_ID_PATH`] outside of tests. When the file is missing or malformed the answer
/// is random, which reads as "this may be another boot": the safe direction.
#[must_use]
pub fn boot_id(path: &Path, entropy: &Entropy) -> String {
    let known = std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    match known {
        Some(id) if is_uuid(&id) => id.to_ascii_lowercase(),
        Some(_) | None => random_uuid(entropy.bytes()),
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Formats random bytes as a version 4 UUID (RFC 9562, section 5.4).
fn random_uuid(bytes: [u8; 16]) -> String {
    let mut number = u128::from_be_bytes(bytes);
    number = number & !(0xf << 76) | 0x4 << 76;
    number = number & !(0x3 << 62) | 0x2 << 62;
    let hex = format!("{number:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
