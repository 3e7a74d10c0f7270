//! Id tokens (OpenID Connect Core 1.0, 3.1.3.7): parsed, their signature and claims judged.
//!
//! Owns the list of algorithms, of which the header's word never widens any: `none` and those with a
//! shared secret are not among them, and a key serves its own kind alone. Asks no clock.

use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use protocol::time::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Bytes of an id token.
const MAX_BYTES: usize = 16 * 1024;
/// By how much the provider's clock may differ.
const SKEW: Duration = Duration::from_secs(60);
/// How old an id token may be: somebody has just signed in.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// Characters of a subject (OpenID Connect Core 1.0, 2).
const MAX_SUBJECT: usize = 255;
/// Groups that are looked at.
const MAX_GROUPS: usize = 1000;

/// Why an id token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum IdTokenError {
    #[error("it is no signed token")]
    Malformed,
    #[error("its algorithm is none of RS256, PS256, ES256 and EdDSA")]
    Algorithm,
    #[error("no key of the provider has signed it")]
    UnknownKey,
    #[error("its signature does not verify")]
    Signature,
    #[error("it is of another issuer")]
    Issuer,
    #[error("it is for somebody else")]
    Audience,
    #[error("it is over")]
    Expired,
    #[error("it is of the future, or not of the last ten minutes")]
    Time,
    #[error("its nonce is not that of this sign-in")]
    Nonce,
    #[error("it names no subject")]
    Subject,
}

/// A public key of the provider (RFC 7517). What is not understood is left out, not refused.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Ps256,
    Es256,
    EdDsa,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

/// An id token taken apart; nothing in it is to be believed before [`IdToken::verify`].
pub(super) struct IdToken<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    signed: &'a str,
    signature: Vec<u8>,
    claims: Map<String, Value>,
}

/// What an id token has to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) nonce: &'a str,
    /// Whether it may have none.
    pub(super) may_lack_nonce: bool,
    pub(super) now: Timestamp,
}

/// Claims that are believed.
#[derive(Debug)]
pub(super) struct Claims(Map<String, Value>);

