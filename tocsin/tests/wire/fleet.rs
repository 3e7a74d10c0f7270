//! Who takes part: an authority, hubs and control plane with its certificates, and devices that are
//! enrolled, each with a state directory of its own.

use std::path::PathBuf;

use agent::identity::{KeyPair, KeyPlace};
use agent::journal::Journal;
use agent::state::{Enrollment, StateDir, TrustChain};
use protocol::enrollment::{AgentConfig, DeviceIdentity};
use protocol::fixture::{NOW, Organisation, device};
use protocol::id::DeviceId;
use protocol::key::DevicePublicKey;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, SanType,
};
use runtime::tls::Identity;
use runtime::tls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use crate::net::PORT;

/// Hubs, and devices.
pub(crate) const HUBS: usize = 3;
pub(crate) const DEVICES: usize = 4;
/// The enrollment generation of every device.
pub(crate) const GENERATION: u32 = 1;
/// A folder in memory, where there is one: a run syncs hundreds of records.
const IN_MEMORY: &str = "/dev/shm";

/// The authority and the devices' folders. Dropping it removes them.
pub(crate) struct Fleet {
    authority: CertifiedIssuer<'static, rcgen::KeyPair>,
    folder: TempDir,
    pub(crate) organisation: Organisation,
    pub(crate) keys: Vec<DevicePublicKey>,
}

pub(crate) fn hub_name(number: usize) -> String {
    format!("hub-{number}")
}

/// The host of a device.
pub(crate) fn host_name(number: usize) -> String {
    format!("device-{number}")
}

pub(crate) fn device_id(number: usize) -> DeviceId {
    device(u8::try_from(number + 1).expect("few devices"))
}

pub(crate) fn device_number(id: DeviceId) -> Option<usize> {
    (0..DEVICES).find(|number| device_id(*number) == id)
}

/// A device as the trace names it.
pub(crate) fn device_name(id: DeviceId) -> String {
    device_number(id).map_or_else(|| "a stranger".to_owned(), host_name)
}

pub(crate) fn hub_addresses() -> Vec<String> {
    (0..HUBS).map(|number| format!("{}:{PORT}", hub_name(number))).collect()
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        let folder = tempfile::tempdir_in(IN_MEMORY).or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a folder");
        let organisation = Organisation::new();
        let mut fleet = Self { authority, folder, organisation, keys: Vec::new() };
        fleet.keys = (0..DEVICES).map(|number| fleet.enroll(number)).collect();
        fleet
    }

    pub(crate) fn state_dir(&self, number: usize) -> PathBuf {
        self.folder.path().join(host_name(number))
    }

    pub(crate) fn authorities(&self) -> Vec<CertificateDer<'static>> {
        vec![self.authority.der().clone()]
    }

    /// The identity of a server of that name.
    pub(crate) fn server(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a plain name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.authority).expect("the authority signs");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a private key");
        Identity { chain: vec![leaf.der().clone(), self.authority.der().clone()], key }
    }

    /// Makes the folder that an enrollment leaves behind.
    fn enroll(&self, number: usize) -> DevicePublicKey {
        let state = StateDir::open(&self.state_dir(number)).expect("a fresh folder");
        let key = KeyPair::load_or_make(&state.key_path(), &KeyPlace::file()).expect("a key");
        let request = key.certificate_request().expect("the key signs");
        let mut request = CertificateSigningRequestParams::from_pem(&request).expect("a request");
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let who = DeviceIdentity { device: device_id(number), generation: GENERATION };
        let uris = who.to_uris();
        let uris = uris.map(|uri| SanType::URI(uri.as_str().try_into().expect("a plain uri")));
        request.params.subject_alt_names = uris.to_vec();
        let certificate = request.signed_by(&self.authority).expect("the authority signs");
        let directory =
            AgentConfig { iat: NOW, api: vec![format!("api:{PORT}")], hubs: hub_addresses() };
        let enrollment = Enrollment {
            device_id: device_id(number),
            generation: GENERATION,
            certificate: certificate.pem(),
            ca: self.authority.pem(),
            config: directory.sign(&self.organisation.command_key).expect("the fixture signs"),
        };
        Journal::create(&state.journal_path(&enrollment)).expect("a journal");
        TrustChain::pin(&state, self.organisation.signed_trust()).expect("a trust root");
        state.save_enrollment(&enrollment).expect("an enrollment");
        key.public()
    }
}
