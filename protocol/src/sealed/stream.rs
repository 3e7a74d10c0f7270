//! Sealing what is too long for one text: chunk by chunk, so that none can be left out, moved or added.
//!
//! The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its
//! Nonce-Reuse Misuse-Resistance, 2015) over AES-256-GCM: the nonce is seven zero bytes, the number of the
//! chunk and whether it is the last. The key is of one use, so no nonce comes twice. Its public half is
//! the stream's name, and travels apart.

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use super::{CaseKey, CaseSecret, KEY_BYTES, SealedError};

/// Keeps keys of this purpose from serving another one.
const PURPOSE: &[u8] = b"tocsin-collection-v1";

/// Bytes that sealing adds to a chunk.
pub const TAG_BYTES: usize = 16;

/// Seals chunks in their order, once.
#[derive(Debug)]
pub struct ChunkSealer {
    once: CaseKey,
    chain: Chain,
}

/// Opens chunks in their order.
#[derive(Debug)]
pub struct ChunkOpener(Chain);

#[derive(Debug)]
struct Chain {
    key: LessSafeKey,
    about: Vec<u8>,
    /// The number of the next chunk; `None` after the last.
    next: Option<u32>,
}

impl CaseKey {
    /// What seals chunks to this case. `about` must be named again by whoever opens them; `chance`
    /// must be used once and never again.
    ///
    /// # Errors
    /// [`SealedError::Key`] when this is no usable key.
    pub fn chunks(
        &self,
        about: &[u8],
        chance: [u8; KEY_BYTES],
    ) -> Result<ChunkSealer, SealedError> {
        let secret = CaseSecret::new(chance);
        let once = secret.public()?;
        let key = secret.agree(PURPOSE, (self, &once, self))?;
        Ok(ChunkSealer { once, chain: Chain { key, about: about.to_vec(), next: Some(0) } })
    }
}

impl CaseSecret {
    /// What opens the chunks of that stream, which were sealed to this case about that.
    ///
    /// # Errors
    /// [`SealedError::Key`] when one of the keys is not usable.
    pub fn chunks(&self, about: &[u8], once: &CaseKey) -> Result<ChunkOpener, SealedError> {
        let key = self.agree(PURPOSE, (once, once, &self.public()?))?;
        Ok(ChunkOpener(Chain { key, about: about.to_vec(), next: Some(0) }))
    }
}

impl ChunkSealer {
    /// The public half of the key of one use: what whoever opens the chunks needs beside their own.
    pub const fn once(&self) -> CaseKey {
        self.once
    }

    /// Seals the next chunk; nothing follows the last.
    ///
    /// # Errors
    /// [`SealedError::Ended`] after the last, or after more chunks than have a number.
    pub fn seal(&mut self, mut chunk: Vec<u8>, is_last: bool) -> Result<Vec<u8>, SealedError> {
        let nonce = self.chain.step(is_last)?;
        self.chain
            .key
            .seal_in_place_append_tag(nonce, Aad::from(&self.chain.about), &mut chunk)
            .map_err(|_| SealedError::Closed)?;
        Ok(chunk)
    }
}

impl ChunkOpener {
    /// Opens the next chunk.
    ///
    /// # Errors
    /// [`SealedError::Closed`] when it is not the next, not the last that it should be, altered, or
    /// another's; [`SealedError::Ended`] after the last.
    pub fn open(&mut self, mut chunk: Vec<u8>, is_last: bool) -> Result<Vec<u8>, SealedError> {
        let nonce = self.0.step(is_last)?;
        let length = self
            .0
            .key
            .open_in_place(nonce, Aad::from(&self.0.about), &mut chunk)
            .map_err(|_| SealedError::Closed)?
            .len();
        chunk.truncate(length);
        Ok(chunk)
    }
}

impl Chain {
    /// The nonce of the next chunk.
    fn step(&mut self, is_last: bool) -> Result<Nonce, SealedError> {
        let number = self.next.ok_or(SealedError::Ended)?;
        self.next = if is_last { None } else { number.checked_add(1) };
        let mut nonce = [0; NONCE_LEN];
        let [.., a, b, c, d, last] = &mut nonce;
        [*a, *b, *c, *d] = number.to_be_bytes();
        *last = u8::from(is_last);
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}
