//! The authority issues what it says, and reads only what it issued.

use protocol::id::DeviceId;
use runtime::tls::pki_types::pem::PemObject as _;

use super::*;

fn authority(folder: &Path) -> Authority {
    Authority::load_or_create(folder, Timestamp::from_millis(1_000_000_000_000), Entropy::seeded(7))
        .unwrap()
}

fn csr_pem() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    (key, pem)
}

#[test]
fn device_certificate_names_device_and_generation_until_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let now = Timestamp::from_millis(1_000_000_000_000);
    let (_, pem) = csr_pem();
    let csr = Csr::parse(&pem).unwrap();
    let identity = DeviceIdentity { device: DeviceId::new(now, [1; 10]), generation: 3 };
    let lasts = Duration::from_secs(3600);
    let (chain, expires_at) = authority.issue_device(identity, &csr, now, lasts).unwrap();
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    assert_eq!(chain.len(), 2);
    let read = |at: Timestamp, grace: u64| {
        read_peer(Some(&chain[0]), at, Duration::from_secs(grace)).map(|peer| peer.over_for)
    };
    let peer = read_peer(Some(&chain[0]), now, Duration::ZERO);
    assert_eq!(peer, Ok(Peer { identity, over_for: None }));
    assert_eq!(read(expires_at, 0), Ok(None), "its last second counts");
    let late = expires_at.plus(Duration::from_secs(5));
    assert_eq!(read(late, 0), Err(PeerError::Expired));
    assert_eq!(read(late, 4), Err(PeerError::Expired));
    assert_eq!(read(late, 5), Ok(Some(Duration::from_secs(5))));
    let early = now.minus(limits::CLOCK_SKEW + Duration::from_secs(1));
    assert_eq!(read(early, 5), Err(PeerError::Expired));
    assert_eq!(read_peer(Some(&chain[1]), now, Duration::ZERO), Err(PeerError::NotADevice));
    assert_eq!(read_peer(None, now, Duration::ZERO), Err(PeerError::Missing));
}

#[test]
fn authority_survives_a_restart_with_a_private_key_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let first = authority(folder.path()).pin();
    assert_eq!(authority(folder.path()).pin(), first);
    let mode = std::fs::metadata(folder.path().join("ca.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn hostile_requests_are_refused() {
    let (_, pem) = csr_pem();
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ed25519 = CertificateParams::default().serialize_request(&other).unwrap().pem().unwrap();
    let mut tampered = pem.clone();
    let at = pem.find("-----END").unwrap() - 8;
    let other = if pem.as_bytes()[at] == b'A' { "B" } else { "A" };
    tampered.replace_range(at..=at, other);
    for text in
        ["", "-----BEGIN CERTIFICATE REQUEST-----", &ed25519, &tampered, &"A".repeat(99_999)]
    {
        assert!(matches!(Csr::parse(text), Err(PkiError::Request)), "{text}");
    }
}

/// As OPERATIONS says it: the company's root signs an intermediate, which is put into the data folder.
#[test]
fn intermediate_of_another_authority_issues_and_what_is_above_it_does_not_count() {
    use rcgen::{BasicConstraints, CertifiedIssuer};
    let ca = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params
    };
    let company = CertifiedIssuer::self_signed(ca(), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let intermediate = ca().signed_by(&key, &company).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let chain = [intermediate.der().clone(), company.der().clone()];
    tls::write_certificates(&folder.path().join("ca.crt"), &chain).unwrap();
    tls::write_key(&folder.path().join("ca.key"), &private_key(&key)).unwrap();
    let authority = authority(folder.path());
    assert_eq!(authority.pin(), SpkiPin::of(intermediate.der()).unwrap());
    let now = Timestamp::from_millis(1_000_000_000_000);
    let secs = now.as_millis() / 1000;
    let name = "hub.example".try_into().unwrap();
    let server = authority.issue_server(&["hub.example".to_owned()], now).unwrap();
    tls::check_server(&server, &authority.trusted(), &name, secs).unwrap();
    // Another server of the company is none of ours.
    let other = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["hub.example".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&other, &company).unwrap();
    let others = Identity { chain: vec![leaf.der().clone()], key: private_key(&other) };
    tls::check_server(&others, &[company.der().clone()], &name, secs).unwrap();
    assert!(tls::check_server(&others, &authority.trusted(), &name, secs).is_err());
}
