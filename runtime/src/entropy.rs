//! Chance as a value: the system's generator, or a seeded one that makes a test repeatable.
//!
//! Owns every use of ambient randomness. Must not make identifiers: their form belongs to
//! whoever names the thing.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

#[cfg(test)]
mod tests;

/// A source of random bytes. Cloning is cheap, and clones draw from the same stream.
#[derive(Clone)]
pub struct Entropy(Source);

#[derive(Clone)]
enum Source {
    System(SystemRandom),
    Seeded(Arc<Mutex<SplitMix64>>),
}

impl Entropy {
    /// The cryptographic generator of the TLS provider, seeded by the kernel.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System(SystemRandom::new()))
    }

    /// A repeatable stream for tests. Predictable: never for keys or tokens in production.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(Mutex::new(SplitMix64(seed)))))
    }

    /// Fills `out` with random bytes.
    pub fn fill(&self, out: &mut [u8]) {
        match &self.0 {
            Source::System(random) => {
                random.fill(out).expect("the system generator does not fail once it is seeded");
            }
            Source::Seeded(state) => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                for chunk in out.chunks_mut(8) {
                    chunk.copy_from_slice(&state.next().to_le_bytes()[..chunk.len()]);
                }
            }
        }
    }

    /// `N` random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A uniform 64-bit number, the form in which [`crate::Backoff::next`] takes its chance.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    ///
    /// The bias is below `bound` / 2⁶⁴, which no jitter or sampling can notice.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        scale(self.next_u64(), bound)
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match &self.0 {
            Source::System(_) => "Entropy(system)",
            Source::Seeded(_) => "Entropy(seeded)",
        })
    }
}

/// Maps a uniform 64-bit number to `0..bound` by a widening multiplication.
pub(crate) fn scale(random: u64, bound: u64) -> u64 {
    let wide = (u128::from(random) * u128::from(bound)) >> 64;
    u64::try_from(wide).expect("the product of two 64-bit numbers, shifted by 64, has 64 bits")
}

/// Steele, Lea and Flood's generator: one word of state, and the same stream for ever, which a
/// library generator does not promise across its versions.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
