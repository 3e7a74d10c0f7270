//! Tests of the limits before a session.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::FutureExt as _;
use protocol::id::DeviceId;
use runtime::{Clock, Entropy};
use uuid::Uuid;

use super::{Admission, Rank, Refusal, network};
use crate::config::AdmissionConfig;

fn source(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn one_source_does_not_use_up_the_allowance_of_others() {
    let (clock, hand) = Clock::manual();
    let config =
        AdmissionConfig { source_per_sec: 1, source_burst: 2, ..AdmissionConfig::default() };
    let admission = Admission::new(&config, &clock);
    let (loud, calm) = (source("192.0.2.1"), source("192.0.2.2"));
    let answers = [loud, loud, loud, calm].map(|from| admission.check_source(from));
    assert_eq!(answers, [Ok(()), Ok(()), Err(Refusal::Source), Ok(())]);
    hand.advance(Duration::from_secs(1));
    assert_eq!(admission.check_source(loud), Ok(()));
}

#[test]
fn full_and_resumed_handshakes_have_a_rate_each_and_who_is_owed_has_none() {
    let (clock, hand) = Clock::manual();
    let config = AdmissionConfig {
        handshakes_per_sec: 1,
        handshake_burst: 1,
        resumptions_per_sec: 1,
        resumption_burst: 2,
        ..AdmissionConfig::default()
    };
    let admission = Admission::new(&config, &clock);
    let check = |rank| admission.check_handshake(rank);
    assert_eq!([Rank::Full; 2].map(check), [Ok(()), Err(Refusal::Handshakes)]);
    let resumed = [Rank::Resuming; 3].map(check);
    assert_eq!(resumed, [Ok(()), Ok(()), Err(Refusal::Resumptions)]);
    assert_eq!([Rank::Owed; 3].map(check), [Ok(()); 3]);
    hand.advance(Duration::from_secs(1));
    assert_eq!([Rank::Full, Rank::Resuming].map(check), [Ok(()); 2]);
}

#[test]
fn device_is_told_when_to_come_back() {
    let (clock, hand) = Clock::manual();
    let config =
        AdmissionConfig { device_per_min: 6, device_burst: 1, ..AdmissionConfig::default() };
    let admission = Admission::new(&config, &clock);
    let device = DeviceId::from_uuid(Uuid::nil());
    assert_eq!(admission.check_device(device), Ok(()));
    let refusal = admission.check_device(device).unwrap_err();
    let wait = refusal.retry_after(&Entropy::system());
    assert_eq!(wait, Duration::from_secs(10));
    hand.advance(wait);
    assert_eq!(admission.check_device(device), Ok(()));
}

#[test]
fn those_who_find_no_room_come_back_at_different_times() {
    let entropy = Entropy::system();
    let waits: BTreeSet<_> = (0..100).map(|_| Refusal::Full.retry_after(&entropy)).collect();
    assert!(waits.len() > 10, "{waits:?}");
    let (first, last) = (waits.first().unwrap(), waits.last().unwrap());
    assert!(*first >= Duration::from_secs(5) && *last < Duration::from_secs(10), "{waits:?}");
}

#[test]
fn rate_of_zero_is_no_limit() {
    let (clock, _hand) = Clock::manual();
    let config = AdmissionConfig {
        handshakes_per_sec: 0,
        resumptions_per_sec: 0,
        source_per_sec: 0,
        device_per_min: 0,
        ..AdmissionConfig::default()
    };
    let admission = Admission::new(&config, &clock);
    for _ in 0..10_000 {
        assert_eq!(admission.check_source(source("192.0.2.1")), Ok(()));
        assert_eq!(admission.check_handshake(Rank::Full), Ok(()));
        assert_eq!(admission.check_handshake(Rank::Resuming), Ok(()));
        assert_eq!(admission.check_device(DeviceId::from_uuid(Uuid::nil())), Ok(()));
    }
}

#[test]
fn ipv6_subscriber_counts_once() {
    assert_eq!(network(source("2001:db8::1")), network(source("2001:db8::ffff:2")));
    assert_ne!(network(source("2001:db8::1")), network(source("2001:db8:0:1::1")));
    assert_eq!(network(source("::ffff:192.0.2.1")), source("192.0.2.1"));
}

#[test]
fn other_rates_count_at_once_and_those_that_stay_go_on_where_they_were() {
    let (clock, _hand) = Clock::manual();
    let config = AdmissionConfig {
        handshakes_per_sec: 1,
        handshake_burst: 1,
        resumptions_per_sec: 1,
        resumption_burst: 1,
        ..AdmissionConfig::default()
    };
    let admission = Admission::new(&config, &clock);
    let check = |rank| admission.check_handshake(rank);
    assert_eq!([Rank::Full, Rank::Resuming].map(check), [Ok(()); 2]);
    admission.follow(&AdmissionConfig { resumption_burst: 2, ..config.clone() });
    assert_eq!(check(Rank::Full), Err(Refusal::Handshakes), "no fresh allowance");
    let resumed = [Rank::Resuming; 3].map(check);
    assert_eq!(resumed, [Ok(()), Ok(()), Err(Refusal::Resumptions)]);
    admission.follow(&AdmissionConfig { handshakes_per_sec: 0, ..config });
    assert_eq!([Rank::Full; 9].map(check), [Ok(()); 9]);
}

#[tokio::test]
async fn number_of_slots_follows_also_while_they_are_taken() {
    let (clock, _hand) = Clock::manual();
    let with = |max_handshakes| AdmissionConfig { max_handshakes, ..AdmissionConfig::default() };
    let admission = Admission::new(&with(3), &clock);
    let take = || admission.slot().now_or_never();
    let taken = [take(), take(), take()];
    assert!(taken.iter().all(Option::is_some) && take().is_none());
    admission.follow(&with(1));
    let [first, second, third] = taken;
    drop((first, second));
    assert!(take().is_none(), "one of one is taken");
    drop(third);
    let only = take();
    assert!(only.is_some() && take().is_none());
    admission.follow(&with(2));
    let other = take();
    assert!(other.is_some() && take().is_none());
    // Fewer, and as many again before one came back: there is none too many.
    admission.follow(&with(1));
    admission.follow(&with(2));
    assert!(take().is_none());
    drop((only, other));
    let both = [take(), take()];
    assert!(both.iter().all(Option::is_some) && take().is_none());
}

#[test]
fn hostile_holder_of_a_ticket_goes_before_others_only_so_often() {
    let (clock, hand) = Clock::manual();
    let config =
        AdmissionConfig { device_per_min: 6, device_burst: 2, ..AdmissionConfig::default() };
    let admission = Admission::new(&config, &clock);
    let [loud, calm] = [0, 1].map(|number| DeviceId::from_uuid(Uuid::from_u128(number)));
    let answers = [loud, loud, loud, calm].map(|device| admission.favours(device));
    assert_eq!(answers, [true, true, false, true]);
    assert_eq!(admission.check_device(loud), Ok(()), "its requests are another matter");
    hand.advance(Duration::from_secs(10));
    assert!(admission.favours(loud));
}
