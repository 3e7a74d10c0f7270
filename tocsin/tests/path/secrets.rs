//! What must not be written down: a whole life with every part at its most talkative.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use protocol::enrollment::EnrollmentToken;
use runtime::tls;
use runtime::tls::pki_types::CertificateDer;
use runtime::tls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::installation::Installation;
use crate::operator::{TOCSIN, eventually};
use crate::orders::approver;

/// How a key file would look in a log: its lines that are nothing but key, or, where it is bytes, a
/// stretch of them in hexadecimal or, however it is aligned, in base64.
fn key_forms(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let forms: Vec<_> = match std::str::from_utf8(&bytes) {
        Ok(text) => {
            let is_key = |line: &&str| line.len() >= 40 && !line.starts_with("-----");
            text.lines().filter(is_key).map(str::to_owned).collect()
        }
        Err(_) => {
            let middle = &bytes[bytes.len() / 3..][..27];
            let hex: String = middle.iter().map(|byte| format!("{byte:02x}")).collect();
            let base64 = (0..3).map(|from| BASE64.encode(&middle[from..][..24]));
            std::iter::once(hex).chain(base64).collect()
        }
    };
    assert!(!forms.is_empty(), "{} holds no key", path.display());
    forms
}

#[test]
fn hostile_reader_of_every_log_finds_no_secret() {
    let installation = Installation::traced();
    let owner = fs::read_to_string(installation.path("data/owner.token")).expect("the owner's");
    let mut secrets = BTreeMap::from([("the owner's token", owner.trim().to_owned())]);

    let mut device = installation.enroll("web-1");
    let folder = installation.path("web-1");
    let config = fs::read_to_string(folder.join("agent.toml")).expect("its configuration");
    let config = config.replace("filter = \"warn\"", "filter = \"trace\"");
    fs::write(folder.join("agent.toml"), config).expect("its configuration is written");
    fs::write(folder.join("agent.log"), "").expect("a log");
    device.start();
    installation.online("web-1");

    let made = installation.json(&["enroll-token"]);
    let token = made["token"].as_str().expect("a token");
    let token: EnrollmentToken = token.parse().expect("a token");
    secrets.insert("an enrollment token", token.secret);
    let line = ["token", "create", "--label", "a phone", "--scope", "read@*"];
    let made = installation.succeed(&line);
    secrets.insert("an API token", made.trim().to_owned());
    approver(&installation, "alice");
    let passphrase = fs::read_to_string(installation.path("passphrase")).expect("a passphrase");
    secrets.insert("a passphrase", passphrase.trim().to_owned());
    let script = installation.path("script");
    fs::write(&script, "#!/bin/sh\nexport PASSWORD=hunter2-hunter2\n").expect("a script");
    secrets.insert("what a script says", "hunter2-hunter2".to_owned());
    let script = script.display().to_string();
    let order = ["run-script", &script, "web-1", "--reason", "a test", "--yes", "--no-wait"];
    assert!(installation.json(&order)["order"]["id"].is_string(), "it waits for an approval");
    let locked = installation.order("lock", "web-1");
    assert_eq!(installation.ended(&locked)["state"], "succeeded");
    device.kill();

    let mut logs = installation.succeed(&["events", "export"]);
    for log in ["up.log", "web-1/agent.log"] {
        let text = fs::read_to_string(installation.path(log)).expect("a log");
        assert!(text.contains("TRACE") && text.contains("DEBUG"), "{log} is not talkative");
        logs.push_str(&text);
    }
    assert!(logs.contains(&locked), "what is no secret is written down");
    let keys = ["ca.key", "command.key", "root.key", "vault.key"].map(|key| format!("data/{key}"));
    for file in keys.into_iter().chain(["web-1/state/device.key".to_owned()]) {
        for form in key_forms(&installation.path(&file)) {
            assert!(!logs.contains(&form), "{file} is written down");
        }
    }
    for (what, secret) in secrets {
        assert!(secret.len() >= 12, "{what} is too short to look for");
        assert!(!logs.contains(&secret), "{what} is written down");
    }
}

/// Runs an operator's command with that input, and adds whatever it says to `heard`. What it is to
/// show once, its standard output, is the answer.
fn say(installation: &Installation, heard: &mut String, line: &[&str], input: &str) -> String {
    let mut run = Command::new(TOCSIN)
        .args(line)
        .env("TOCSIN_PROFILE", installation.path("profile.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tocsin starts");
    let mut stdin = run.stdin.take().expect("its input is ours");
    // One that fails early does not read it.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    let output = run.wait_with_output().expect("it ends");
    heard.push_str(&String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What the admin port tells everybody who asks.
fn metrics(started: &Value) -> String {
    let address = started["admin_url"].as_str().expect("an address").replace("http://", "");
    let mut stream = TcpStream::connect(&address).expect("it listens");
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it leaves");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer comes");
    assert!(answer.contains("tocsin_"), "{answer}");
    answer
}

/// What the control plane answers to requests with secrets in them that are refused.
fn refusals(installation: &Installation, requests: &[(&str, &str, Value)]) -> String {
    let url = format!("https://{}", installation.listeners()[0]);
    let ca = fs::read(installation.path("data/authority.pem")).expect("the authority");
    let ca = CertificateDer::from_pem_slice(&ca).expect("a certificate");
    let tls = tls::client_config(&[ca], None, &[b"http/1.1"]).expect("sound settings");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build();
        let http = http.expect("a client");
        let mut heard = String::new();
        for (path, token, body) in requests {
            let request = http.post(format!("{url}{path}")).bearer_auth(token).json(body);
            let answer = request.send().await.expect("an answer");
            assert!(answer.status().is_client_error(), "{path}: {}", answer.status());
            heard.push_str(&answer.text().await.expect("a body"));
        }
        heard
    })
}

