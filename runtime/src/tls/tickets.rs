//! Session tickets that every server with the same secret opens, also after a restart.
//!
//! Owns the secret's form, what keys follow from it, sealing and opening. Keys follow from secret,
//! authorities and time, so servers agree without talking and keep nothing. Must not decide who
//! comes back: an opened ticket only skips the certificate verifier.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use rustls::pki_types::CertificateDer;
use rustls::server::ProducesTickets;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::config::{Secret, SecretError};
use crate::{Clock, Entropy};

#[cfg(test)]
mod tests;

/// Keeps keys of this purpose from serving another one, and tickets of another form out.
const PURPOSE: &[u8] = b"tocsin session ticket 1\0";
/// A ticket opens in the epoch that it was sealed in, and in so many after it.
const LATER_EPOCHS: u64 = 6;
/// Longer than any session with a chain of certificates; nothing longer is opened.
const MAX_BYTES: usize = 16 * 1024;
/// The shortest secret, in characters: 24 random bytes in base64.
const MIN_SECRET: usize = 32;
/// Secrets at a time: one that seals, and former ones.
const MAX_SECRETS: usize = 4;
/// Random bytes of each ticket.
const SALT: usize = 16;

/// How sessions are resumed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TicketConfig {
    /// What the keys of tickets follow from, one a line: the first seals, all open. In place (from
    /// the environment), `file:/path` or `credential:name`. None: drawn at each start, so that
    /// nobody else opens a ticket.
    pub secret: Option<Secret>,
    /// How long one key seals; a day by default. A ticket opens for six times as long.
    #[serde(with = "crate::config::duration")]
    pub rotate_every: Duration,
}

impl TicketConfig {
    /// The longest time between two keys: clients forget a ticket after seven days (RFC 8446,
    /// section 4.6.1).
    pub const LONGEST: Duration = Duration::from_secs(86_400);
    /// The shortest.
    pub const SHORTEST: Duration = Duration::from_secs(60);
}

impl Default for TicketConfig {
    fn default() -> Self {
        Self { secret: None, rotate_every: Self::LONGEST }
    }
}

/// Why there are no keys for tickets.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// The secret cannot be read.
    #[error("secret of session tickets cannot be read")]
    Secret(#[from] SecretError),
    /// A line is too short to be a secret.
    #[error("secret of session tickets has a line of fewer than {MIN_SECRET} characters")]
    Short,
    /// Too many lines.
    #[error("secret of session tickets has more than {MAX_SECRETS} lines")]
    Many,
}

/// Where the keys of tickets come from. Debug shows no secret.
#[derive(Clone)]
pub struct Tickets {
    config: TicketConfig,
    /// Used where none is configured. Drawn once, so that tickets outlive an exchange of the
    /// server's certificate.
    own: Zeroizing<[u8; 32]>,
    clock: Clock,
    entropy: Entropy,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tickets").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Tickets {
    /// As configured. Reads nothing yet.
    #[must_use]
    pub fn new(config: TicketConfig, clock: Clock, entropy: Entropy) -> Self {
        let own = Zeroizing::new(entropy.bytes());
        Self { config, own, clock, entropy }
    }

    /// What the configured secret is now; `None` where there is none. Blocking, and small.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self) -> Result<Option<Zeroizing<String>>, SecretError> {
        self.config.secret.as_ref().map(Secret::read).transpose()
    }

    /// For a server that believes those authorities: a ticket opens only where the same ones are
    /// believed, because it stands for a certificate that one of them issued. Reads the secret.
    ///
    /// # Errors
    /// See [`TicketError`].
    pub fn producer(
        &self,
        authorities: &[CertificateDer<'_>],
    ) -> Result<Arc<dyn ProducesTickets>, TicketError> {
        let salt = audience(authorities);
        let keys = match self.read()? {
            None => vec![salt.extract(&self.own[..])],
            Some(text) => extract(&salt, &text)?,
        };
        let epoch_secs = self.config.rotate_every.as_secs().max(1);
        let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
        Ok(Arc::new(Producer { keys, epoch_secs, clock, entropy }))
    }
}

/// The authorities, whatever their order.
fn audience(authorities: &[CertificateDer<'_>]) -> Salt {
    let mut hashes: Vec<_> = authorities.iter().map(|der| digest(&SHA256, der)).collect();
    hashes.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    let hashes: Vec<u8> = hashes.iter().flat_map(AsRef::as_ref).copied().collect();
    Salt::new(HKDF_SHA256, digest(&SHA256, &hashes).as_ref())
}

fn extract(salt: &Salt, text: &str) -> Result<Vec<Prk>, TicketError> {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() || lines.iter().any(|line| line.len() < MIN_SECRET) {
        Err(TicketError::Short)
    } else if lines.len() > MAX_SECRETS {
        Err(TicketError::Many)
    } else {
        Ok(lines.iter().map(|line| salt.extract(line.as_bytes())).collect())
    }
}

/// Seals and opens. A ticket is its epoch, a random salt, and what that salt's key sealed: each
/// ticket has a key of its own, so no nonce ever comes near a repetition.
struct Producer {
    /// The first seals.
    keys: Vec<Prk>,
    epoch_secs: u64,
    clock: Clock,
    entropy: Entropy,
}

impl fmt::Debug for Producer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Producer").field("epoch_secs", &self.epoch_secs).finish_non_exhaustive()
    }
}

impl Producer {
    fn epoch(&self) -> u64 {
        self.clock.unix_secs() / self.epoch_secs
    }
}

impl ProducesTickets for Producer {
    fn enabled(&self) -> bool {
        true
    }

    /// What a ticket lives at least, however late in its epoch it was sealed.
    fn lifetime(&self) -> u32 {
        u32::try_from(LATER_EPOCHS * self.epoch_secs).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let epoch = self.epoch().to_be_bytes();
        let salt: [u8; SALT] = self.entropy.bytes();
        let mut ticket = Vec::with_capacity(head() + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&epoch);
        ticket.extend_from_slice(&salt);
        ticket.extend_from_slice(plain);
        let key = key(self.keys.first()?, &epoch, &salt)?;
        let body = ticket.get_mut(head()..)?;
        let tag = key.seal_in_place_separate_tag(once(), Aad::from(PURPOSE), body).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        (ticket.len() <= MAX_BYTES).then_some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > MAX_BYTES {
            return None;
        }
        let (epoch, rest) = ticket.split_first_chunk::<8>()?;
        let (salt, body) = rest.split_first_chunk::<SALT>()?;
        let now = self.epoch();
        // Another server's clock may be in the next epoch already.
        let open = now.saturating_sub(LATER_EPOCHS)..=now.saturating_add(1);
        if !open.contains(&u64::from_be_bytes(*epoch)) {
            return None;
        }
        self.keys.iter().find_map(|prk| {
            let key = key(prk, epoch, salt)?;
            let mut body = Zeroizing::new(body.to_vec());
            let plain = key.open_in_place(once(), Aad::from(PURPOSE), &mut body).ok()?;
            Some(plain.to_vec())
        })
    }
}

/// Bytes before what is sealed.
const fn head() -> usize {
    size_of::<u64>() + SALT
}

fn key(prk: &Prk, epoch: &[u8; 8], salt: &[u8; SALT]) -> Option<LessSafeKey> {
    let info = [PURPOSE, epoch, salt];
    let expanded = prk.expand(&info, &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(expanded)))
}

/// The one nonce of a key that seals one ticket.
fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}
