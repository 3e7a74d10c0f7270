//! Tests of the settings.

use super::*;

fn invalid(text: &str) -> &'static str {
    let config: RedisConfig = toml::from_str(text).expect("it parses");
    config.validate().expect_err("it is out of bounds").key
}

#[test]
fn default_is_valid_and_a_typing_error_is_not() {
    assert_eq!(RedisConfig::default().validate(), Ok(()));
    let error = toml::from_str::<RedisConfig>("prefixx = \"a\"").expect_err("unknown key");
    assert!(error.to_string().contains("prefixx"), "{error}");
}

#[test]
fn values_out_of_bounds_are_named() {
    assert_eq!(invalid("urls = []"), "urls");
    assert_eq!(invalid(r#"urls = ["redis://user:secret@host:1"]"#), "urls");
    assert_eq!(invalid(r#"urls = ["redis://a:1", "rediss://b:1"]"#), "urls");
    assert_eq!(invalid(r#"urls = ["rediss://a:1"]"#), "tls");
    assert_eq!(invalid("tls = { ca = \"/ca.pem\" }"), "tls");
    let half = r#"urls = ["rediss://a:1"]
        tls = { ca = "/ca.pem", key = "/key.pem" }"#;
    assert_eq!(invalid(half), "tls.key");
    assert_eq!(invalid(r#"prefix = "a{b}""#), "prefix");
    assert_eq!(invalid("upstream = 999"), "upstream");
    assert_eq!(invalid(r#"command_timeout = "3s""#), "command_timeout");
    assert_eq!(invalid(r#"claim_after = "0s""#), "claim_after");
}

#[test]
fn secrets_are_not_shown() {
    let text = r#"
        mode = "sentinel"
        username = "hub-a"
        password = "s3cret"
        sentinel_password = "hush"
    "#;
    let config: RedisConfig = toml::from_str(text).expect("it parses");
    let shown = format!("{config:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("hush"), "{shown}");
    assert!(shown.contains("hub-a"));
}
