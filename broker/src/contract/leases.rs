//! Clauses about leases, and about presence that is read from them.
#![expect(missing_docs, reason = "the names of the clauses are sentences")]

use tokio::task::JoinSet;

use super::{Harness, arrived, device, held, hub, lease, located, presence, session};
use crate::{Arrival, BATCH, BrokerError, LEASE, LEASE_RENEWAL, LeaseGrant, Presence};

pub async fn free_lease_is_taken_and_then_renewed(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let again = broker.renew_lease(&lease).await.expect("we hold it");
    assert_eq!(again, LeaseGrant::Renewed);
}

pub async fn lease_of_another_incarnation_is_refused(harness: &impl Harness) {
    let (broker, other) = (harness.broker().await, harness.broker().await);
    held(&*broker, "hub-a", 1).await;
    let refused = other.renew_lease(&lease("hub-a", 2)).await;
    assert!(matches!(refused, Err(BrokerError::LeaseLost)), "{refused:?}");
}

pub async fn expired_lease_can_be_taken_by_another_incarnation(harness: &impl Harness) {
    let broker = harness.broker().await;
    let former = held(&*broker, "hub-a", 1).await;
    harness.advance(LEASE).await;
    held(&*broker, "hub-a", 2).await;
    let refused = broker.renew_lease(&former).await;
    assert!(matches!(refused, Err(BrokerError::LeaseLost)), "{refused:?}");
}

pub async fn only_one_of_many_takes_a_free_lease(harness: &impl Harness) {
    let mut tasks = JoinSet::new();
    for incarnation in 1..=16 {
        let broker = harness.broker().await;
        tasks.spawn(async move { broker.renew_lease(&lease("hub-a", incarnation)).await });
    }
    let taken = tasks.join_all().await.into_iter().filter(|outcome| match outcome {
        Ok(LeaseGrant::Taken) => true,
        Err(BrokerError::LeaseLost) => false,
        other => panic!("{other:?}"),
    });
    assert_eq!(taken.count(), 1);
}

pub async fn lease_that_expired_is_taken_again_not_renewed(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    harness.advance(LEASE).await;
    let again = broker.renew_lease(&lease).await.expect("nobody else took it");
    assert_eq!(again, LeaseGrant::Taken);
}

pub async fn released_lease_is_free_at_once(harness: &impl Harness) {
    let broker = harness.broker().await;
    let former = held(&*broker, "hub-a", 1).await;
    let entry = arrived(&*broker, device(1), &former, 1).await;
    broker.release_lease(&former).await.expect("we hold it");
    assert_eq!(located(&*broker, device(1)).await, None, "{entry:?} ended with its lease");
    held(&*broker, "hub-a", 2).await;
    assert_eq!(located(&*broker, device(1)).await, None, "{entry:?} is of a former incarnation");
}

pub async fn only_the_holder_releases_a_lease(harness: &impl Harness) {
    let broker = harness.broker().await;
    broker.release_lease(&lease("hub-a", 1)).await.expect("releasing a free lease is harmless");
    let holder = held(&*broker, "hub-a", 1).await;
    let refused = broker.release_lease(&lease("hub-a", 2)).await;
    assert!(matches!(refused, Err(BrokerError::LeaseLost)), "{refused:?}");
    assert_eq!(broker.hubs().await.expect("the broker answers"), [holder]);
}

pub async fn hubs_with_a_lease_are_listed(harness: &impl Harness) {
    let broker = harness.broker().await;
    assert_eq!(broker.hubs().await.expect("the broker answers"), []);
    held(&*broker, "hub-a", 1).await;
    // Each is looked at long before it ends, or after.
    harness.advance(LEASE / 5).await;
    let second = held(&*broker, "hub-b", 2).await;
    let mut both = broker.hubs().await.expect("the broker answers");
    both.sort_by(|a, b| a.hub.cmp(&b.hub));
    assert_eq!(both, [lease("hub-a", 1), second.clone()]);
    broker.renew_lease(&second).await.expect("we hold it");
    harness.advance(LEASE * 4 / 5).await;
    broker.renew_lease(&second).await.expect("we hold it");
    assert_eq!(broker.hubs().await.expect("the broker answers"), [second]);
}

