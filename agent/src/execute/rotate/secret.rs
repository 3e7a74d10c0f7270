//! New secrets: long enough that nobody guesses them, and such that a person types them at a
//! console that knows no keyboard layout yet.
//!
//! Draws its chance from whoever calls, keeps nothing, and shows nothing in `Debug`.

use std::fmt;

use zeroize::Zeroizing;

/// Sixteen letters that lie at the same place on most keyboards, as `systemd-cryptenroll(1)` uses
/// them for its recovery keys.
const LETTERS: &[u8; 16] = b"cbdefghijklnrtuv";
/// Bytes of chance: 160 bits.
const BYTES: usize = 20;
/// Letters of a group.
const GROUP: usize = 5;

/// A passphrase or a password: eight groups of five letters.
#[derive(Clone)]
pub(super) struct Secret(Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

impl Secret {
    /// Made of the first bytes of that chance.
    pub(super) fn new(chance: [u8; 32]) -> Self {
        let chance = Zeroizing::new(chance);
        // Room for all of it at once, so that no part stays behind in memory that was given back.
        let mut text = Zeroizing::new(String::with_capacity(2 * BYTES + 2 * BYTES / GROUP));
        for (at, nibble) in
            chance[..BYTES].iter().flat_map(|byte| [byte >> 4, byte & 15]).enumerate()
        {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(LETTERS[usize::from(nibble)]));
        }
        Self(text)
    }

    /// In the open.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_has_eight_groups_of_letters_that_all_of_its_chance_decides() {
        let secret = Secret::new([0x0f; 32]);
        assert_eq!(secret.reveal(), "cvcvc-vcvcv-cvcvc-vcvcv-cvcvc-vcvcv-cvcvc-vcvcv");
        assert_eq!(format!("{secret:?}"), "Secret { .. }");
        for at in 0..BYTES {
            let mut chance = [0x0f; 32];
            chance[at] = 0;
            assert_ne!(Secret::new(chance).reveal(), secret.reveal());
        }
    }
}
