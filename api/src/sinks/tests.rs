//! What is sent, and to whom never.

use super::*;
use crate::audit::Event;

fn event(subject: &str, payload: &str) -> Event {
    Event {
        seq: 7,
        at: 1_767_225_600_000,
        actor: "operator:ann".to_owned(),
        kind: "order_created".to_owned(),
        subject: subject.to_owned(),
        payload: payload.to_owned(),
        prev_hash: "0".repeat(64),
        hash: "f".repeat(64),
    }
}

#[test]
fn hostile_webhook_addresses_are_refused_in_every_form() {
    for text in [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.192",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::7f00:1",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001:db8::1",
    ] {
        assert!(dial::is_forbidden(text.parse().unwrap()), "{text}");
    }
    for text in ["1.1.1.1", "93.184.216.34", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"] {
        assert!(!dial::is_forbidden(text.parse().unwrap()), "{text}");
    }
}

#[tokio::test]
async fn hostile_name_that_leads_inside_is_refused_before_a_byte_leaves() {
    let url = |text| dial::Url::parse(text).unwrap();
    let sinks = Sinks::default();
    for text in ["https://localhost:1/x", "https://127.0.0.1:1/", "https://[::1]:1/"] {
        let refused = dial::resolve(&sinks.webhook_allow, &url(text)).await;
        assert!(matches!(refused, Err(DialError::Forbidden(_))), "{text}: {refused:?}");
    }
    let webhook_allow = BTreeSet::from(["127.0.0.1".parse().unwrap()]);
    let sinks = Sinks { webhook_allow, ..sinks };
    assert!(dial::resolve(&sinks.webhook_allow, &url("https://127.0.0.1:1/")).await.is_ok());
    assert!(dial::resolve(&sinks.webhook_allow, &url("https://127.0.0.2:1/")).await.is_err());
}

#[test]
fn only_plain_https_addresses_are_read() {
    let parsed = dial::Url::parse("https://siem.example:8443/in?x=1").unwrap();
    let expected = ("siem.example", 8443, "/in?x=1");
    assert_eq!((&*parsed.host, parsed.port, &*parsed.path), expected);
    assert_eq!(dial::Url::parse("https://[2606:4700::1]").unwrap().host, "2606:4700::1");
    for text in [
        "http://a/",
        "https://",
        "https://a@b/",
        "https://a/ b",
        "https://a/\r\nx: y",
        "ftp://a",
        "https:///x",
        "https://a\\b/",
    ] {
        assert_eq!(dial::Url::parse(text), None, "{text:?}");
    }
}

#[test]
fn hostile_subject_stays_within_its_syslog_message() {
    let hostile = event("x\"] <1>1 forged\n<34>1 - - - -", "{\"a\":\"\u{0}\"}");
    let message = syslog::message("node 1\n", &hostile);
    assert!(!message.chars().any(char::is_control), "{message:?}");
    assert!(message.starts_with("<109>1 2026-01-01T00:00:00"), "{message}");
    assert!(message.contains(" node1 tocsin - order_created [tocsin@32473 seq=\"7\""));
    assert!(message.contains("subject=\"x\\\"\\] <1>1 forged"), "{message}");
    let long = event("x", &"ä".repeat(10_000));
    assert!(syslog::message("n", &long).len() < 8 * 1024);
}

#[test]
fn signature_is_over_time_body_and_secret() {
    let signature = webhook::sign(b"key", 5, "x");
    assert_eq!(signature.len(), 64);
    assert_ne!(signature, webhook::sign(b"key", 6, "x"));
    assert_ne!(signature, webhook::sign(b"kez", 5, "x"));
}
