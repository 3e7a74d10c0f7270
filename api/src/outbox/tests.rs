//! The two lanes of the outbox, each as if the other were not there.

use futures_util::FutureExt as _;
use protocol::frame::CommandFrame;
use protocol::id::CommandId;
use protocol::jws::CompactJws;
use uuid::Uuid;

use super::*;

fn delivery(lane: Lane, number: u128) -> Delivery {
    let command_id = CommandId::from_uuid(Uuid::from_u128(number));
    let jws = CompactJws::from_text("a.b.c".to_owned());
    Delivery {
        device: DeviceId::from_uuid(Uuid::nil()),
        frame: CommandFrame { command_id, lane, after_seq: 0, jws },
    }
}

#[tokio::test]
async fn full_bulk_lane_neither_delays_nor_drops_urgent_commands() {
    let outbox = Outbox::new();
    for number in 0..=BATCHES {
        outbox.push(vec![delivery(Lane::Bulk, number as u128)]);
    }
    let urgent = delivery(Lane::Urgent, 7);
    outbox.push(vec![urgent.clone()]);
    assert_eq!(outbox.next(Lane::Urgent).await, Some(vec![urgent]));
    let bulk = outbox.next(Lane::Bulk).await.unwrap();
    assert_eq!(bulk[0], delivery(Lane::Bulk, 0), "in the order in which they came");
    assert!(bulk.iter().all(|delivery| delivery.frame.lane == Lane::Bulk));
}

#[tokio::test]
async fn order_for_many_devices_is_cut_to_batches() {
    let outbox = Outbox::new();
    let many = broker::BATCH + 1;
    outbox.push((0..many).map(|number| delivery(Lane::Bulk, number as u128)).collect());
    assert_eq!(outbox.next(Lane::Bulk).await.map(|batch| batch.len()), Some(broker::BATCH));
    assert_eq!(outbox.next(Lane::Bulk).await.map(|batch| batch.len()), Some(1));
}

#[tokio::test(start_paused = true)]
async fn where_much_is_ordered_what_comes_next_is_gathered() {
    let outbox = Outbox::new();
    let push = |lane, count: usize| {
        (0..count).for_each(|number| outbox.push(vec![delivery(lane, number as u128)]));
    };
    // The clock stands still until everybody waits for it.
    let at_once = |lane| outbox.next(lane).now_or_never().flatten().map(|batch| batch.len());
    for (lane, other) in [(Lane::Bulk, Lane::Urgent), (Lane::Urgent, Lane::Bulk)] {
        push(lane, MUCH);
        assert_eq!(at_once(lane), Some(MUCH));
        push(other, 1);
        assert_eq!(at_once(other), Some(1), "the other lane does not wait for it");
        push(lane, 1);
        assert_eq!(at_once(lane), None);
        push(lane, 1);
        assert_eq!(outbox.next(lane).await.map(|batch| batch.len()), Some(2));
        push(lane, 1);
        assert_eq!(at_once(lane), Some(1), "little is not followed by a rest");
    }
}

#[test]
fn gathering_grows_where_much_comes_and_fades_where_little_does() {
    let settled = |from: Duration, per_sec: u128| {
        (0..50).fold(from, |rest, _| {
            let gathered = rest.as_micros() * per_sec / 1_000_000;
            rest_after(usize::try_from(gathered).unwrap())
        })
    };
    assert_eq!(settled(rest_after(2 * MUCH), 2_500), GATHER_MOST);
    assert_eq!(settled(GATHER_MOST, 1_000), Duration::ZERO);
}
