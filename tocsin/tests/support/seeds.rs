//! Going through the seeds of a simulation: which of them fails first, and whether two runs are the
//! same.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// The number in that variable of the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The first seed below that bound, in the order of their taking, whose run fails, and how; on
/// every core. A panic, too, is a failure.
pub(crate) fn first_failure(
    seeds: u64,
    run: impl Fn(u64) -> Result<(), String> + Sync,
) -> Option<(u64, String)> {
    let judged = |seed| {
        catch_unwind(AssertUnwindSafe(|| run(seed)))
            .unwrap_or_else(|_| Err("something panicked".to_owned()))
    };
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds || seed > failed.load(Ordering::SeqCst) {
                        return;
                    }
                    if judged(seed).is_err() {
                        failed.fetch_min(seed, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let seed = failed.into_inner();
    let verdict = (seed != u64::MAX).then(|| judged(seed))?;
    Some((seed, verdict.err().unwrap_or_else(|| "it fails no more".to_owned())))
}

/// What a trace comes down to: FNV-1a (Fowler, Noll, Vo) of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}
