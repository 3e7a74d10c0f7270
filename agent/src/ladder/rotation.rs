//! Several addresses, one at a time: the next one after each failure.

#[cfg(test)]
mod tests;

/// Which of several addresses to try.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    at: usize,
    /// Tried before the others, each once.
    first: Vec<String>,
}

impl Rotation {
    /// A rotation that begins somewhere: not every agent of a fleet at the first address.
    pub(super) fn starting(random: u64) -> Self {
        Self { at: usize::try_from(random % 1024).unwrap_or(0), first: Vec::new() }
    }

    /// The address to try now; `None` when there is none at all.
    pub(super) fn current(&self, addresses: &[String]) -> Option<String> {
        if let Some(first) = self.first.last() {
            return Some(first.clone());
        }
        addresses.get(self.at.checked_rem(addresses.len())?).cloned()
    }

    /// The current address did not serve.
    pub(super) fn next(&mut self) {
        if self.first.pop().is_none() {
            self.at = self.at.wrapping_add(1);
        }
    }

    /// Tries these before all others, in this order.
    pub(super) fn prefer(&mut self, mut addresses: Vec<String>) {
        addresses.reverse();
        self.first = addresses;
    }
}
