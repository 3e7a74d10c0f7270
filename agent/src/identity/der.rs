//! The little DER (X.690) that an agent needs: writing a certificate request and the file of a key in a TPM,
//! and reading when a certificate begins and ends.
//!
//! By hand, because a general X.509 library would double what runs as root on every endpoint.
//! Judges no certificate: that is rustls's part.

use protocol::time::Timestamp;

use super::tpm::Sealed;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;
/// `AlgorithmIdentifier` of `id-ecPublicKey` on `prime256v1` (RFC 5480).
const P256: [u8; 21] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
/// `AlgorithmIdentifier` of `ecdsa-with-SHA256` (RFC 5758).
const ECDSA_SHA256: [u8; 12] =
    [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// What every file of a key in a TPM begins with (draft-bottomley-tpm2-keys): `id-loadablekey`, an empty
/// password (context 0), and the owner's hierarchy as parent.
const LOADABLE_KEY: [u8; 19] = [
    0x06, 0x06, 0x67, 0x81, 0x05, 0x0a, 0x01, 0x03, 0xa0, 0x03, 0x01, 0x01, 0xff, 0x02, 0x04, 0x40,
    0x00, 0x00, 0x01,
];

/// A PKCS#10 request (RFC 2986) for the P-256 key of that point, with an empty subject and no attributes.
/// `sign` answers `r` and `s`. `None` when it does not.
pub(super) fn certificate_request(
    point: &[u8],
    sign: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let version = element(INTEGER, &[&[0]]);
    let (subject, attributes) = (element(SEQUENCE, &[]), element(CONTEXT_0, &[]));
    let info = element(SEQUENCE, &[&version, &subject, &public_key(point), &attributes]);
    let signature = ecdsa(&sign(&info)?);
    Some(element(SEQUENCE, &[&info, &ECDSA_SHA256, &bit_string(&signature)]))
}

/// `SubjectPublicKeyInfo` (RFC 5280, 4.1) of that point.
pub(super) fn public_key(point: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[&P256, &bit_string(point)])
}

/// `ECDSA-Sig-Value` (RFC 3279, 2.2.3) of `r` and `s`, which have half of the bytes each.
pub(super) fn ecdsa(fixed: &[u8]) -> Vec<u8> {
    let (r, s) = fixed.split_at(fixed.len() / 2);
    element(SEQUENCE, &[&unsigned(r), &unsigned(s)])
}

/// The file of a key in a TPM.
pub(super) fn sealed_key(key: &Sealed) -> Vec<u8> {
    let octets = |bytes: &[u8]| element(OCTET_STRING, &[bytes]);
    element(SEQUENCE, &[&LOADABLE_KEY, &octets(&key.public), &octets(&key.private)])
}

/// What [`sealed_key`] wrote. `None` for anything else.
pub(super) fn read_sealed_key(der: &[u8]) -> Option<Sealed> {
    let mut outer = Reader(der);
    let mut fields = Reader(outer.take(SEQUENCE)?.strip_prefix(&LOADABLE_KEY)?);
    let public = fields.take(OCTET_STRING)?.to_vec();
    let private = fields.take(OCTET_STRING)?.to_vec();
    (outer.0.is_empty() && fields.0.is_empty()).then_some(Sealed { public, private })
}

/// `notBefore` and `notAfter` of an X.509 certificate (RFC 5280, 4.1.2.5).
pub(super) fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let mut outer = Reader(certificate);
    let mut certificate = Reader(outer.take(SEQUENCE)?);
    let mut fields = Reader(certificate.take(SEQUENCE)?);
    if fields.0.first() == Some(&CONTEXT_0) {
        fields.take(CONTEXT_0)?;
    }
    fields.take(INTEGER)?;
    fields.take(SEQUENCE)?;
    fields.take(SEQUENCE)?;
    let mut validity = Reader(fields.take(SEQUENCE)?);
    Some((validity.time()?, validity.time()?))
}

fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[0], bytes])
}

fn unsigned(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = number.get(zeros..).unwrap_or_default();
    // A number whose first bit is set would be below zero, and one without bytes none.
    let sign: &[u8] = if number.first().is_none_or(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    element(INTEGER, &[sign, number])
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut der = vec![tag];
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    if content.len() < 0x80 {
        der.push(length.first().copied().unwrap_or(0));
    } else {
        // A length has at most eight bytes.
        der.push(0x80 | u8::try_from(length.len()).unwrap_or(8));
        der.extend(length);
    }
    der.extend(content);
    der
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The content of the next element, which must have that tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_first()?;
        if *first != tag {
            return None;
        }
        let (length, rest) = rest.split_first()?;
        let (length, rest) = if *length < 0x80 {
            (usize::from(*length), rest)
        } else {
            let count = usize::from(length & 0x7f);
            let bytes = rest.get(..count).filter(|_| (1..=4).contains(&count))?;
            let length = bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest.get(count..)?)
        };
        let content = rest.get(..length)?;
        self.0 = rest.get(length..)?;
        Some(content)
    }

    fn time(&mut self) -> Option<Timestamp> {
        match *self.0.first()? {
            UTC_TIME => {
                let text = self.take(UTC_TIME)?;
                let year = digits(text.get(..2)?)?;
                unix(if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
            }
            GENERALIZED_TIME => {
                let text = self.take(GENERALIZED_TIME)?;
                unix(digits(text.get(..4)?)?, text.get(4..)?)
            }
            _ => None,
        }
    }
}

/// The time of that year and `MMDDHHMMSSZ`.
fn unix(year: u64, rest: &[u8]) -> Option<Timestamp> {
    let part = |at: usize| digits(rest.get(at..at + 2)?);
    let (month, day) = (part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    let is_sound = rest.len() == 11
        && rest.last() == Some(&b'Z')
        && (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    if !is_sound {
        return None;
    }
    // Days since 1970-01-01 of the proleptic Gregorian calendar, counting years from March.
    let (shifted, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = shifted / 4 - shifted / 100 + shifted / 400;
    let days = (365 * shifted + leaps + (153 * month + 2) / 5 + day).checked_sub(719_469)?;
    let secs = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Timestamp::from_millis(secs * 1000))
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter()
        .try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}
