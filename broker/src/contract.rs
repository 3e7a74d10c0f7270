//! What every implementation of the bus must do, one clause at a time.
//!
//! Owns the clauses and the means they need; knows no implementation. A test target names a
//! [`Harness`] in [`contract_tests!`](crate::contract_tests) and gets one test per clause, so
//! that a failure names the clause.

pub mod downstream;
pub mod leases;
pub mod upstream;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protocol::frame::AgentFrame;
use protocol::id::{CommandId, DeviceId, HubId, SessionId};
use protocol::time::Timestamp;

use crate::{Arrival, Broker, Downstream, HubLease, LeaseGrant, Presence, Upstream};

/// A fresh bus, and power over its time.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The bus as one more process sees it.
    async fn broker(&self) -> Arc<dyn Broker>;

    /// Lets that much time pass for leases and for what readers took and did not acknowledge. A
    /// bus on the machine's clock ages its entries instead of waiting.
    async fn advance(&self, by: Duration);
}

/// Makes one test per clause, each on two threads. Takes the name of an async function without arguments
/// in the same module that answers a [`Harness`].
#[macro_export]
macro_rules! contract_tests {
    ($harness:ident) => {
        $crate::contract_tests! { $harness, leases:
            free_lease_is_taken_and_then_renewed
            lease_of_another_incarnation_is_refused
            expired_lease_can_be_taken_by_another_incarnation
            only_one_of_many_takes_a_free_lease
            lease_that_expired_is_taken_again_not_renewed
            released_lease_is_free_at_once
            only_the_holder_releases_a_lease
            hubs_with_a_lease_are_listed
            session_is_located_until_it_departs
            newer_session_replaces_older
            older_session_never_replaces_a_live_newer_one
            session_of_the_same_epoch_that_arrives_later_replaces
            older_session_replaces_one_of_a_dead_hub
            replaced_session_of_the_same_hub_is_not_told
            racing_sessions_leave_the_newest_wherever_they_arrive
            departure_of_a_replaced_session_removes_nothing
            entry_of_a_hub_without_lease_is_offline
            entry_under_an_expired_lease_is_offline
            entry_of_a_former_incarnation_stays_offline
            renewed_lease_keeps_its_sessions_online
            restored_session_is_located
            restoring_never_replaces_a_live_session_elsewhere
            restoring_never_replaces_a_newer_session_on_the_same_hub
            restoring_replaces_an_older_session_elsewhere
            restoring_what_stands_changes_nothing
            restoring_replaces_an_entry_of_a_dead_hub
            locating_keeps_the_order_of_a_thousand_devices
            restoring_too_many_at_once_is_refused
        }
        $crate::contract_tests! { $harness, downstream:
            published_messages_reach_the_subscription
            publishing_without_subscription_reaches_nobody
            dropped_subscription_receives_nothing
            messages_of_a_hub_keep_their_order
            hubs_receive_only_their_own_messages
            newest_subscription_replaces_older
            subscribing_needs_the_lease
            former_incarnation_cannot_subscribe
            next_can_be_cancelled_without_loss
            slow_subscriber_is_ended_and_can_resync
            publishing_too_many_at_once_is_refused
            probe_succeeds
        }
        $crate::contract_tests! { $harness, upstream:
            messages_reach_a_reader_in_order
            messages_sent_before_a_reader_joined_are_read
            each_message_goes_to_one_reader
            many_readers_share_what_many_send
            waiting_reader_is_woken
            unacknowledged_messages_of_a_dropped_reader_are_read_again
            waiting_readers_take_over_from_a_dropped_one
            acknowledged_messages_are_not_read_again
            batches_are_bounded
            full_upstream_refuses_and_recovers
            what_waits_is_counted_until_it_is_acknowledged
            cancelled_read_loses_nothing
            sending_too_many_at_once_is_refused
        }
    };
    ($harness:ident, $group:ident: $($clause:ident)*) => {
        mod $group {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $clause() {
                    $crate::contract::$group::$clause(&super::$harness().await).await;
                }
            )*
        }
    };
}

/// The guard against a broken implementation: no clause waits this long on a working one.
const GUARD: Duration = Duration::from_secs(60);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(GUARD, what).await.expect("the broker answers before the guard ends")
}

fn hub(name: &str) -> HubId {
    name.parse().expect("the clauses use valid hub names")
}

fn session(n: u8) -> SessionId {
    SessionId::new(Timestamp::from_millis(u64::from(n)), [n; 10])
}

fn device(n: u64) -> DeviceId {
    DeviceId::new(Timestamp::from_millis(n), [7; 10])
}

fn lease(name: &str, incarnation: u8) -> HubLease {
    HubLease { hub: hub(name), incarnation: session(incarnation) }
}

/// A lease that was free and is now held.
async fn held(broker: &dyn Broker, name: &str, incarnation: u8) -> HubLease {
    let lease = lease(name, incarnation);
    let grant = broker.renew_lease(&lease).await.expect("the lease is free");
    assert_eq!(grant, LeaseGrant::Taken);
    lease
}

/// The `n`th session of a device, under that lease.
fn presence(lease: &HubLease, n: u8) -> Presence {
    Presence::new(lease, session(n), u64::from(n))
}

/// The `n`th session of a device, written.
async fn arrived(broker: &dyn Broker, device: DeviceId, lease: &HubLease, n: u8) -> Presence {
    let presence = presence(lease, n);
    let arrival = broker.arrive(device, presence.clone()).await.expect("the broker answers");
    assert!(matches!(arrival, Arrival::Written { .. }), "{arrival:?}");
    presence
}

async fn located(broker: &dyn Broker, device: DeviceId) -> Option<Presence> {
    let mut found = broker.locate(&[device]).await.expect("the broker answers");
    assert_eq!(found.len(), 1);
    found.pop().flatten()
}

/// The `n`th of distinguishable messages to a device.
fn down(n: u64) -> Downstream {
    Downstream::Revoke { device: device(n), through_generation: 1 }
}

/// The `n`th of distinguishable messages from a device.
fn up(n: u64) -> Upstream {
    Upstream {
        device: device(n),
        generation: 1,
        hub: hub("hub-a"),
        session: session(1),
        frame: AgentFrame::Ack { command_id: CommandId::new(Timestamp::from_millis(n), [0; 10]) },
    }
}
