//! The bus on a cluster keeps the contract where a cluster differs: keys on different servers,
//! sharded pub/sub, readers that block one server.

use broker::fixture::RedisCluster;
use broker::redis::RedisMode;

use crate::support::OnRedis;

fn fresh() -> std::future::Ready<OnRedis> {
    let servers = RedisCluster::start().nodes;
    std::future::ready(OnRedis { servers, mode: RedisMode::Cluster })
}

broker::contract_tests! { fresh, leases:
    only_one_of_many_takes_a_free_lease
    released_lease_is_free_at_once
    hubs_with_a_lease_are_listed
    session_is_located_until_it_departs
    older_session_never_replaces_a_live_newer_one
    older_session_replaces_one_of_a_dead_hub
    racing_sessions_leave_the_newest_wherever_they_arrive
    restored_session_is_located
    restoring_never_replaces_a_live_session_elsewhere
    locating_keeps_the_order_of_a_thousand_devices
}

broker::contract_tests! { fresh, downstream:
    published_messages_reach_the_subscription
    publishing_without_subscription_reaches_nobody
    messages_of_a_hub_keep_their_order
    hubs_receive_only_their_own_messages
    newest_subscription_replaces_older
    slow_subscriber_is_ended_and_can_resync
    probe_succeeds
}

broker::contract_tests! { fresh, upstream:
    messages_reach_a_reader_in_order
    many_readers_share_what_many_send
    unacknowledged_messages_of_a_dropped_reader_are_read_again
    acknowledged_messages_are_not_read_again
}
