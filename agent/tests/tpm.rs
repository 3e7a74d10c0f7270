//! The device's key in a real TPM in software: what it signs, and what happens when the TPM is another, is
//! away, or says something else.
//!
//! Needs the Debian package `swtpm`. Where it is missing each test fails by name; nothing is skipped.

#![expect(clippy::unwrap_used, reason = "a test whose scene cannot be set should stop there")]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agent::identity::{
    Cleared, Identity, IdentityError, KeyPair, KeyPlace, Made, TpmError, clear_tpm,
};
use protocol::fixture::{command, device};
use protocol::id::BootId;
use protocol::receipt::{self, Evidence, Outcome, Receipt};
use protocol::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, PublicKeyData as _,
};
use runtime::tls::pki_types::PrivateKeyDer;
use runtime::tls::{self, ClientAuth, TlsConnector, accept, server_config};

use self::soft_tpm::SoftTpm;

#[path = "support/soft_tpm.rs"]
mod soft_tpm;

/// Only against hanging; no test depends on its length.
const GUARD: Duration = Duration::from_secs(240);

struct Scene {
    folder: tempfile::TempDir,
    tpm: SoftTpm,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tpm = SoftTpm::new(&folder.path().join("tpm"));
        Self { folder, tpm }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("device.key")
    }

    fn make(&self) -> Result<KeyPair, IdentityError> {
        KeyPair::load_or_make(&self.file(), &in_tpm(&self.tpm.socket()))
    }
}

fn in_tpm(tpm: &Path) -> KeyPlace {
    KeyPlace { tpm: tpm.to_owned(), made: Made::Tpm }
}

/// Whether the key signs a receipt, which its public half verifies then.
fn signs(key: &KeyPair) -> bool {
    let at = Timestamp::from_millis(1_700_000_000_000);
    let said = Receipt {
        iss: device(1),
        generation: 1,
        command_id: command(1),
        order_id: None,
        verb: None,
        outcome: Outcome::Succeeded { evidence: Evidence::new() },
        started_at: at,
        finished_at: at,
        boot_id: BootId::new(at, [1; 10]),
        agent_version: "1.0.0".to_owned(),
        envelope_sha256: String::new(),
    };
    let Ok(signed) = key.sign(&said) else { return false };
    assert_eq!(receipt::verify(&signed, &key.public()).unwrap(), said);
    true
}

fn refused(made: Result<KeyPair, IdentityError>) -> TpmError {
    let (Err(IdentityError::Tpm { source, .. }) | Err(IdentityError::NoTpm { source, .. })) = made
    else {
        panic!("{made:?}")
    };
    source
}

