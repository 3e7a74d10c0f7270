//! Key-encryption keys: whoever wraps data keys and gives them back.
//!
//! Owns the trait, which a key service can be put behind, and its local form: keys of a file, an
//! environment variable or a credential of systemd, one a line. The first wraps; the others only
//! unwrap, while one follows another.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use futures_util::future::BoxFuture;
use runtime::Entropy;
use runtime::config::{Secret, SecretError};
use runtime::files::{self, FileError};
use zeroize::Zeroizing;

use super::seal::KEY;
use crate::audit::hex;

/// The largest key file, in bytes.
const MAX_BYTES: usize = 4096;

/// A data key in the clear.
pub type DataKeyBytes = Zeroizing<[u8; KEY]>;

/// Who wraps data keys. Neither the vault nor the store ever sees its keys.
pub trait Kms: std::fmt::Debug + Send + Sync {
    /// The key that wraps now.
    fn key_id(&self) -> &str;

    /// Wraps a data key, bound to its own id.
    fn wrap<'a>(
        &'a self,
        data_key: &'a str,
        bytes: &'a DataKeyBytes,
    ) -> BoxFuture<'a, Result<String, KmsError>>;

    /// Gives back what the key `wrapped_by` wrapped.
    fn unwrap<'a>(
        &'a self,
        data_key: &'a str,
        wrapped_by: &'a str,
        wrapped: &'a str,
    ) -> BoxFuture<'a, Result<DataKeyBytes, KmsError>>;
}

/// Why a data key is not wrapped or unwrapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KmsError {
    /// Another key wrapped it.
    #[error(
        "the data key {data_key} was wrapped by the vault key {wrapped_by}, and this process has \
         {has}: give it that key as a further line, from another node or from its backup"
    )]
    OtherKey {
        /// The data key.
        data_key: String,
        /// Who wrapped it.
        wrapped_by: String,
        /// Which there are.
        has: String,
    },
    /// It was altered.
    #[error("the data key {0} is not as the vault key wrapped it: the store was altered")]
    Refused(String),
    /// The provider did not do it.
    #[error("a data key cannot be wrapped")]
    Wrapping,
}

/// Why there are no local keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("the vault key is not accessible")]
    File(#[from] FileError),
    /// What the configuration names cannot be read.
    #[error("the vault key that `vault.key` names cannot be read")]
    Secret(#[from] SecretError),
    /// There is no room for another.
    #[error("the vault key file is full: delete lines whose backups are gone")]
    Full,
    /// A line is no key.
    #[error("the vault key has a line that is not 32 bytes of base64url")]
    Malformed,
}

/// Keys in this process.
pub struct LocalKms {
    /// The first wraps.
    first: Local,
    others: Vec<Local>,
    entropy: Entropy,
}

struct Local {
    id: String,
    key: LessSafeKey,
}

impl std::fmt::Debug for LocalKms {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "LocalKms({})", self.first.id)
    }
}

impl LocalKms {
    /// Reads what the configuration names, or else the file.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load(key: Option<&Secret>, file: &Path, entropy: Entropy) -> Result<Self, KeyError> {
        match key {
            Some(secret) => Self::parse(&secret.read()?, entropy),
            None => Self::parse(&read(file)?, entropy),
        }
    }

    /// Keys as texts, one a line.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn parse(text: &str, entropy: Entropy) -> Result<Self, KeyError> {
        let mut keys = text.split_ascii_whitespace().map(Local::parse);
        let first = keys.next().flatten().ok_or(KeyError::Malformed)?;
        let others = keys.collect::<Option<Vec<_>>>().ok_or(KeyError::Malformed)?;
        Ok(Self { first, others, entropy })
    }

    /// Draws a key and writes its file, mode 0600.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(file: &Path, entropy: Entropy) -> Result<Self, KeyError> {
        let text = draw(&entropy);
        files::write_atomic(file, text.as_bytes(), files::PRIVATE)?;
        Self::parse(&text, entropy)
    }

    fn all(&self) -> impl Iterator<Item = &Local> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn seal(&self, data_key: &str, bytes: &DataKeyBytes) -> Option<String> {
        let nonce = self.entropy.bytes::<NONCE_LEN>();
        let mut out = nonce.to_vec();
        let mut body = Zeroizing::new(bytes.to_vec());
        let once = Nonce::assume_unique_for_key(nonce);
        self.first.key.seal_in_place_append_tag(once, beside(data_key), &mut *body).ok()?;
        out.extend_from_slice(&body);
        Some(BASE64.encode(out))
    }
}

impl Local {
    fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE64.decode(text).ok()?);
        let key = UnboundKey::new(&AES_256_GCM, &bytes).ok().map(LessSafeKey::new)?;
        let id = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), b"tocsin vault key id");
        Some(Self { id: hex(id.as_ref().get(..8)?), key })
    }

    fn open(&self, data_key: &str, wrapped: &str) -> Option<DataKeyBytes> {
        let bytes = BASE64.decode(wrapped).ok()?;
        let (nonce, body) = bytes.split_at_checked(NONCE_LEN)?;
        let mut body = Zeroizing::new(body.to_vec());
        let once = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let key = self.key.open_in_place(once, beside(data_key), &mut body).ok()?;
        (&*key).try_into().ok().map(Zeroizing::new)
    }
}

impl Kms for LocalKms {
    fn key_id(&self) -> &str {
        &self.first.id
    }

    fn wrap<'a>(
        &'a self,
        data_key: &'a str,
        bytes: &'a DataKeyBytes,
    ) -> BoxFuture<'a, Result<String, KmsError>> {
        let wrapped = self.seal(data_key, bytes).ok_or(KmsError::Wrapping);
        Box::pin(std::future::ready(wrapped))
    }

    fn unwrap<'a>(
        &'a self,
        data_key: &'a str,
        wrapped_by: &'a str,
        wrapped: &'a str,
    ) -> BoxFuture<'a, Result<DataKeyBytes, KmsError>> {
        let other = || KmsError::OtherKey {
            data_key: data_key.to_owned(),
            wrapped_by: wrapped_by.to_owned(),
            has: self.all().map(|key| key.id.as_str()).collect::<Vec<_>>().join(", "),
        };
        let key = self.all().find(|key| key.id == wrapped_by).ok_or_else(other);
        let refused = || KmsError::Refused(data_key.to_owned());
        let opened = key.and_then(|key| key.open(data_key, wrapped).ok_or_else(refused));
        Box::pin(std::future::ready(opened))
    }
}

/// Puts a fresh key before those of a file: the next start wraps by it. Answers its id.
///
/// # Errors
/// When the file holds no keys, or cannot be written.
pub fn add_key(file: &Path, entropy: Entropy) -> Result<String, KeyError> {
    let former = read(file)?;
    LocalKms::parse(&former, entropy.clone())?;
    let text = Zeroizing::new([draw(&entropy).as_str(), &former].concat());
    if text.len() > MAX_BYTES {
        return Err(KeyError::Full);
    }
    files::write_atomic(file, text.as_bytes(), files::PRIVATE)?;
    Ok(LocalKms::parse(&text, entropy)?.first.id)
}

fn read(file: &Path) -> Result<Zeroizing<String>, KeyError> {
    let bytes = Zeroizing::new(files::read_bounded(file, MAX_BYTES)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyError::Malformed)?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn draw(entropy: &Entropy) -> Zeroizing<String> {
    let bytes = Zeroizing::new(entropy.bytes::<KEY>());
    Zeroizing::new(BASE64.encode(*bytes) + "\n")
}

fn beside(data_key: &str) -> Aad<String> {
    Aad::from(format!("tocsin data key\0{data_key}"))
}