/// A person with a second factor that waits for its first code: their token, the invitation, the
/// secret.
fn second_factor(installation: &Installation, heard: &mut String) -> [String; 3] {
    let person = ["token", "create", "--label", "x", "--operator", "nina", "--scope", "*@*"];
    let token = installation.succeed(&person).trim().to_owned();
    let invited = installation.json(&["operator", "totp", "invite", "nina"]);
    let invitation = invited["invitation"].as_str().expect("an invitation").to_owned();
    let as_nina = ["--token", &token, "--json"];
    let add = [&["operator", "totp", "add"], &as_nina[..]].concat();
    let added = say(installation, heard, &add, &format!("{invitation}\n"));
    let added: Value = serde_json::from_str(&added).unwrap_or_else(|_| panic!("{heard}"));
    let secret = added["secret"].as_str().expect("a secret").to_owned();
    let confirm = [&["operator", "totp", "confirm"], &as_nina[..]].concat();
    say(installation, heard, &confirm, "000000\n");
    [token, invitation, secret]
}

/// The offline code of a device that is locked with one.
fn offline_code(installation: &Installation, word: &str) -> String {
    let codes = installation.path("codes").display().to_string();
    let sealed = ["--offline-codes", &codes, "--passphrase-file", word, "--yes", "--no-wait"];
    let lock = [&["lock", "web-1", "--reason", "a test"], &sealed[..]].concat();
    assert!(installation.json(&lock)["order"]["id"].is_string());
    let shown = installation.json(&["offline-code", &codes, "web-1", "--passphrase-file", word]);
    shown["code"].as_str().expect("a code").to_owned()
}

/// What errors say: on the command line, and in the answers of the control plane. And metrics, and
/// the log of a platform that talks to a webhook which is not there.
#[test]
fn hostile_reader_of_errors_and_metrics_finds_no_secret() {
    let mut installation = Installation::traced();
    installation.kill();
    let webhook = "whsec-4f1d9b7a2c6e8035".to_owned();
    fs::write(installation.path("webhook.secret"), &webhook).expect("a secret");
    let file = installation.path("webhook.secret").display().to_string();
    let started = installation.start(&[
        ("TOCSIN_UP_API__SINKS__WEBHOOK", "https://127.0.0.1:9/in"),
        ("TOCSIN_UP_API__SINKS__WEBHOOK_SECRET_FILE", &file),
        ("TOCSIN_UP_API__SINKS__WEBHOOK_ALLOW", "[\"127.0.0.1\"]"),
    ]);
    let _device = installation.device("web-1");
    let word = installation.path("word").display().to_string();
    fs::write(&word, "correct-horse-battery").expect("a passphrase");
    let recovery = installation.path("recovery.key").display().to_string();
    installation.succeed(&["escrow", "new-key", "--out", &recovery, "--passphrase-file", &word]);

    let mut heard = String::new();
    let owner = fs::read_to_string(installation.path("data/owner.token")).expect("the owner's");
    let (owner, almost) = (owner.trim(), format!("{}x", owner.trim()));
    let [token, invitation, factor] = second_factor(&installation, &mut heard);
    let code = offline_code(&installation, &word);
    for line in [
        &["devices", "--token", &almost][..],
        &["approve", "0197a1b2-0000-7000-8000-000000000000", "--key", &recovery],
        &["escrow", "new-key", "--out", &recovery, "--passphrase-file", &word],
        &["operator", "totp", "show", "--token", &token],
    ] {
        say(&installation, &mut heard, line, "");
    }
    let with = |field: &str, secret: &str| json!({ field: secret });
    heard += &refusals(
        &installation,
        &[
            ("/v1/orders", &almost, with("reason", &code)),
            ("/v1/orders", owner, with("reason", &code)),
            ("/v1/factor", owner, with("invitation", &invitation)),
            ("/v1/factor/confirm", owner, with("code", &factor)),
            ("/v1/step-ups", owner, with("code", &factor)),
        ],
    );
    assert!(heard.contains("urn:tocsin:problem:"), "{heard}");
    heard += &eventually("the webhook was tried", || {
        Some(metrics(&started)).filter(|text| text.contains("tocsin_api_sink_failures_total"))
    });
    heard += &fs::read_to_string(installation.path("up.log")).expect("a log");
    let secrets = [
        ("the owner's token", almost.as_str()),
        ("the owner's token, as it is", owner),
        ("a person's token", &token),
        ("an invitation", &invitation),
        ("the secret of a second factor", &factor),
        ("an offline code", &code),
        ("a passphrase", "correct-horse-battery"),
        ("the webhook's secret", &webhook),
    ];
    for (what, secret) in secrets {
        assert!(secret.len() >= 6, "{what} is too short to look for");
        assert!(!heard.contains(secret), "{what} is told: {heard}");
    }
    for form in key_forms(Path::new(&recovery)) {
        assert!(!heard.contains(&form), "the recovery key is told");
    }
}