pub async fn session_is_located_until_it_departs(harness: &impl Harness) {
    let (broker, other) = (harness.broker().await, harness.broker().await);
    let lease = held(&*broker, "hub-a", 1).await;
    assert_eq!(located(&*other, device(1)).await, None);
    let presence = arrived(&*broker, device(1), &lease, 1).await;
    assert_eq!(located(&*other, device(1)).await.as_ref(), Some(&presence));
    assert!(broker.depart(device(1), &presence).await.expect("the broker answers"));
    assert_eq!(located(&*other, device(1)).await, None);
    assert!(!broker.depart(device(1), &presence).await.expect("the broker answers"));
}

pub async fn newer_session_replaces_older(harness: &impl Harness) {
    let broker = harness.broker().await;
    let (first, second) = (held(&*broker, "hub-a", 1).await, held(&*broker, "hub-b", 2).await);
    let older = arrived(&*broker, device(1), &first, 1).await;
    let newer = presence(&second, 2);
    let arrival = broker.arrive(device(1), newer.clone()).await.expect("the broker answers");
    assert_eq!(arrival, Arrival::Written { replaced: Some(older) });
    assert_eq!(located(&*broker, device(1)).await, Some(newer));
}

pub async fn older_session_never_replaces_a_live_newer_one(harness: &impl Harness) {
    let broker = harness.broker().await;
    let (first, second) = (held(&*broker, "hub-a", 1).await, held(&*broker, "hub-b", 2).await);
    let newer = arrived(&*broker, device(1), &second, 2).await;
    for lease in [&first, &second] {
        // A hub that was paused tells of it late.
        let arrival = broker.arrive(device(1), presence(lease, 1)).await;
        assert_eq!(arrival.expect("the broker answers"), Arrival::Stale);
        assert_eq!(located(&*broker, device(1)).await.as_ref(), Some(&newer));
    }
    assert!(!broker.depart(device(1), &presence(&first, 1)).await.expect("the broker answers"));
    assert_eq!(located(&*broker, device(1)).await, Some(newer));
}

pub async fn session_of_the_same_epoch_that_arrives_later_replaces(harness: &impl Harness) {
    let broker = harness.broker().await;
    let (first, second) = (held(&*broker, "hub-a", 1).await, held(&*broker, "hub-b", 2).await);
    let one = Presence::new(&first, session(1), 7);
    let other = Presence::new(&second, session(2), 7);
    for (presence, replaced) in [(&one, None), (&other, Some(one.clone()))] {
        let arrival = broker.arrive(device(1), presence.clone()).await;
        assert_eq!(arrival.expect("the broker answers"), Arrival::Written { replaced });
    }
    assert_eq!(located(&*broker, device(1)).await, Some(other));
}

pub async fn older_session_replaces_one_of_a_dead_hub(harness: &impl Harness) {
    let broker = harness.broker().await;
    let dead = held(&*broker, "hub-a", 1).await;
    arrived(&*broker, device(1), &dead, 9).await;
    harness.advance(LEASE).await;
    let alive = held(&*broker, "hub-b", 2).await;
    let presence = presence(&alive, 1);
    let arrival = broker.arrive(device(1), presence.clone()).await.expect("the broker answers");
    assert_eq!(arrival, Arrival::QUIET);
    assert_eq!(located(&*broker, device(1)).await, Some(presence));
}

pub async fn replaced_session_of_the_same_hub_is_not_told(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    arrived(&*broker, device(1), &lease, 1).await;
    let newer = presence(&lease, 2);
    let arrival = broker.arrive(device(1), newer.clone()).await.expect("the broker answers");
    assert_eq!(arrival, Arrival::QUIET, "the hub itself has replaced it");
    assert_eq!(located(&*broker, device(1)).await, Some(newer));
}

