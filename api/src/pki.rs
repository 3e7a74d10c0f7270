//! The embedded authority: certificates of devices, hubs and our own listeners.
//!
//! Owns the authority's key (`ca.key`, mode 0600), which other authorities are trusted while one
//! follows another, and the shape of every certificate. Must not decide who gets one. Certificates are short-lived, and the revoked are on a deny-list: there
//! are no revocation lists.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use protocol::enrollment::DeviceIdentity;
use protocol::id::HubId;
use protocol::key::DevicePublicKey;
use protocol::limits;
use protocol::time::Timestamp;
use protocol::trust::AuthorityPin;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber,
};
use runtime::Entropy;
use runtime::files::FileError;
use runtime::tls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use runtime::tls::{self, Identity, PemError, PinError, SpkiPin};

pub use self::peer::{Peer, PeerError, read_peer};
pub use self::succession::{SuccessionError, prepare, retire, switch};

mod peer;
mod succession;
#[cfg(test)]
mod tests;

/// How long the authority itself lasts.
const AUTHORITY_LASTS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How long a certificate of a listener lasts.
pub const SERVER_LASTS: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The longest certificate signing request, in bytes of PEM.
const MAX_CSR: usize = 16 * 1024;

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the authority cannot be read or written.
    #[error("the authority's files are not usable")]
    Files(#[from] PemError),
    /// A folder or file is not accessible.
    #[error("the authority's folder is not usable")]
    Folder(#[from] FileError),
    /// Making or signing did not work.
    #[error("the certificate cannot be made")]
    Making(#[from] rcgen::Error),
    /// The authority's own certificate is not readable.
    #[error("the authority's certificate is not readable")]
    Pin(#[from] PinError),
    /// The key is another one's.
    #[error("ca.key is not the key of ca.crt")]
    OtherKey,
    /// The request is not a PKCS#10 request with a P-256 key and proof of its possession.
    #[error("the certificate signing request is not a P-256 one with a valid signature")]
    Request,
}

/// The authority.
pub struct Authority {
    certificate: CertificateDer<'static>,
    /// Its successor or its predecessor, while devices go from one to the other.
    others: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    pin: SpkiPin,
    entropy: Entropy,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.pin)
    }
}

/// A certificate signing request whose proof of possession was checked.
#[derive(Debug)]
pub struct Csr {
    key: rcgen::PublicKey,
    public: DevicePublicKey,
}

impl Csr {
    /// Reads a request in PEM. Nothing in it but the key is looked at.
    pub fn parse(pem: &str) -> Result<Self, PkiError> {
        if pem.len() > MAX_CSR {
            return Err(PkiError::Request);
        }
        let request =
            CertificateSigningRequestParams::from_pem(pem).map_err(|_| PkiError::Request)?;
        let key = request.public_key;
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(PkiError::Request);
        }
        let public = DevicePublicKey::from_point(key.der_bytes()).map_err(|_| PkiError::Request)?;
        Ok(Self { key, public })
    }

    /// The device's key.
    pub const fn public(&self) -> &DevicePublicKey {
        &self.public
    }
}

impl Authority {
    /// Loads the authority of a data folder (`ca.crt`, `ca.key`), or makes it there.
    pub fn load_or_create(
        folder: &Path,
        now: Timestamp,
        entropy: Entropy,
    ) -> Result<Self, PkiError> {
        let (chain, key) = (folder.join("ca.crt"), folder.join("ca.key"));
        if !chain.exists() {
            let (certificate, key_pair) = make_authority(now, &entropy)?;
            tls::write_key(&key, &private_key(&key_pair))?;
            tls::write_certificates(&chain, &[certificate])?;
        }
        Self::load(folder, entropy)
    }

