//! Sealing a text by a data key, and its form in the store.
//!
//! AES-256-GCM. Each text has a key of its own, which HMAC-SHA-256 makes of the data key and of 128
//! random bits (NIST SP 800-108 in counter mode, one block): a data key seals any number of texts
//! without its nonces ever coming near a repetition. Owns no key and no place.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use zeroize::Zeroizing;

/// What a sealed text begins with; its key's id follows, and a colon.
const PREFIX: &str = "sealed:";
/// Bytes of a key.
pub(super) const KEY: usize = 32;
/// Random bytes of each text.
pub(super) const SALT: usize = 16;

/// Seals and opens.
pub(super) struct DataKey {
    id: String,
    hmac: hmac::Key,
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "DataKey({})", self.id)
    }
}

impl DataKey {
    pub(super) fn new(id: &str, bytes: &[u8; KEY]) -> Self {
        Self { id: id.to_owned(), hmac: hmac::Key::new(hmac::HMAC_SHA256, bytes) }
    }

    /// What a text that it seals begins with.
    pub(super) fn mark(&self) -> String {
        mark(&self.id)
    }

    /// The text for the store; `None` when the provider fails.
    pub(super) fn seal(&self, place: &[u8], bytes: &[u8], salt: [u8; SALT]) -> Option<String> {
        let mut out = Vec::with_capacity(SALT + bytes.len() + AES_256_GCM.tag_len());
        out.extend_from_slice(&salt);
        out.extend_from_slice(bytes);
        let key = self.of_text(&salt)?;
        let body = out.get_mut(SALT..)?;
        let tag = key.seal_in_place_separate_tag(once(), Aad::from(place), body).ok()?;
        out.extend_from_slice(tag.as_ref());
        Some(self.mark() + &BASE64.encode(out))
    }

    /// What was sealed for that place.
    pub(super) fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (salt, body) = sealed.split_at_checked(SALT)?;
        let key = self.of_text(salt)?;
        let mut bytes = Zeroizing::new(body.to_vec());
        let length = key.open_in_place(once(), Aad::from(place), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }

    fn of_text(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let mut context = hmac::Context::with_key(&self.hmac);
        for part in [&[0, 0, 0, 1], b"tocsin vault text\0".as_slice(), salt, &[0, 0, 1, 0]] {
            context.update(part);
        }
        UnboundKey::new(&AES_256_GCM, context.sign().as_ref()).ok().map(LessSafeKey::new)
    }
}

/// The one nonce of a key that seals one text.
fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// What texts sealed by that key begin with.
pub(super) fn mark(id: &str) -> String {
    format!("{PREFIX}{id}:")
}

/// A text of the store that is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SealedText<'a> {
    /// The id of its key.
    pub(super) key: &'a str,
    body: &'a str,
}

impl<'a> SealedText<'a> {
    pub(super) fn of(stored: &'a str) -> Option<Self> {
        let (key, body) = stored.strip_prefix(PREFIX)?.split_once(':')?;
        Some(Self { key, body })
    }

    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.body).ok()
    }
}
