//! Codes that end a lock or a quarantine on a device that nobody can reach.
//!
//! Whoever gives the order draws a secret and keeps it. Each device's code is made of that secret and
//! the device's id; the manifest carries a commitment to each, which only shows that a code is the
//! right one. So no server can make a code, one device's code opens no other, and a code is of one
//! order. A code has 100 random bits: nobody finds it from its commitment, and no slow hash is needed.
//!
//! As text: four groups of five symbols (Crockford's base 32) and a check symbol, which notices one
//! wrong symbol and any two that changed places. Draws no chance of its own.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use crate::id::DeviceId;
use crate::manifest::Hash;

#[cfg(test)]
mod tests;

/// Keeps what is made of a secret for this purpose from serving another one.
const CODE_PURPOSE: &[u8] = b"tocsin-offline-code-v1";
/// The same for commitments.
const COMMITMENT_PURPOSE: &[u8] = b"tocsin-offline-commitment-v1";
/// Crockford's base 32: no I, L, O and U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Groups of a code.
const GROUPS: usize = 4;
/// Symbols of a group that carry something.
const GROUP: usize = 5;
/// Symbols that carry something: 5 bits each.
const SYMBOLS: usize = GROUPS * GROUP;
/// The longest text that is looked at.
const TEXT_BYTES: usize = 128;

/// What one operator keeps of one order: from it come the codes of its devices.
pub struct OfflineSecret([u8; 32]);

impl fmt::Debug for OfflineSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfflineSecret").finish_non_exhaustive()
    }
}

impl OfflineSecret {
    /// From 32 bytes of chance, which must serve one order only.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes that are kept. Whoever has them makes the codes.
    pub const fn reveal(&self) -> &[u8; 32] {
        &self.0
    }

    /// The code of that device.
    pub fn code(&self, device: &DeviceId) -> OfflineCode {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(CODE_PURPOSE);
        context.update(device.as_bytes());
        let tag = context.sign();
        let mut symbols = [0; SYMBOLS];
        // Five bytes make eight symbols; the last ones of the tag are not used.
        for (symbols, bytes) in symbols.chunks_mut(8).zip(tag.as_ref().chunks(5)) {
            let word = bytes.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
            for (place, symbol) in symbols.iter_mut().enumerate() {
                *symbol = u8::try_from(word >> (35 - 5 * place) & 31).unwrap_or_default();
            }
        }
        OfflineCode(symbols)
    }
}

/// The code that ends one order on one device. Shown to people only by [`OfflineCode::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct OfflineCode([u8; SYMBOLS]);

impl fmt::Debug for OfflineCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfflineCode").finish_non_exhaustive()
    }
}

impl OfflineCode {
    /// What the manifest says of it: enough to know it by, and nothing to make it of.
    pub fn commitment(&self, device: &DeviceId) -> Hash {
        Hash::sha256(&[COMMITMENT_PURPOSE, device.as_bytes(), &self.0].concat())
    }

    /// Whether it is the one of that device that was committed to.
    pub fn opens(&self, device: &DeviceId, commitment: &Hash) -> bool {
        let own = self.commitment(device);
        verify_slices_are_equal(own.as_bytes(), commitment.as_bytes()).is_ok()
    }

    /// As it is read out and typed.
    pub fn reveal(&self) -> String {
        let spell = |symbol: u8| char::from(ALPHABET[usize::from(symbol & 31)]);
        let group = |(number, symbols): (usize, &[u8])| {
            let check = check(number, symbols);
            symbols.iter().copied().chain([check]).map(spell).collect::<String>()
        };
        let groups: Vec<String> = self.0.chunks(GROUP).enumerate().map(group).collect();
        groups.join("-")
    }
}

/// Why a text is no code. Nothing of this is secret: it says only that somebody mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfflineCodeError {
    /// Too few symbols, or too many.
    #[error("a code has {GROUPS} groups of {} symbols", GROUP + 1)]
    Length,
    /// A character that no code has.
    #[error("a code has no {0:?}")]
    Symbol(char),
    /// A group whose check symbol is not the one of the others.
    #[error("group {0} is mistyped")]
    Mistyped(usize),
}

impl FromStr for OfflineCode {
    type Err = OfflineCodeError;

    fn from_str(text: &str) -> Result<Self, OfflineCodeError> {
        if text.len() > TEXT_BYTES {
            return Err(OfflineCodeError::Length);
        }
        let typed = text.chars().filter(|c| *c != '-' && !c.is_ascii_whitespace());
        let typed = typed.map(symbol).collect::<Result<Vec<u8>, _>>()?;
        if typed.len() != SYMBOLS + GROUPS {
            return Err(OfflineCodeError::Length);
        }
        let mut symbols = [0; SYMBOLS];
        let groups = typed.chunks(GROUP + 1).zip(symbols.chunks_mut(GROUP));
        for (number, (typed, symbols)) in groups.enumerate() {
            let (data, checks) = typed.split_at(GROUP);
            if checks != [check(number, data)] {
                return Err(OfflineCodeError::Mistyped(number + 1));
            }
            symbols.copy_from_slice(data);
        }
        Ok(Self(symbols))
    }
}

/// The symbol that somebody typed, forgiving what is easily taken for another.
fn symbol(typed: char) -> Result<u8, OfflineCodeError> {
    let meant = match typed.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let place = ALPHABET.iter().position(|known| char::from(*known) == meant);
    place.and_then(|place| u8::try_from(place).ok()).ok_or(OfflineCodeError::Symbol(typed))
}

/// The check symbol of a group: a sum over GF(32) in which every place, that of the check symbol
/// included, has another weight. The group's number is in it, so that groups keep their order.
fn check(number: usize, symbols: &[u8]) -> u8 {
    let number = u8::try_from(number + 1).unwrap_or_default();
    // From the last place on: the weights are the powers of 2 from the first one up.
    symbols
        .iter()
        .rev()
        .fold((number, 2_u8), |(sum, weight), symbol| {
            (sum ^ times(weight, *symbol), times(weight, 2))
        })
        .0
}

/// Product in GF(32), by x^5 + x^2 + 1.
fn times(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b > 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        a <<= 1;
        if a & 32 != 0 {
            a ^= 0b10_0101;
        }
        b >>= 1;
    }
    product
}
