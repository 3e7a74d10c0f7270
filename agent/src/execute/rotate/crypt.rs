//! The hash by which `shadow(5)` keeps a password: SHA-512-crypt, which every libcrypt reads.
//!
//! Source: "Unix crypt using SHA-256 and SHA-512" (U. Drepper, 0.6), at its 5000 rounds. The
//! password is 160 bits of chance: rounds and memory would add nothing that an attacker notices.
//! Only the digest is the provider's; nothing here compares or keeps a password.

use aws_lc_rs::digest::{Context, SHA512, digest};

/// How often the digest is taken again.
const ROUNDS: usize = 5000;
/// Bytes of a digest.
const DIGEST_BYTES: usize = 64;
/// The digits that crypt(5) writes numbers in.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters of a salt.
pub(super) const SALT_CHARS: usize = 16;

/// The field of `shadow(5)` for that password, with a salt made of these bytes of chance.
pub(super) fn field(password: &str, chance: [u8; SALT_CHARS]) -> String {
    let salt = chance.map(|byte| char::from(DIGITS[usize::from(byte & 63)]));
    hash(password.as_bytes(), &String::from_iter(salt))
}

/// `$6$salt$hash`.
pub(super) fn hash(password: &[u8], salt: &str) -> String {
    let salted = [password, salt.as_bytes(), password].concat();
    let alternate = digest(&SHA512, &salted);
    let mut first = Context::new(&SHA512);
    first.update(password);
    first.update(salt.as_bytes());
    first.update(&repeated(alternate.as_ref(), password.len()));
    let mut bits = password.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { alternate.as_ref() } else { password });
        bits >>= 1;
    }
    let mut last = first.finish().as_ref().to_vec();
    let of_password = digest(&SHA512, &password.repeat(password.len()));
    let of_password = repeated(of_password.as_ref(), password.len());
    let of_salt = digest(&SHA512, &salt.as_bytes().repeat(16 + usize::from(last[0])));
    let of_salt = repeated(of_salt.as_ref(), salt.len());
    for round in 0..ROUNDS {
        let is_odd = round % 2 == 1;
        let mut next = Context::new(&SHA512);
        next.update(if is_odd { &of_password } else { &last });
        if round % 3 != 0 {
            next.update(&of_salt);
        }
        if round % 7 != 0 {
            next.update(&of_password);
        }
        next.update(if is_odd { &last } else { &of_password });
        last = next.finish().as_ref().to_vec();
    }
    format!("$6${salt}${}", spelt(&last))
}

/// The bytes over and over, to that length.
fn repeated(bytes: &[u8], length: usize) -> Vec<u8> {
    bytes.iter().copied().cycle().take(length).collect()
}

/// A digest as crypt(5) spells it: three bytes at a time, from three parts of it in turn.
fn spelt(digest: &[u8]) -> String {
    const PART: usize = DIGEST_BYTES / 3;
    let mut text = String::new();
    let mut spell = |[high, middle, low]: [u8; 3], digits: usize| {
        let number = u32::from_be_bytes([0, high, middle, low]);
        let digit = |at: usize| char::from(DIGITS[(number >> (6 * at)) as usize & 63]);
        text.extend((0..digits).map(digit));
    };
    for at in 0..PART {
        let mut three = [digest[at], digest[PART + at], digest[2 * PART + at]];
        three.rotate_left(at % 3);
        spell(three, 4);
    }
    spell([0, 0, digest[DIGEST_BYTES - 1]], 2);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first test vector of the specification that uses the usual rounds, and what its length
    /// does to the digest: passwords of all lengths around it, as another implementation has them.
    #[test]
    fn hash_is_the_one_that_the_system_makes() {
        let known = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJues\
                     I68u4OTLiBFdcbYEdFCoEOfaS35inz1";
        assert_eq!(hash(b"Hello world!", "saltstring"), known);
        let password = "cbdef-ghijk-lnrtu-vcbde-fghij-klnrt-uvcbd-efghi";
        let (salt, long) = ("0123456789abcdef", "x".repeat(150));
        for password in ["", "a", password, &long] {
            let script = "print crypt($ARGV[0], '$6$' . $ARGV[1] . '$')";
            let perl = std::process::Command::new("/usr/bin/perl")
                .args(["-e", script, password, salt])
                .output()
                .expect("this test needs /usr/bin/perl: install the package perl-base");
            assert_eq!(hash(password.as_bytes(), salt), String::from_utf8_lossy(&perl.stdout));
        }
    }

    #[test]
    fn salt_is_made_of_digits_alone() {
        let field = field("password", std::array::from_fn(|at| at as u8 * 17));
        let salt = field.split('$').nth(2).unwrap();
        assert_eq!(salt.len(), SALT_CHARS);
        assert_eq!(field, hash(b"password", salt));
    }
}
