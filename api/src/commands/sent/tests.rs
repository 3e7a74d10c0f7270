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
    assert_eq!(sent.take_settled(100).at, None);
    let named = BTreeSet::from([id(8), id(3)]);
    let batch = sent.take_with(4, &named);
    assert_eq!(batch.at, Some(NOW));
    assert_eq!(batch.ids, [3, 8, 0, 1].map(id));
    let rest = sent.take(100);
    assert_eq!((rest.at, rest.ids), (Some(NOW), [2, 4, 5, 6, 7, 9].map(id).to_vec()));
    assert_eq!(sent.take(100).at, None);
}

#[test]
fn whoever_was_sent_to_just_now_has_time_to_answer() {
    let sent = Sent::default();
    sent.note(NOW, [1, 2].map(id));
    assert_eq!(sent.take_with(100, &BTreeSet::from([id(2)])).ids, [id(2)]);
    assert!(!sent.has_settled());
    let later = NOW.plus(WAIT);
    sent.note(later, [id(3)]);
    // One answers another command, and the first was silent for long enough.
    assert_eq!(sent.take_with(100, &BTreeSet::from([id(9)])).ids, [id(1)]);
    assert!(!sent.has_settled());
    assert_eq!(sent.waiting(), 1);
    // A piece that takes all that had time gives nobody else's away.
    sent.note(later, [id(4)]);
    let last = sent.take_settled(1);
    assert_eq!((last.at, last.ids), (Some(later), vec![id(3)]));
    assert!(!sent.has_settled());
    assert_eq!(sent.take_settled(100).ids, [id(4)]);
    assert_eq!(sent.waiting(), 0);
}
