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