pub async fn racing_sessions_leave_the_newest_wherever_they_arrive(harness: &impl Harness) {
    const SESSIONS: u8 = 16;
    let broker = harness.broker().await;
    let mut tasks = JoinSet::new();
    for n in 1..=SESSIONS {
        let (broker, name) = (harness.broker().await, format!("hub-{n}"));
        tasks.spawn(async move {
            let lease = held(&*broker, &name, n).await;
            broker.arrive(device(1), presence(&lease, n)).await.expect("the broker answers")
        });
    }
    let told = tasks.join_all().await;
    let found = located(&*broker, device(1)).await.expect("one of them stands");
    assert_eq!(found.session, session(SESSIONS));
    // Each of the others was refused, or somebody was told of its end.
    let is_end = |arrival: &&Arrival| **arrival != Arrival::QUIET;
    assert_eq!(told.iter().filter(is_end).count(), usize::from(SESSIONS) - 1, "{told:?}");
}

pub async fn departure_of_a_replaced_session_removes_nothing(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let older = arrived(&*broker, device(1), &lease, 1).await;
    let newer = arrived(&*broker, device(1), &lease, 2).await;
    assert!(!broker.depart(device(1), &older).await.expect("the broker answers"));
    assert_eq!(located(&*broker, device(1)).await, Some(newer));
}

pub async fn entry_of_a_hub_without_lease_is_offline(harness: &impl Harness) {
    let broker = harness.broker().await;
    arrived(&*broker, device(1), &lease("hub-a", 1), 1).await;
    assert_eq!(located(&*broker, device(1)).await, None);
}

pub async fn entry_under_an_expired_lease_is_offline(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    arrived(&*broker, device(1), &lease, 1).await;
    harness.advance(LEASE).await;
    assert_eq!(located(&*broker, device(1)).await, None);
}

pub async fn entry_of_a_former_incarnation_stays_offline(harness: &impl Harness) {
    let broker = harness.broker().await;
    let former = held(&*broker, "hub-a", 1).await;
    arrived(&*broker, device(1), &former, 1).await;
    harness.advance(LEASE).await;
    held(&*broker, "hub-a", 2).await;
    assert_eq!(located(&*broker, device(1)).await, None);
}

pub async fn renewed_lease_keeps_its_sessions_online(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let presence = arrived(&*broker, device(1), &lease, 1).await;
    for _ in 0..8 {
        harness.advance(LEASE_RENEWAL).await;
        let grant = broker.renew_lease(&lease).await.expect("we hold it");
        assert_eq!(grant, LeaseGrant::Renewed);
    }
    assert_eq!(located(&*broker, device(1)).await, Some(presence));
}

pub async fn restored_session_is_located(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let entries: Vec<_> = (0..BATCH as u64).map(|n| (device(n), presence(&lease, 1))).collect();
    let restored = broker.restore(&entries).await.expect("the broker takes the entries");
    assert_eq!(restored, vec![Arrival::QUIET; BATCH]);
    for n in [0, 1, BATCH as u64 - 1] {
        assert_eq!(located(&*broker, device(n)).await, Some(presence(&lease, 1)));
    }
}

pub async fn restoring_never_replaces_a_live_session_elsewhere(harness: &impl Harness) {
    let broker = harness.broker().await;
    let (slept, other) = (held(&*broker, "hub-a", 1).await, held(&*broker, "hub-b", 2).await);
    let older = arrived(&*broker, device(1), &slept, 1).await;
    let staying = arrived(&*broker, device(2), &slept, 2).await;
    let newer = arrived(&*broker, device(1), &other, 3).await;
    let same = Presence::new(&slept, session(4), newer.epoch);
    for tried in [older, same] {
        let entries = [(device(1), tried), (device(2), staying.clone())];
        let restored = broker.restore(&entries).await.expect("the broker answers");
        assert_eq!(restored, [Arrival::Stale, Arrival::QUIET]);
        assert_eq!(located(&*broker, device(1)).await.as_ref(), Some(&newer));
        assert_eq!(located(&*broker, device(2)).await.as_ref(), Some(&staying));
    }
}

