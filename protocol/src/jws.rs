//! JSON Web Signature, compact serialization (RFC 7515), cut down to what Tocsin signs.
//!
//! Two algorithms, a mandatory `typ` so that one kind of document never passes for another, and
//! a mandatory `kid`. What was signed is kept as the exact text; nothing is serialised again.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::KeyId;

/// A signed document as it travels: three base64url parts joined by dots.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CompactJws(String);

impl CompactJws {
    /// Takes a text that came from a peer or the store. It is not checked before it is parsed.
    pub const fn from_text(text: String) -> Self {
        Self(text)
    }

    /// The exact text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the exact text, base64url: the name by which other documents cite this one.
    pub fn sha256(&self) -> String {
        BASE64.encode(digest(&SHA256, self.0.as_bytes()))
    }
}

impl fmt::Display for CompactJws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CompactJws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompactJws({} bytes)", self.0.len())
    }
}

/// The signature algorithms in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA on P-256 with SHA-256 (RFC 7518, 3.4).
    #[serde(rename = "ES256")]
    Es256,
}

/// Something that signs.
pub trait Signer {
    /// The algorithm of its signatures.
    fn algorithm(&self) -> Algorithm;
    /// The name of its key.
    fn key_id(&self) -> &KeyId;
    /// Signs those bytes.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, JwsError>;
}

/// A public key that verifies.
pub trait Verifier {
    /// The algorithm of its signatures.
    fn algorithm(&self) -> Algorithm;
    /// The name of the key.
    fn key_id(&self) -> &KeyId;
    /// Whether that is the key's signature of those bytes.
    fn is_valid(&self, message: &[u8], signature: &[u8]) -> bool;
}

/// Why a document cannot be signed or believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than its kind may be.
    #[error("longer than {max} bytes")]
    TooLong {
        /// The bound.
        max: usize,
    },
    /// Not three base64url parts with a header that is understood.
    #[error("not a compact JWS with alg, typ and kid")]
    Malformed,
    /// Another kind of document.
    #[error("not of the type {expected}")]
    WrongType {
        /// The kind that belongs here.
        expected: &'static str,
    },
    /// Signed by another key, by another algorithm, or altered.
    #[error("the signature does not verify")]
    BadSignature,
    /// The signed claims are not those of this kind.
    #[error("the claims are not understood: {0}")]
    Claims(String),
    /// The key could not sign.
    #[error("the key could not sign")]
    Signing,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: Algorithm,
    typ: String,
    kid: KeyId,
}

/// Signs claims as a document of that type.
pub fn sign<T: Serialize>(
    typ: &'static str,
    claims: &T,
    signer: &dyn Signer,
) -> Result<CompactJws, JwsError> {
    let header =
        Header { alg: signer.algorithm(), typ: typ.to_owned(), kid: signer.key_id().clone() };
    let encode = |bytes: Vec<u8>| BASE64.encode(bytes);
    let header = serde_json::to_vec(&header).map_err(|e| JwsError::Claims(e.to_string()))?;
    let claims = serde_json::to_vec(claims).map_err(|e| JwsError::Claims(e.to_string()))?;
    let mut text = format!("{}.{}", encode(header), encode(claims));
    let signature = signer.sign(text.as_bytes())?;
    text.push('.');
    BASE64.encode_string(signature, &mut text);
    Ok(CompactJws(text))
}

/// A document taken apart; nothing in it is to be believed before [`Parsed::verify`].
#[derive(Debug)]
pub struct Parsed<'a> {
    algorithm: Algorithm,
    key_id: KeyId,
    payload: Vec<u8>,
    signing_input: &'a str,
    signature: Vec<u8>,
}

/// Takes a document of that type apart, without believing it.
pub fn parse<'a>(
    jws: &'a CompactJws,
    typ: &'static str,
    max: usize,
) -> Result<Parsed<'a>, JwsError> {
    let text = jws.as_str();
    if text.len() > max {
        return Err(JwsError::TooLong { max });
    }
    let (signing_input, signature) = text.rsplit_once('.').ok_or(JwsError::Malformed)?;
    let (header, payload) = signing_input.split_once('.').ok_or(JwsError::Malformed)?;
    let decode = |part: &str| BASE64.decode(part).map_err(|_| JwsError::Malformed);
    let header: Header =
        serde_json::from_slice(&decode(header)?).map_err(|_| JwsError::Malformed)?;
    if header.typ != typ {
        return Err(JwsError::WrongType { expected: typ });
    }
    Ok(Parsed {
        algorithm: header.alg,
        key_id: header.kid,
        payload: decode(payload)?,
        signing_input,
        signature: decode(signature)?,
    })
}

impl Parsed<'_> {
    /// The key that claims to have signed.
    pub const fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// Whether that key signed exactly this.
    pub fn verify(&self, key: &dyn Verifier) -> Result<(), JwsError> {
        let same_key = key.key_id() == &self.key_id && key.algorithm() == self.algorithm;
        if same_key && key.is_valid(self.signing_input.as_bytes(), &self.signature) {
            Ok(())
        } else {
            Err(JwsError::BadSignature)
        }
    }

    /// Reads the claims. To be believed only after [`Parsed::verify`].
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, JwsError> {
        serde_json::from_slice(&self.payload).map_err(|e| JwsError::Claims(e.to_string()))
    }
}
