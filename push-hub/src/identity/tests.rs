//! Tests of what is taken for an identity, and of its exchange.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::Entropy;
use runtime::config::Secret;
use runtime::tls::pki_types::PrivateKeyDer;
use runtime::tls::{TicketConfig, write_certificates, write_key};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn tickets() -> Tickets {
    Tickets::new(TicketConfig::default(), Clock::system(), Entropy::system())
}

fn files(folder: &Path) -> IdentityFiles {
    IdentityFiles {
        certificate: folder.join("hub.crt"),
        key: folder.join("hub.key"),
        authorities: folder.join("authority.pem"),
        ..IdentityFiles::default()
    }
}

/// Writes an identity for that name, with its end in that year.
fn write(files: &IdentityFiles, authority: &Authority, name: &str, year: i32) {
    write_leaf(files, authority, name, year);
    write_certificates(&files.authorities, &[authority.der().clone()]).unwrap();
}

fn write_leaf(files: &IdentityFiles, authority: &Authority, name: &str, year: i32) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, authority).unwrap();
    write_certificates(&files.certificate, &[leaf.der().clone()]).unwrap();
    write_key(&files.key, &PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
}

#[test]
fn identity_is_taken_by_name_by_address_and_by_wildcard() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), authority());
    let files = files(folder.path());
    for name in ["hub-1.example", "127.0.0.1", "::1", "*.hubs.example"] {
        write(&files, &authority, name, 2100);
        let loaded = files.load(&tickets(), Clock::system().unix_secs()).unwrap();
        assert_eq!(loaded.end_secs, 4_102_444_800, "{name}");
    }
}

#[test]
fn what_agents_would_not_believe_is_refused() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), authority());
    let files = files(folder.path());
    let refusal =
        || files.load(&tickets(), Clock::system().unix_secs()).err().expect("it is refused");
    assert!(matches!(refusal(), IdentityError::Files(_)), "nothing is there");
    write(&files, &authority, "hub-1.example", 2021);
    assert!(matches!(refusal(), IdentityError::Tls(TlsError::Unbelieved(_))), "it is over");
    write(&files, &authority, "hub-1.example", 2100);
    write_leaf(&files, &self::authority(), "hub-1.example", 2100);
    assert!(matches!(refusal(), IdentityError::Tls(TlsError::Unbelieved(_))), "foreign authority");
    write(&files, &authority, "hub-1.example", 2100);
    let key = KeyPair::generate().unwrap();
    write_key(&files.key, &PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap();
    assert!(matches!(refusal(), IdentityError::Tls(TlsError::Settings(_))), "another's key");
    std::fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\n").unwrap();
    assert!(matches!(refusal(), IdentityError::Files(_)), "half a file");
}

#[tokio::test]
async fn files_that_change_are_exchanged_and_bad_ones_leave_the_former_in_use() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), authority());
    let files = files(folder.path());
    write(&files, &authority, "hub-1.example", 2100);
    let mut watch = Watch::start(files.clone(), tickets(), Clock::system()).unwrap();
    let first = watch.tls().load_full();
    watch.look().await;
    assert!(Arc::ptr_eq(&first, &watch.tls().load_full()), "nothing has changed");

    write(&files, &authority, "hub-1.example", 2101);
    watch.look().await;
    let second = watch.tls().load_full();
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(watch.end_secs, 4_133_980_800);

    std::fs::remove_file(&files.key).unwrap();
    watch.look().await;
    assert!(Arc::ptr_eq(&second, &watch.tls().load_full()), "a bad one is not taken");

    write(&files, &authority, "hub-1.example", 2102);
    watch.look().await;
    assert!(!Arc::ptr_eq(&second, &watch.tls().load_full()), "a good one is, after a bad one");
}

#[tokio::test]
async fn secret_of_tickets_that_changes_is_taken_and_a_bad_one_is_not() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), authority());
    let files = files(folder.path());
    write(&files, &authority, "hub-1.example", 2100);
    let path = folder.path().join("tickets");
    let Ok(secret) = format!("file:{}", path.display()).parse::<Secret>();
    let config = TicketConfig { secret: Some(secret), ..TicketConfig::default() };
    let tickets = || Tickets::new(config.clone(), Clock::system(), Entropy::system());
    let missing = Watch::start(files.clone(), tickets(), Clock::system());
    assert!(matches!(missing, Err(IdentityError::Tls(TlsError::Tickets(_)))), "there is none");

    std::fs::write(&path, "first-secret-of-the-hubs-0123456789\n").unwrap();
    let mut watch = Watch::start(files, tickets(), Clock::system()).unwrap();
    let first = watch.tls().load_full();
    let ticket = first.ticketer.encrypt(b"session").unwrap();
    watch.look().await;
    assert!(Arc::ptr_eq(&first, &watch.tls().load_full()), "nothing has changed");

    std::fs::write(&path, "short\n").unwrap();
    watch.look().await;
    assert!(Arc::ptr_eq(&first, &watch.tls().load_full()), "a bad one is not taken");

    std::fs::write(&path, "second-secret-of-the-hubs-012345678\n").unwrap();
    watch.look().await;
    assert_eq!(watch.tls().load_full().ticketer.decrypt(&ticket), None);
}
