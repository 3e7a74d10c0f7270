//! The order in which hubs are tried.

use std::time::{Duration, Instant};

use runtime::Clock;
use runtime::backoff::RETRY_AFTER_CAP;

use super::Hubs;

const SECOND: Duration = Duration::from_secs(1);

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("https://{name}:7444")).collect()
}

/// Tries hub after hub, none of which serves, and spells them.
fn round(hubs: &mut Hubs, known: &[String], count: usize, now: Instant) -> String {
    let mut tried = String::new();
    for _ in 0..count {
        let hub = hubs.next(known, None, now).unwrap();
        tried.push(hub.chars().nth("https://".len()).unwrap());
        hubs.tried(&hub, known, (None, now));
    }
    tried
}

#[test]
fn each_failure_leads_to_the_next_hub_and_round_again() {
    let (known, now) = (list(&["a", "b", "c"]), Clock::system().now());
    assert_eq!(round(&mut Hubs::starting(4), &known, 5, now), "bcabc");
    assert_eq!(Hubs::starting(4).next(&[], None, now), None);
}

#[test]
fn named_hubs_come_first_each_once_and_however_they_are_spelled() {
    let (known, now) = (list(&["a", "b", "c"]), Clock::system().now());
    let mut hubs = Hubs::starting(0);
    assert!(hubs.prefer(vec!["c:7444".to_owned(), "wss://b:7444/".to_owned()], &known));
    assert_eq!(round(&mut hubs, &known, 5, now), "cbcab");
}

#[test]
fn hub_that_no_configuration_names_is_never_tried() {
    let (known, now) = (list(&["a", "b"]), Clock::system().now());
    let mut hubs = Hubs::starting(0);
    assert!(!hubs.prefer(list(&["evil"]), &known));
    assert_eq!(round(&mut hubs, &known, 4, now), "abab");
    assert!(hubs.prefer(list(&["evil", "b"]), &known));
    assert_eq!(round(&mut hubs, &known, 4, now), "baba");
}

#[test]
fn hub_that_was_named_is_not_tried_once_the_configuration_has_dropped_it() {
    let (known, now) = (list(&["a", "b"]), Clock::system().now());
    let mut hubs = Hubs::starting(0);
    assert!(hubs.prefer(list(&["b"]), &known));
    assert_eq!(hubs.next(&list(&["a"]), None, now).as_deref(), Some("https://a:7444"));
}

#[test]
fn hub_in_use_is_left_for_others_as_long_as_there_are_some() {
    let (known, now) = (list(&["a", "b"]), Clock::system().now());
    let mut hubs = Hubs::starting(0);
    assert!(hubs.prefer(list(&["a"]), &known));
    assert_eq!(hubs.next(&known, Some("a:7444"), now).as_deref(), Some("https://b:7444"));
    let alone = list(&["a"]);
    assert_eq!(hubs.next(&alone, Some("a:7444"), now).as_deref(), Some("https://a:7444"));
}

#[test]
fn hub_that_asked_to_be_left_alone_waits_behind_the_others_and_no_longer_than_it_may() {
    let (known, now) = (list(&["a", "b"]), Clock::system().now());
    let mut hubs = Hubs::starting(0);
    hubs.tried("https://a:7444", &known, (Some(5 * SECOND), now));
    assert_eq!(round(&mut hubs, &known, 3, now), "bbb");
    assert_eq!(hubs.wait("https://b:7444", now), Duration::ZERO);
    assert_eq!(round(&mut hubs, &known, 2, now + 5 * SECOND), "ab");
    // When all ask for it, the next one has to be waited for.
    for hub in &known {
        hubs.tried(hub, &known, (Some(100 * RETRY_AFTER_CAP), now));
    }
    let next = hubs.next(&known, None, now).unwrap();
    assert_eq!(hubs.wait(&next, now), RETRY_AFTER_CAP);
}
