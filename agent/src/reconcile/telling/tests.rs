//! Words that leave now and then, and never in the way.

use protocol::advance::{Output, Tail};
use protocol::id::CommandId;
use protocol::limits::OUTPUT_TAIL_BYTES;
use protocol::time::Timestamp;
use runtime::Clock;
use tokio::sync::mpsc;

use super::super::link::{Link, Linked};
use super::*;

fn at(done: u64) -> Advance {
    Advance::default().bytes(done, 1000)
}

#[test]
fn newest_word_leaves_once_per_pause_and_the_others_never() {
    let begin = Clock::system().now();
    let mut telling = Telling::default();
    telling.begin(Lane::Urgent, begin);
    let mut left = Vec::new();
    // A word each millisecond for three seconds, each followed by a look.
    for ms in 0..3000 {
        let now = begin + Duration::from_millis(ms);
        telling.keep(Lane::Urgent, at(ms.min(1000)));
        left.extend(telling.take(Lane::Urgent, now, true).map(|advance| (ms, advance)));
    }
    let expected = [500, 1000, 1500, 2000, 2500].map(|ms| (ms, at(ms.min(1000))));
    assert_eq!(left, expected);
    assert_eq!(telling.due(), Some(begin + Duration::from_secs(3)));
}

#[test]
fn word_waits_for_a_clear_way_and_is_outdone_meanwhile() {
    let begin = Clock::system().now();
    let mut telling = Telling::default();
    telling.begin(Lane::Bulk, begin);
    assert_eq!(telling.due(), None, "nothing waits");
    telling.keep(Lane::Bulk, at(1));
    assert_eq!(telling.due(), Some(begin + PAUSE));
    assert_eq!(telling.take(Lane::Bulk, begin + PAUSE, false), None);
    telling.keep(Lane::Bulk, at(2));
    assert_eq!(telling.take(Lane::Bulk, begin + PAUSE, true), None, "it was just tried");
    assert_eq!(telling.take(Lane::Bulk, begin + 2 * PAUSE, true), Some(at(2)));
    assert_eq!(telling.take(Lane::Bulk, begin + 4 * PAUSE, true), None, "it has left");
}

#[test]
fn long_words_leave_more_rarely_so_that_the_slowest_link_carries_something_else() {
    let begin = Clock::system().now();
    let mut telling = Telling::default();
    telling.begin(Lane::Bulk, begin);
    let said = Some(Tail { from: 1 << 40, bytes: vec![b'x'; OUTPUT_TAIL_BYTES] });
    let word = Advance::default().output(Some(Output { stdout: said.clone(), stderr: said }));
    let length = serde_json::to_string(&word).unwrap().len() as u64;
    // A word each millisecond for a minute, each followed by a look.
    let looks = (0..60_000).map(|ms| begin + Duration::from_millis(ms));
    let left = looks.filter(|now| {
        telling.keep(Lane::Bulk, word.clone());
        telling.take(Lane::Bulk, *now, true).is_some()
    });
    let bytes = left.count() as u64 * length;
    assert!((1..=60 * SLOWEST_LINK / 3).contains(&bytes), "{bytes} bytes in a minute");
}

#[test]
fn new_stage_forgets_the_words_of_the_former_one() {
    let begin = Clock::system().now();
    let mut telling = Telling::default();
    telling.keep(Lane::Bulk, at(1));
    telling.begin(Lane::Bulk, begin);
    assert_eq!(telling.take(Lane::Bulk, begin + PAUSE, true), None);
}

#[test]
fn way_is_clear_only_while_nothing_waits_on_it() {
    let mut link = Link::default();
    assert!(!link.is_clear(), "there is no rung");
    let (frames, mut receiver) = mpsc::channel(4);
    link.replace(Linked { frames });
    assert!(link.is_clear());
    let command_id = CommandId::new(Timestamp::default(), [1; 10]);
    assert!(link.send(AgentFrame::Ack { command_id }));
    assert!(!link.is_clear(), "a frame waits");
    receiver.try_recv().unwrap();
    assert!(link.is_clear());
    drop(receiver);
    assert!(!link.is_clear(), "the rung has fallen");
}
