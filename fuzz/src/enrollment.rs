//! What a device says when it enrolls, and what its owner pastes.

use std::sync::LazyLock;
use std::time::Duration;

use api::pki::{Authority, Csr};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use protocol::enrollment::{DeviceIdentity, EnrollRequest, EnrollmentToken};
use protocol::fixture::{self, NOW};
use runtime::Entropy;

use crate::json;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder for the authority's files");
    Authority::load_or_create(folder.path(), NOW, Entropy::system()).expect("an authority")
});

/// The body of an enrollment, a token, or a signing request in DER.
pub(crate) fn run(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(token) = text.parse::<EnrollmentToken>() {
            let again = token.to_string().parse::<EnrollmentToken>();
            assert!(again.is_ok(), "a token does not survive its text");
        }
        certified(text);
    }
    if let Ok(request) = api::http::body::parse::<EnrollRequest>(input) {
        certified(&request.csr);
        let said = format!("{request:?}");
        let is_told = request.secret.len() > 8 && !request.name.contains(&request.secret);
        assert!(!is_told || !said.contains(&request.secret), "a secret is shown");
    }
    let body = BASE64.encode(input);
    certified(&format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
    ));
}

/// Whatever a request says, its certificate is for the device that we name.
fn certified(csr: &str) {
    let Ok(csr) = Csr::parse(csr) else { return };
    let identity = DeviceIdentity { device: fixture::device(1), generation: 1 };
    let issued = AUTHORITY.issue_device(identity, &csr, NOW, Duration::from_secs(60));
    let (pem, _) = issued.expect("a key that was checked is certified");
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 2, "a leaf and its authority");
}

/// A request that `openssl req -new` made for a P-256 key, with a name and an extension that ask for more than is given.
const CSR: &str = include_str!("enrollment/request.pem");

pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let request = EnrollRequest {
        secret: "a-secret-of-some-length".to_owned(),
        name: "laptop-7".to_owned(),
        csr: CSR.to_owned(),
    };
    let base64: String = CSR.lines().filter(|line| !line.starts_with("---")).collect();
    let der = BASE64.decode(base64).expect("the request is PEM");
    vec![("request", json(&request)), ("pem", CSR.as_bytes().to_vec()), ("der", der)]
}