#[test]
fn key_is_made_once_and_signs_many_times() {
    let scene = Scene::new();
    let made = scene.make().unwrap();
    assert!(made.is_in_tpm());
    // More often than a TPM has places for keys.
    assert!((0..20).all(|_| signs(&made)));
    let request = made.certificate_request().unwrap();
    let read = CertificateSigningRequestParams::from_pem(&request).unwrap();
    assert_eq!(read.public_key.der_bytes(), made.public().as_point());
    drop(made);
    let text = std::fs::read_to_string(scene.file()).unwrap();
    assert!(text.starts_with("-----BEGIN TSS2 PRIVATE KEY-----"), "{text}");
    let mode = std::fs::metadata(scene.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for _ in 0..5 {
        assert!(signs(&scene.make().unwrap()));
    }
    assert_eq!(std::fs::read_to_string(scene.file()).unwrap(), text);
}

#[tokio::test]
async fn hub_knows_the_device_by_a_key_in_a_tpm() {
    let scene = Scene::new();
    let key = scene.make().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = rcgen::KeyPair::generate().unwrap();
    let authority = CertifiedIssuer::self_signed(params, root).unwrap();
    let request = key.certificate_request().unwrap();
    let mut request = CertificateSigningRequestParams::from_pem(&request).unwrap();
    request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = request.signed_by(&authority).unwrap();

    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let hub = rcgen::KeyPair::generate().unwrap();
    let leaf = params.signed_by(&hub, &authority).unwrap();
    let hub = PrivateKeyDer::try_from(hub.serialize_der()).unwrap();
    let hub = tls::Identity { chain: vec![leaf.der().clone()], key: hub };
    let authorities = vec![authority.der().clone()];
    let clients = ClientAuth::Required(authorities.clone());
    let config = Arc::new(server_config(&hub, clients, &[b"http/1.1"]).unwrap());

    let identity =
        Identity::new((device(1), 1), &key, &certificate.pem(), (&authorities, &[])).unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let name = "localhost".try_into().unwrap();
    let (connected, accepted) = tokio::join!(
        TlsConnector::from(identity.tls).connect(name, ours),
        accept(theirs, config, GUARD)
    );
    connected.unwrap();
    let (_, peer) = accepted.unwrap();
    assert_eq!(peer.certificate.unwrap(), *certificate.der());
    let other = rcgen::KeyPair::generate().unwrap();
    let strange = CertificateParams::new(Vec::new()).unwrap().signed_by(&other, &authority);
    let strange = Identity::new((device(1), 1), &key, &strange.unwrap().pem(), (&authorities, &[]));
    assert!(matches!(strange, Err(IdentityError::Tls(_))), "a certificate of another key");
}

#[test]
fn hostile_copy_of_the_disk_is_not_the_device() {
    let scene = Scene::new();
    scene.make().unwrap();
    let other = SoftTpm::new(&scene.folder.path().join("other"));
    let copied = KeyPair::load(&scene.file(), &other.socket());
    assert!(matches!(refused(copied), TpmError::Refused(_)));
    assert!(signs(&KeyPair::load(&scene.file(), &scene.tpm.socket()).unwrap()));
}

#[test]
fn tpm_that_was_away_is_used_again() {
    let mut scene = Scene::new();
    let key = scene.make().unwrap();
    assert!(signs(&key));
    scene.tpm.switch_off();
    assert!(!signs(&key), "nobody else signs in its place");
    scene.tpm.switch_on();
    assert!(signs(&key));
}

#[test]
fn key_falls_back_to_a_file_only_where_it_may_and_never_while_one_is_sealed() {
    let mut scene = Scene::new();
    let missing = scene.folder.path().join("no-tpm");
    let path = scene.folder.path().join("first.key");
    assert!(matches!(refused(KeyPair::load_or_make(&path, &in_tpm(&missing))), TpmError::Link(_)));
    assert!(!path.exists());
    let either = |tpm: &Path| KeyPlace { tpm: tpm.to_owned(), made: Made::TpmOrFile };
    assert!(!KeyPair::load_or_make(&path, &either(&missing)).unwrap().is_in_tpm());

    let socket = scene.tpm.socket();
    let only = KeyPair::load_or_make(&path, &in_tpm(&socket));
    assert!(matches!(only, Err(IdentityError::InFile(_))), "one in a file will not do");
    assert!(KeyPair::load_or_make(&scene.file(), &either(&socket)).unwrap().is_in_tpm());
    let sealed = std::fs::read(scene.file()).unwrap();
    scene.tpm.switch_off();
    let lost = KeyPair::load_or_make(&scene.file(), &either(&socket));
    assert!(matches!(refused(lost), TpmError::Link(_)));
    assert_eq!(std::fs::read(scene.file()).unwrap(), sealed, "another key is another device");
    std::fs::write(scene.file(), &sealed[..sealed.len() / 2]).unwrap();
    assert!(KeyPair::load(&scene.file(), &socket).is_err());
}

#[test]
fn hostile_tpm_is_an_error_whatever_it_answers() {
    let scene = Scene::new();
    scene.make().unwrap();
    let answers: [&[u8]; 8] = [
        b"",
        b"\x80",
        // A length that is less than a header, and one that never comes.
        b"\x80\x01\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x80\x01\xff\xff\xff\xff\x00\x00\x00\x00",
        // Success without a body, a tag that is none, a code that is none.
        b"\x80\x01\x00\x00\x00\x0a\x00\x00\x00\x00",
        b"\x12\x34\x00\x00\x00\x0a\x00\x00\x00\x00",
        b"\x80\x01\x00\x00\x00\x0a\xff\xff\xff\xff",
        // For ever: ask again.
        b"\x80\x01\x00\x00\x00\x0a\x00\x00\x09\x22",
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let socket = scene.folder.path().join(format!("hostile-{number}"));
        let listener = UnixListener::bind(&socket).unwrap();
        thread::scope(|tpms| {
            let tpm = tpms.spawn(|| answer_all(&listener, answer));
            refused(KeyPair::load(&scene.file(), &socket));
            let is_retry = answer.ends_with(&[0x09, 0x22]);
            assert_eq!(tpm.join().unwrap(), if is_retry { 5 } else { 1 }, "{answer:?}");
        });
    }
}

/// Gives a hierarchy a password, as whoever set the machine up may have done (TPM2_HierarchyChangeAuth).
fn set_password(tpm: &Path, hierarchy: u8) {
    let mut command = b"\x80\x02\0\0\0\x21\0\0\x01\x29\x40\0\0\0".to_vec();
    command[13] = hierarchy;
    command.extend(b"\0\0\0\x09\x40\0\0\x09\0\0\0\0\0\0\x04pass");
    let mut stream = UnixStream::connect(tpm).unwrap();
    stream.write_all(&command).unwrap();
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).unwrap();
    assert_eq!(answer[6..10], [0; 4], "{:?}", &answer[..read]);
}

const LOCKOUT: u8 = 0x0a;
const PLATFORM: u8 = 0x0c;

#[test]
fn cleared_tpm_opens_nothing_that_was_sealed_to_it() {
    let scene = Scene::new();
    drop(scene.make().unwrap());
    assert_eq!(clear_tpm(&scene.tpm.socket()).unwrap(), Cleared::Anew);
    let dead = KeyPair::load(&scene.file(), &scene.tpm.socket());
    assert!(matches!(refused(dead), TpmError::Refused(_)));
}

#[test]
fn tpm_with_passwords_is_not_cleared_and_says_so() {
    let scene = Scene::new();
    // One in software hears one at a time, so that nobody may hold the key meanwhile.
    drop(scene.make().unwrap());
    set_password(&scene.tpm.socket(), LOCKOUT);
    set_password(&scene.tpm.socket(), PLATFORM);
    assert_eq!(clear_tpm(&scene.tpm.socket()).unwrap(), Cleared::NotAuthorized);
    assert!(signs(&scene.make().unwrap()));
    assert!(matches!(clear_tpm(&scene.folder.path().join("none")), Err(TpmError::Link(_))));
}

/// Answers every command with the same, and hangs up where that is no whole answer. How many commands came.
fn answer_all(listener: &UnixListener, answer: &[u8]) -> usize {
    let (mut stream, _) = listener.accept().unwrap();
    let is_whole = answer.len() >= 10 && answer[2] != 0xff;
    let mut commands = 0;
    // One reading is one command here.
    while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
        commands += 1;
        if stream.write_all(answer).is_err() || !is_whole {
            break;
        }
    }
    commands
}