impl<'a> IdToken<'a> {
    /// Takes one apart.
    pub(super) fn parse(text: &'a str) -> Result<Self, IdTokenError> {
        let malformed = IdTokenError::Malformed;
        if text.len() > MAX_BYTES {
            return Err(malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(malformed)?;
        let decode = |part: &str| BASE64.decode(part).map_err(|_| malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed)?;
        // Access tokens and logout tokens of the same provider are of another type (RFC 9068, 2.1).
        let is_jwt = header.typ.is_none_or(|typ| typ.eq_ignore_ascii_case("JWT"));
        if header.crit.is_some() || !is_jwt {
            return Err(malformed);
        }
        Ok(Self {
            algorithm: Algorithm::named(&header.alg).ok_or(IdTokenError::Algorithm)?,
            kid: header.kid,
            signed,
            signature: decode(signature)?,
            claims: serde_json::from_slice(&decode(claims)?).map_err(|_| malformed)?,
        })
    }

    /// Whether one of these keys may have signed it.
    pub(super) fn is_of(&self, keys: &[Jwk]) -> bool {
        self.candidates(keys).next().is_some()
    }

    fn candidates<'k>(&'k self, keys: &'k [Jwk]) -> impl Iterator<Item = &'k Jwk> {
        let is_named = |key: &&Jwk| match &self.kid {
            Some(kid) => key.kid.as_ref() == Some(kid),
            None => true,
        };
        keys.iter().filter(is_named).filter(|key| key.serves(self.algorithm))
    }

    /// Its claims, if it is all that is expected.
    pub(super) fn verify(
        self,
        keys: &[Jwk],
        expected: Expected<'_>,
    ) -> Result<Claims, IdTokenError> {
        if !self.is_of(keys) {
            return Err(IdTokenError::UnknownKey);
        }
        let message = self.signed.as_bytes();
        let verifies = |key: &Jwk| key.verifies(self.algorithm, message, &self.signature);
        if !self.candidates(keys).any(verifies) {
            return Err(IdTokenError::Signature);
        }
        let claims = Claims(self.claims);
        claims.judge(expected)?;
        Ok(claims)
    }
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "PS256" => Some(Self::Ps256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

impl Jwk {
    fn serves(&self, algorithm: Algorithm) -> bool {
        let is_kind = match algorithm {
            Algorithm::Rs256 | Algorithm::Ps256 => self.kty == "RSA",
            Algorithm::Es256 => self.kty == "EC" && self.crv.as_deref() == Some("P-256"),
            Algorithm::EdDsa => self.kty == "OKP" && self.crv.as_deref() == Some("Ed25519"),
        };
        is_kind
            && self.alg.as_deref().is_none_or(|alg| alg == algorithm.name())
            && self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
    }

    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verified = match algorithm {
            Algorithm::Rs256 => {
                self.rsa().map(|key| key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature))
            }
            Algorithm::Ps256 => {
                self.rsa().map(|key| key.verify(&RSA_PSS_2048_8192_SHA256, message, signature))
            }
            Algorithm::Es256 => self.point().map(|point| {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }),
            Algorithm::EdDsa => number(self.x.as_deref())
                .map(|key| UnparsedPublicKey::new(&ED25519, key).verify(message, signature)),
        };
        verified.is_some_and(|outcome| outcome.is_ok())
    }

    fn rsa(&self) -> Option<RsaPublicKeyComponents<Vec<u8>>> {
        let trimmed = |text| number(text).map(|bytes| without_zeros(&bytes).to_vec());
        Some(RsaPublicKeyComponents {
            n: trimmed(self.n.as_deref())?,
            e: trimmed(self.e.as_deref())?,
        })
    }

    /// The uncompressed point.
    fn point(&self) -> Option<Vec<u8>> {
        let mut point = vec![4];
        for coordinate in [&self.x, &self.y] {
            let bytes = number(coordinate.as_deref())?;
            // Some providers write a leading zero too many.
            let bytes = without_zeros(&bytes);
            point.extend(std::iter::repeat_n(0, 32_usize.checked_sub(bytes.len())?));
            point.extend(bytes);
        }
        Some(point)
    }
}

fn number(text: Option<&str>) -> Option<Vec<u8>> {
    BASE64.decode(text?).ok()
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

impl Claims {
    fn judge(&self, expected: Expected<'_>) -> Result<(), IdTokenError> {
        let Expected { issuer, client_id, nonce, may_lack_nonce, now } = expected;
        if self.text("iss") != Some(issuer) {
            return Err(IdTokenError::Issuer);
        }
        let audience = self.texts("aud");
        let is_party = self.text("azp").map_or(audience.len() == 1, |party| party == client_id);
        if !audience.contains(&client_id) || !is_party {
            return Err(IdTokenError::Audience);
        }
        if self.time("exp").is_none_or(|end| end.plus(SKEW) <= now) {
            return Err(IdTokenError::Expired);
        }
        let begin = self.time("nbf").unwrap_or(now);
        let issued = self.time("iat").ok_or(IdTokenError::Time)?;
        let latest = now.plus(SKEW);
        if begin > latest || issued > latest || issued.plus(FRESH) <= now {
            return Err(IdTokenError::Time);
        }
        let is_without = may_lack_nonce && !self.0.contains_key("nonce");
        if !is_without && self.text("nonce") != Some(nonce) {
            return Err(IdTokenError::Nonce);
        }
        let subject = self.subject();
        if subject.is_empty() || subject.len() > MAX_SUBJECT {
            return Err(IdTokenError::Subject);
        }
        Ok(())
    }

    /// Whom the provider means.
    pub(super) fn subject(&self) -> &str {
        self.text("sub").unwrap_or_default()
    }

    /// A claim that is a text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A claim that is a text or several.
    pub(super) fn texts(&self, name: &str) -> Vec<&str> {
        match self.0.get(name) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(items)) => {
                items.iter().take(MAX_GROUPS).filter_map(Value::as_str).collect()
            }
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
                Vec::new()
            }
        }
    }

    /// A claim that is a number of seconds, whole or not.
    fn time(&self, name: &str) -> Option<Timestamp> {
        let value = self.0.get(name)?;
        let secs = value.as_u64().or_else(|| {
            let secs = value.as_f64().filter(|secs| secs.is_finite() && *secs >= 0.0)?;
            format!("{secs:.0}").parse().ok()
        })?;
        Some(Timestamp::from_millis(secs.checked_mul(1000)?))
    }
}
