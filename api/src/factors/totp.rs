//! Time-based one-time passwords (RFC 6238), as every authenticator app makes them: SHA-1, six digits,
//! steps of 30 s.
//!
//! Owns the arithmetic and the address of a secret for apps. Remembers nothing.

use aws_lc_rs::hmac;
use protocol::id::PersonName;
use protocol::time::Timestamp;
use runtime::Entropy;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Bytes of a secret: as many as the hash has (RFC 4226, 4).
pub(super) const SECRET: usize = 20;
const STEP_SECS: u64 = 30;
const DIGITS: usize = 6;
/// Steps that a clock may be off, either way.
const DRIFT: i64 = 1;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The secret that a person's app and the store share.
pub(super) struct TotpSecret(Zeroizing<[u8; SECRET]>);

impl std::fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TotpSecret(redacted)")
    }
}

impl TotpSecret {
    /// Draws one.
    pub(super) fn draw(entropy: &Entropy) -> Self {
        Self(Zeroizing::new(entropy.bytes()))
    }

    /// One that was stored.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// The bytes, for the store.
    pub(super) fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// As it is typed into an app: base32 (RFC 4648) without padding.
    pub(super) fn base32(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(SECRET * 8 / 5));
        for five in self.0.chunks(5) {
            let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            for place in (0..8).rev() {
                let index = usize::try_from(bits >> (place * 5) & 31).unwrap_or(0);
                text.push(char::from(BASE32[index]));
            }
        }
        text
    }

    /// The address by which apps take it over.
    pub(super) fn uri(&self, operator: &PersonName) -> Zeroizing<String> {
        let (secret, name) = (self.base32(), operator.as_str().replace('@', "%40"));
        Zeroizing::new(format!(
            "otpauth://totp/Tocsin:{name}?secret={}&issuer=Tocsin&algorithm=SHA1&digits={DIGITS}&period={STEP_SECS}",
            *secret
        ))
    }

    /// The step after `last` that a code is of, if it is one of now, give or take the drift.
    pub(super) fn step_of(&self, code: &str, now: Timestamp, last: i64) -> Option<i64> {
        let present = i64::try_from(now.as_millis() / 1000 / STEP_SECS).ok()?;
        // Each step is looked at, whichever it is.
        (present - DRIFT..=present + DRIFT)
            .filter(|step| {
                let is_it: bool = self.code(*step).as_bytes().ct_eq(code.as_bytes()).into();
                is_it && *step > last
            })
            .max()
    }

    /// The code of a step.
    fn code(&self, step: i64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.0.as_slice());
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let tag = tag.as_ref();
        let at = usize::from(tag[tag.len() - 1] & 15);
        let word = tag[at..at + 4].iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        format!("{:0DIGITS$}", (word & 0x7fff_ffff) % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238's table for SHA-1.
    fn rfc() -> TotpSecret {
        TotpSecret::from_bytes(b"12345678901234567890").unwrap()
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        // The RFC shows eight digits; six are the last of them.
        for (secs, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            let now = Timestamp::from_millis(secs * 1000);
            let step = i64::try_from(secs / 30).unwrap();
            assert_eq!(rfc().step_of(code, now, 0), Some(step), "{secs}");
            assert_eq!(rfc().step_of(code, now, step), None, "used once");
        }
    }

    #[test]
    fn clock_may_be_off_by_one_step_and_no_more() {
        let secs = 1_111_111_109;
        let at = |secs: u64| rfc().step_of("081804", Timestamp::from_millis(secs * 1000), 0);
        let step = i64::try_from(secs / 30).ok();
        for (off, expected) in [(0, step), (30, step), (60, None)] {
            assert_eq!(at(secs + off), expected, "{off} s later");
            assert_eq!(at(secs - off), expected, "{off} s before");
        }
    }

    #[test]
    fn what_is_no_code_is_none() {
        let now = Timestamp::from_millis(59_000);
        for text in ["", "28708", "2870821", "287083", "94287082", " 287082", "２８７０８２"]
        {
            assert_eq!(rfc().step_of(text, now, 0), None, "{text}");
        }
    }

    #[test]
    fn secret_is_written_as_apps_read_it_and_prints_nowhere() {
        assert_eq!(*rfc().base32(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        let uri = rfc().uri(&"nina@example".parse().unwrap());
        assert!(uri.starts_with("otpauth://totp/Tocsin:nina%40example?secret=GEZD"), "{}", *uri);
        assert!(!format!("{:?}", rfc()).contains("49"));
    }
}