    /// Loads the authority of a data folder, which has to be there.
    pub fn load(folder: &Path, entropy: Entropy) -> Result<Self, PkiError> {
        let Identity { chain, key } =
            tls::read_identity(&folder.join("ca.crt"), &folder.join("ca.key"))?;
        let certificate = chain.into_iter().next().ok_or(PkiError::Request)?;
        let key_pair = KeyPair::try_from(&key)?;
        let pin = SpkiPin::of(&certificate)?;
        let own = digest(&SHA256, &key_pair.subject_public_key_info());
        if own.as_ref() != pin.as_bytes() {
            return Err(PkiError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key_pair)?;
        Ok(Self { certificate, others: succession::others(folder)?, issuer, pin, entropy })
    }

    /// The authority's certificate.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Every authority that is trusted: this one first, which is the only one that issues.
    pub fn trusted(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(&self.certificate).chain(&self.others).cloned().collect()
    }

    /// The same in PEM.
    pub fn trusted_pem(&self) -> String {
        let trusted = self.trusted();
        pem(&trusted.iter().collect::<Vec<_>>())
    }

    /// The others that are trusted.
    pub(crate) fn others(&self) -> &[CertificateDer<'static>] {
        &self.others
    }

    /// The public half of the key that signs certificates, as its info in DER.
    pub fn public_key(&self) -> Vec<u8> {
        self.issuer.key().subject_public_key_info()
    }

    /// The pin of the authority's key, which enrollment tokens carry.
    pub const fn pin(&self) -> SpkiPin {
        self.pin
    }

    /// The same, as the trust root names it.
    pub fn trust_pin(&self) -> AuthorityPin {
        AuthorityPin::from_bytes(*self.pin.as_bytes())
    }

    /// Whether it issues with the same key and certificate as the other, and trusts the same others.
    pub fn is_same(&self, other: &Self) -> bool {
        self.certificate == other.certificate && self.others == other.others
    }

    /// A fresh key and certificate for a listener of ours, with the authority's certificate
    /// after it, as pinned clients need.
    pub fn issue_server(&self, names: &[String], now: Timestamp) -> Result<Identity, PkiError> {
        self.issue_server_for(names, now, SERVER_LASTS)
    }

    fn issue_server_for(
        &self,
        names: &[String],
        now: Timestamp,
        lasts: Duration,
    ) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::new(names)?;
        let name = names.first().map_or("tocsin", String::as_str);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key_pair = KeyPair::generate()?;
        let leaf = self.sign(params, &key_pair, now, lasts)?;
        Ok(Identity { chain: vec![leaf, self.certificate.clone()], key: private_key(&key_pair) })
    }

    /// The certificate of a device, as PEM with the authority's after it, and its end.
    pub fn issue_device(
        &self,
        identity: DeviceIdentity,
        csr: &Csr,
        now: Timestamp,
        lasts: Duration,
    ) -> Result<(String, Timestamp), PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, identity.device.to_string());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        for uri in identity.to_uris() {
            params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        let leaf = self.sign(params, &csr.key, now, lasts)?;
        Ok((pem(&[&leaf, &self.certificate]), now.plus(lasts)))
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        now: Timestamp,
        lasts: Duration,
    ) -> Result<CertificateDer<'static>, PkiError> {
        set_validity(&mut params, now, lasts, &self.entropy);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

/// A fresh identity for a push hub, by the same authority as everybody's.
///
/// The hub needs it, and [`Authority::certificate`] to verify devices.
pub fn issue_hub_identity(
    authority: &Authority,
    hub: &HubId,
    names: &[String],
    (now, lasts): (Timestamp, Duration),
) -> Result<Identity, PkiError> {
    let mut names = names.to_vec();
    if names.is_empty() {
        names.push(hub.to_string());
    }
    authority.issue_server_for(&names, now, lasts)
}

fn make_authority(
    now: Timestamp,
    entropy: &Entropy,
) -> Result<(CertificateDer<'static>, KeyPair), PkiError> {
    let mut params = CertificateParams::default();
    let name: String = entropy.bytes::<4>().iter().map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("Tocsin authority {name}"));
    set_validity(&mut params, now, AUTHORITY_LASTS, entropy);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key_pair = KeyPair::generate()?;
    let certificate = params.self_signed(&key_pair)?.der().clone();
    Ok((certificate, key_pair))
}

fn set_validity(
    params: &mut CertificateParams,
    now: Timestamp,
    lasts: Duration,
    entropy: &Entropy,
) {
    let at = |time: Timestamp| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(time.whole_secs().as_millis())
    };
    params.not_before = at(now.minus(limits::CLOCK_SKEW));
    params.not_after = at(now.plus(lasts));
    let mut serial = entropy.bytes::<16>();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

fn private_key(key_pair: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key_pair.serialize_der()))
}

fn pem(chain: &[&CertificateDer<'_>]) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let mut text = String::new();
    for certificate in chain {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        for (index, letter) in encoded.chars().enumerate() {
            if index > 0 && index % 64 == 0 {
                text.push('\n');
            }
            text.push(letter);
        }
        text.push_str("\n-----END CERTIFICATE-----\n");
    }
    text
}
