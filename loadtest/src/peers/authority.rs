//! Certificates of a comparison: one authority, one server, one client, all made for the run.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use runtime::tls;
use runtime::tls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::ClientConfig;

use super::PeersError;

/// Writes `ca.pem`, `server.pem` and `server.key` there, and answers a client that they accept.
pub(super) fn make(folder: &Path) -> Result<Arc<ClientConfig>, PeersError> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let name = rcgen::DnType::CommonName;
    params.distinguished_name.push(name.clone(), "load test authority");
    let authority = params.self_signed(&key)?;
    let issuer = rcgen::Issuer::new(params, key);
    let issue = |common: &str, names: Vec<String>| {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(names)?;
        params.distinguished_name.push(name.clone(), common);
        Ok::<_, rcgen::Error>((params.signed_by(&key, &issuer)?, key))
    };
    let (server, server_key) = issue("127.0.0.1", vec!["127.0.0.1".to_owned()])?;
    let (client, client_key) = issue("client", Vec::new())?;
    for (file, text) in [
        ("ca.pem", authority.pem()),
        ("server.pem", server.pem()),
        ("server.key", server_key.serialize_pem()),
    ] {
        fs::write(folder.join(file), text).map_err(PeersError::Files)?;
    }
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(client_key.serialize_der()));
    let identity = tls::Identity { chain: vec![client.der().clone()], key };
    let authorities: [CertificateDer<'static>; 1] = [authority.der().clone()];
    let mut config = tls::client_config(&authorities, Some(&identity), &[])?;
    // Each connection is to cost what a device of its own would: nothing is resumed.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
