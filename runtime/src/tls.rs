//! TLS 1.3 building blocks: provider, identities, server and client configurations, accepting.
//!
//! Must not decide who a peer is: that takes the certificate in [`Peer`] and the caller's
//! knowledge. **Resumption skips the certificate verifier**, so revocation and expiry have to be
//! checked from [`Peer`] after every handshake, resumed or not.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

pub use rustls::pki_types;
pub use tokio_rustls::TlsConnector;
pub use tokio_rustls::server::TlsStream;

#[cfg(feature = "server")]
pub use self::idle::{IdleStream, accept_idle};
#[cfg(feature = "server")]
pub use self::leaf::{Leaf, Standing, UnreadableLeaf, Validity};
pub use self::pem::{PemError, read_certificates, read_identity, write_certificates, write_key};
use self::pin::SpkiPinVerifier;
pub use self::pin::{PinError, SpkiPin};
#[cfg(feature = "server")]
pub use self::tickets::{TicketConfig, TicketError, Tickets};

#[cfg(feature = "server")]
mod idle;
#[cfg(feature = "server")]
mod leaf;
#[cfg(feature = "server")]
mod past_end;
mod pem;
mod pin;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(feature = "server")]
mod tickets;

/// Why a configuration could not be made or a handshake did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Key, certificate or protocol settings that rustls refuses.
    #[error("unusable tls settings")]
    Settings(#[source] rustls::Error),
    /// No usable root certificate for verifying peers.
    #[error("unusable root certificates")]
    Roots(#[source] rustls::server::VerifierBuilderError),
    /// A client of those authorities would not believe the certificate.
    #[error("clients would not believe the certificate")]
    Unbelieved(#[source] rustls::Error),
    /// There is a secret for session tickets, and it cannot be used.
    #[cfg(feature = "server")]
    #[error("no usable secret for session tickets")]
    Tickets(#[from] TicketError),
    /// The handshake did not finish in time.
    #[error("tls handshake took longer than {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The peer broke off, or one side refused the other.
    #[error("tls handshake failed")]
    Handshake(#[source] std::io::Error),
}

/// A certificate chain, leaf first, and its key. Debug does not show the key.
#[derive(Debug)]
pub struct Identity {
    /// The leaf, then every intermediate that the peer may lack.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// Whether a server asks its clients for a certificate.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// It does not ask.
    None,
    /// A certificate may be absent; when present, it must chain to one of these authorities.
    Optional(Vec<CertificateDer<'static>>),
    /// The same, but one that is past its end is let through: every handler must judge the time
    /// itself, and at most one that renews may be lenient.
    #[cfg(feature = "server")]
    OptionalPastEnd(Vec<CertificateDer<'static>>),
    /// A certificate that chains to one of these authorities is demanded.
    Required(Vec<CertificateDer<'static>>),
}

/// What a TLS handshake told about the other side.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's leaf certificate, also when the session was resumed: then it is the one of
    /// the original handshake, and nobody has looked at it since.
    pub certificate: Option<CertificateDer<'static>>,
    /// Whether the verifier was skipped because the session was resumed.
    pub resumed: bool,
    /// The protocol agreed by ALPN.
    pub alpn: Option<Vec<u8>>,
}

/// The one cryptography provider, always passed explicitly: a process-wide default can be set by
/// any dependency.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Makes [`provider`] the process-wide default as well, for libraries that take no other.
/// Harmless when called again.
pub fn install_provider() {
    if aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("tls provider was already installed");
    }
}

/// A TLS 1.3 server with stateless resumption.
///
/// Each configuration has ticket keys of its own: one made from changed authorities does not
/// resume what the former ones admitted. [`Tickets`] makes keys that several share. One ticket
/// per handshake instead of rustls's two, since an agent opens one connection at a time.
///
/// # Errors
/// When key and chain do not fit, or no root certificate is usable.
pub fn server_config(
    identity: &Identity,
    client_auth: ClientAuth,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Settings)?;
    let builder = match client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(authorities) => {
            builder.with_client_cert_verifier(client_verifier(authorities, true)?)
        }
        #[cfg(feature = "server")]
        ClientAuth::OptionalPastEnd(authorities) => {
            let strict = client_verifier(authorities, true)?;
            builder.with_client_cert_verifier(Arc::new(past_end::PastEnd(strict)))
        }
        ClientAuth::Required(authorities) => {
            builder.with_client_cert_verifier(client_verifier(authorities, false)?)
        }
    };
    let mut config = builder
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(TlsError::Settings)?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.send_tls13_tickets = 1;
    config.ticketer = Ticketer::new().map_err(TlsError::Settings)?;
    Ok(config)
}

/// A TLS 1.3 client that trusts `authorities` only and shows `identity` if it has one.
///
/// # Errors
/// When no authority is usable, or key and chain do not fit.
pub fn client_config(
    authorities: &[CertificateDer<'static>],
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let roots = Arc::new(roots(authorities.to_vec())?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(TlsError::Roots)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Settings)?
        .with_webpki_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(TlsError::Settings)?,
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// A TLS 1.3 client that trusts `authorities` only and shows a certificate whose key signs elsewhere.
/// Where there are `pins`, it trusts every authority with such a key, known or presented, and no other.
///
/// # Errors
/// When no authority is usable, or key and chain do not fit.
pub fn client_config_signing(
    (authorities, pins): (&[CertificateDer<'static>], &[SpkiPin]),
    certified: CertifiedKey,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    certified.keys_match().map_err(TlsError::Settings)?;
    let mut config = client_config(authorities, None, alpn)?;
    if !pins.is_empty() {
        let verifier = SpkiPinVerifier::new(pins, authorities, provider());
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
    }
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    Ok(config)
}

/// A TLS 1.3 client for enrollment: it knows no authority yet, only the hash of one's key.
///
/// The server must present, after its leaf, a certificate with that key, and the leaf must chain
/// to it for the server's name by the ordinary rules.
///
/// # Errors
/// Never for the settings used here; the type is shared with the other constructors.
pub fn pinned_client_config(pin: SpkiPin, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Settings)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SpkiPinVerifier::new(&[pin], &[], provider())))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// Judges a server's certificate as a client that trusts `authorities` would: chain, usage,
/// validity and name.
///
/// # Errors
/// [`TlsError::Unbelieved`], or [`TlsError::Roots`] when no authority is usable.
pub fn check_server(
    identity: &Identity,
    authorities: &[CertificateDer<'static>],
    name: &ServerName<'_>,
    unix_secs: u64,
) -> Result<(), TlsError> {
    let roots = Arc::new(roots(authorities.to_vec())?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(TlsError::Roots)?;
    let missing = || TlsError::Unbelieved(rustls::Error::NoCertificatesPresented);
    let (leaf, others) = identity.chain.split_first().ok_or_else(missing)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(unix_secs));
    let verified = verifier.verify_server_cert(leaf, others, name, &[], now);
    verified.map(drop).map_err(TlsError::Unbelieved)
}

/// Performs the server's handshake within `timeout`.
///
/// # Errors
/// [`TlsError::TimedOut`] or [`TlsError::Handshake`]; the stream is closed then.
pub async fn accept<S>(
    stream: S,
    config: Arc<ServerConfig>,
    timeout: Duration,
) -> Result<(TlsStream<S>, Peer), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| TlsError::TimedOut(timeout))?
        .map_err(TlsError::Handshake)?;
    let (_, session) = stream.get_ref();
    let peer = Peer {
        certificate: session.peer_certificates().and_then(|chain| chain.first()).cloned(),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
    };
    Ok((stream, peer))
}

fn client_verifier(
    authorities: Vec<CertificateDer<'static>>,
    optional: bool,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots(authorities)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(TlsError::Roots)
}

fn roots(authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(TlsError::Settings)?;
    }
    Ok(roots)
}