pub async fn restoring_never_replaces_a_newer_session_on_the_same_hub(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let older = arrived(&*broker, device(1), &lease, 1).await;
    let newer = arrived(&*broker, device(1), &lease, 2).await;
    let restored = broker.restore(&[(device(1), older)]).await.expect("the broker answers");
    assert_eq!(restored, [Arrival::Stale]);
    assert_eq!(located(&*broker, device(1)).await, Some(newer));
}

pub async fn restoring_replaces_an_older_session_elsewhere(harness: &impl Harness) {
    let broker = harness.broker().await;
    let (first, second) = (held(&*broker, "hub-a", 1).await, held(&*broker, "hub-b", 2).await);
    let older = arrived(&*broker, device(1), &first, 1).await;
    // Its arrival was lost, and an entry from before stands.
    let newer = presence(&second, 2);
    let restored = broker.restore(&[(device(1), newer.clone())]).await.expect("it answers");
    assert_eq!(restored, [Arrival::Written { replaced: Some(older) }]);
    assert_eq!(located(&*broker, device(1)).await, Some(newer));
}

pub async fn restoring_what_stands_changes_nothing(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let stands = arrived(&*broker, device(1), &lease, 1).await;
    let restored = broker.restore(&[(device(1), stands.clone())]).await.expect("it answers");
    assert_eq!(restored, [Arrival::QUIET]);
    assert_eq!(located(&*broker, device(1)).await, Some(stands));
}

pub async fn restoring_replaces_an_entry_of_a_dead_hub(harness: &impl Harness) {
    let broker = harness.broker().await;
    let dead = held(&*broker, "hub-a", 1).await;
    arrived(&*broker, device(1), &dead, 1).await;
    harness.advance(LEASE).await;
    let alive = held(&*broker, "hub-b", 2).await;
    let presence = presence(&alive, 2);
    let entries = [(device(1), presence.clone())];
    let restored = broker.restore(&entries).await.expect("the broker takes the entry");
    assert_eq!(restored, [Arrival::QUIET]);
    assert_eq!(located(&*broker, device(1)).await, Some(presence));
}

pub async fn locating_keeps_the_order_of_a_thousand_devices(harness: &impl Harness) {
    let broker = harness.broker().await;
    let (first, second) = (held(&*broker, "hub-a", 1).await, held(&*broker, "hub-b", 2).await);
    let renew = async || {
        for lease in [&first, &second] {
            broker.renew_lease(lease).await.expect("nobody else took it");
        }
    };
    for n in 0..1000 {
        if n % 100 == 0 {
            renew().await;
        }
        match n % 3 {
            0 => drop(arrived(&*broker, device(n), &first, 1).await),
            1 => drop(arrived(&*broker, device(n), &second, 2).await),
            _ => {}
        }
    }
    let asked: Vec<_> = (0..1000).rev().map(device).collect();
    renew().await;
    let found = broker.locate(&asked).await.expect("the broker answers");
    let hubs: Vec<_> = found.into_iter().map(|entry| entry.map(|entry| entry.hub)).collect();
    let expected: Vec<_> = (0..1000)
        .rev()
        .map(|n| match n % 3 {
            0 => Some(hub("hub-a")),
            1 => Some(hub("hub-b")),
            _ => None,
        })
        .collect();
    assert_eq!(hubs, expected);
}

pub async fn restoring_too_many_at_once_is_refused(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let presence = presence(&lease, 1);
    let entries: Vec<_> = (0..=BATCH as u64).map(|n| (device(n), presence.clone())).collect();
    let refused = broker.restore(&entries).await;
    assert!(matches!(refused, Err(BrokerError::BatchTooBig)), "{refused:?}");
    assert_eq!(located(&*broker, device(0)).await, None);
}
