//! Several addresses, one at a time: the next one after each failure.

#[cfg(test)]
mod tests;

/// Which of several addresses to try.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    at: usize,
}

impl Rotation {
    /// A rotation that begins somewhere: not every agent of a fleet at the first address.
    pub(super) fn starting(random: u64) -> Self {
        Self { at: usize::try_from(random % 1024).unwrap_or(0) }
    }

    /// The address to try now; `None` when there is none at all.
    pub(super) fn current(&self, addresses: &[String]) -> Option<String> {
        addresses.get(self.at.checked_rem(addresses.len())?).cloned()
    }

    /// The current address did not serve.
    pub(super) const fn next(&mut self) {
        self.at = self.at.wrapping_add(1);
    }
}
