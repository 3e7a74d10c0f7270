//! What is taken of the sendings that wait to be written down.

use uuid::Uuid;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn id(number: u128) -> CommandId {
    CommandId::from_uuid(Uuid::from_u128(number))
}

#[test]
fn those_that_devices_answered_are_written_with_the_answers_however_many_wait() {
    let sent = Sent::default();
    sent.note(NOW, (0..10).map(id));
    let named = BTreeSet::from([id(8), id(3)]);
    let batch = sent.take_with(4, &named);
    assert_eq!(batch.at, Some(NOW));
    assert_eq!(batch.ids, [3, 8, 0, 1].map(id));
    let rest = sent.take(100);
    assert_eq!((rest.at, rest.ids), (Some(NOW), [2, 4, 5, 6, 7, 9].map(id).to_vec()));
    assert_eq!(sent.take(100).at, None);
}
