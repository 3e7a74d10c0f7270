//! Tests of loading, of the error texts, of durations and of secrets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, Secret, SecretError, duration, load};

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    hub: Hub,
    names: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Hub {
    agent_listen: String,
    max_sessions: u32,
    #[serde(with = "duration")]
    heartbeat: Duration,
}

impl Default for Sample {
    fn default() -> Self {
        Self { hub: Hub::default(), names: vec!["default".to_owned()] }
    }
}

impl Default for Hub {
    fn default() -> Self {
        let agent_listen = "[::]:8443".to_owned();
        Self { agent_listen, max_sessions: 100, heartbeat: Duration::from_secs(25) }
    }
}

/// Loads `text` as a file with `env` over it; the folder is cut out of an error's text.
fn check(text: &str, env: &[(&str, &str)]) -> Result<Sample, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.toml");
    std::fs::write(&path, text).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(&path), env, "TOCSIN_")
        .map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), ""))
}

#[test]
fn nothing_given_means_the_defaults() {
    let config: Sample = load(None, std::iter::empty(), "TOCSIN_").unwrap();
    assert_eq!(config, Sample::default());
    assert_eq!(check("", &[]).unwrap(), Sample::default());
}

#[test]
fn environment_wins_over_the_file() {
    let file = "names = ['a']\n[hub]\nmax_sessions = 5\nheartbeat = '250ms'\n";
    let env = [
        ("TOCSIN_HUB__MAX_SESSIONS", "7"),
        ("TOCSIN_HUB__AGENT_LISTEN", "127.0.0.1:0"),
        ("TOCSIN_NAMES", "['x', 'y']"),
        ("HOME", "/root"),
        ("TOCSIN_", "ignored"),
    ];
    let config = check(file, &env).unwrap();
    assert_eq!((config.hub.max_sessions, config.hub.heartbeat.as_millis()), (7, 250));
    assert_eq!(config.hub.agent_listen, "127.0.0.1:0");
    assert_eq!(config.names, ["x", "y"]);
}

#[test]
fn digits_can_be_given_as_text() {
    let config = check("", &[("TOCSIN_HUB__AGENT_LISTEN", "'8443'")]).unwrap();
    assert_eq!(config.hub.agent_listen, "8443");
}

#[test]
fn unknown_key_of_the_file_is_named_with_line_and_nearest() {
    let error = check("[hub]\nagent_lisen = 'x'\n", &[("TOCSIN_NAMES", "[]")]).unwrap_err();
    assert_eq!(
        error,
        "/hub.toml: TOML parse error at line 2, column 1\n  |\n2 | agent_lisen = 'x'\n  | \
         ^^^^^^^^^^^\nunknown field `agent_lisen`, expected one of `agent_listen`, \
         `max_sessions`, `heartbeat`\ndid you mean `agent_listen`?"
    );
}

#[test]
fn wrong_type_in_the_file_is_shown_in_its_line() {
    let error = check("[hub]\nmax_sessions = 'many'\n", &[]).unwrap_err();
    assert!(error.starts_with("/hub.toml: TOML parse error at line 2, column 16"), "{error}");
    assert!(error.contains("invalid type: string \"many\", expected u32"), "{error}");
}

#[test]
fn broken_syntax_names_the_line() {
    let error = check("[hub]\n\nmax_sessions = = 1\n", &[]).unwrap_err();
    assert!(error.starts_with("/hub.toml: TOML parse error at line 3"), "{error}");
}

#[test]
fn wrong_variable_is_told_apart_from_the_file() {
    let error = check("[hub]\nmax_sessions = 5\n", &[("TOCSIN_HUB__MAX_SESIONS", "6")]);
    assert_eq!(
        error.unwrap_err(),
        "environment (TOCSIN_HUB__MAX_SESIONS): unknown field `max_sesions`, expected one of \
         `agent_listen`, `max_sessions`, `heartbeat`\nin `hub`\ndid you mean `max_sessions`?"
    );
}

#[test]
fn variable_into_a_plain_value_is_refused() {
    let error = check("names = ['a']\n", &[("TOCSIN_NAMES__FIRST", "b")]).unwrap_err();
    assert_eq!(
        error,
        "environment variable TOCSIN_NAMES__FIRST reaches into a value that is not a table"
    );
}

#[test]
fn missing_file_is_an_error() {
    let path = Path::new("/nonexistent/hub.toml");
    let error = load::<Sample>(Some(path), std::iter::empty(), "TOCSIN_").unwrap_err();
    assert!(matches!(error, ConfigError::File(_)), "{error:?}");
}

#[test]
fn durations_are_read_in_every_form() {
    let read = |text: &str| check(&format!("[hub]\nheartbeat = {text}\n"), &[]);
    for (text, millis) in [
        ("30", 30_000),
        ("0.5", 500),
        ("'250ms'", 250),
        ("'5s'", 5_000),
        ("'2m'", 120_000),
        ("'1h'", 3_600_000),
        ("'7d'", 604_800_000),
        ("'9'", 9_000),
    ] {
        assert_eq!(read(text).unwrap().hub.heartbeat.as_millis(), millis, "{text}");
    }
    for text in ["-1", "-0.5", "nan", "inf", "'5 s'", "'s'", "''", "'1y'", "'40000d'", "true"] {
        read(text).expect_err(text);
    }
}

fn secret(text: &str) -> Secret {
    let Ok(secret) = text.parse();
    secret
}

#[test]
fn inline_secret_never_shows_in_debug() {
    let secret = secret("hunter2");
    assert_eq!(format!("{secret:?}"), "Secret(redacted)");
    assert_eq!(secret.read().unwrap().as_str(), "hunter2");
}

#[test]
fn secret_is_read_from_its_file_or_credential() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "s3cret\n").unwrap();
    let file = secret(&format!("file:{}/token", folder.path().display()));
    assert_eq!(file.read().unwrap().as_str(), "s3cret");
    let credential = secret("credential:token");
    assert_eq!(credential.read_with(Some(folder.path())).unwrap().as_str(), "s3cret");
    assert_eq!(format!("{credential:?}"), "Secret(credential:token)");
}

#[test]
fn unusable_secrets_are_refused() {
    let folder = PathBuf::from("/nonexistent");
    let refuse = |text: &str| secret(text).read_with(Some(&folder)).unwrap_err();
    assert!(matches!(refuse("credential:../shadow"), SecretError::CredentialName(_)));
    assert!(matches!(refuse("credential:token"), SecretError::File(_)));
    assert!(matches!(refuse("file:/nonexistent/token"), SecretError::File(_)));
    assert!(matches!(refuse(""), SecretError::Empty));
    let error = secret("credential:token").read_with(None).unwrap_err();
    assert!(matches!(error, SecretError::NoCredentials(_)));
}
