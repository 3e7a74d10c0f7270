//! The accounting, entry by entry.

use std::time::Duration;

use protocol::fixture::command;
use runtime::Clock;

use super::*;
use crate::moment::Timeline;
use crate::tally::{Mark, Opened};

fn start() -> Moment {
    Timeline::new(Clock::system()).expect("a clock").now()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn notes(marks: &[(u8, Stage, Moment)]) -> Notes {
    let mark = |(number, stage, at): &(u8, Stage, Moment)| Mark {
        command: command(*number),
        stage: *stage,
        at: *at,
    };
    Notes { marks: marks.iter().map(mark).collect(), ..Notes::default() }
}

#[test]
fn latency_counts_from_the_intended_moment_whatever_came_first() {
    let (book, start) = (Book::default(), start());
    let at = |after| start.plus(millis(after));
    // The device is faster than the answer, and the order left 40 ms late.
    book.take_in(notes(&[(1, Stage::Received, at(50)), (1, Stage::Acked, at(60))]));
    book.ordered(Stream::Unicast, &[command(1)], start, [at(40), at(70)]);
    let max = |stage| book.latency(Part::Run(Stream::Unicast), stage).max.round();
    assert_eq!(Stage::ALL.map(max), [40.0, 70.0, 50.0, 60.0, 0.0]);
    assert_eq!(book.latency(Part::Run(Stream::Unicast), Stage::Confirmed).count, 0);
    // Confirmed, it is forgotten, and its latencies stay.
    book.take_in(notes(&[(1, Stage::Confirmed, at(90))]));
    assert!(book.pages().open.is_empty());
    assert_eq!(Stage::ALL.map(max), [40.0, 70.0, 50.0, 60.0, 90.0]);
    assert_eq!(book.latency(Part::Run(Stream::Group), Stage::Acked).count, 0);
}

#[test]
fn first_time_of_a_stage_counts() {
    let (book, start) = (Book::default(), start());
    book.ordered(Stream::Unicast, &[command(1)], start, [start; 2]);
    for after in [5, 500] {
        book.take_in(notes(&[(1, Stage::Acked, start.plus(millis(after)))]));
    }
    let latency = book.latency(Part::Run(Stream::Unicast), Stage::Acked);
    assert_eq!(latency.count, 1);
    assert!(latency.max < 6.0);
}

#[test]
fn group_order_makes_many_commands_of_one_moment() {
    let (book, start) = (Book::default(), start());
    book.ordered(Stream::Group, &[command(1), command(2)], start, [start; 2]);
    let acks =
        [(1, Stage::Acked, start.plus(millis(10))), (2, Stage::Acked, start.plus(millis(30)))];
    book.take_in(notes(&acks));
    let latency = book.latency(Part::Run(Stream::Group), Stage::Acked);
    assert_eq!((latency.count, latency.max.round()), (2, 30.0));
    assert_eq!(book.take_window().count, 2);
    assert_eq!(book.take_window().count, 0, "a window begins anew");
}

#[test]
fn lost_doubled_and_unanswered_are_told_apart() {
    let (book, start) = (Book::default(), start());
    for number in 1..=3 {
        book.ordered(Stream::Unicast, &[command(number)], start, [start; 2]);
    }
    for (number, stages) in [(1, &Stage::ALL[2..]), (2, &Stage::ALL[2..4]), (9, &Stage::ALL[2..])] {
        for stage in stages {
            book.take_in(notes(&[(number, *stage, start)]));
        }
    }
    let rest = Notes { doubled: 1, redelivered: 1, ..Notes::default() };
    book.take_in(rest);
    book.failed("order status 503");
    let expected = Counts {
        ordered: 3,
        failed: 1,
        received: 2,
        acked: 2,
        confirmed: 1,
        lost: 2,
        doubled: 1,
        redelivered: 1,
        unanswered: 1,
    };
    assert_eq!(book.counts(), expected);
    assert_eq!(book.errors()["order status 503"], 1);
}

#[test]
fn first_connections_and_later_ones_are_told_apart() {
    let (book, start) = (Book::default(), start());
    let opened = |after, again| Opened { began: start, at: start.plus(millis(after)), again };
    let opened = vec![opened(5, false), opened(7, false), opened(1, true)];
    book.take_in(Notes { opened, ..Notes::default() });
    let [connect, reconnect] = book.connections();
    assert_eq!((connect.count, reconnect.count), (2, 1));
    assert!(connect.max > 6.0 && reconnect.max < 2.0);
}

#[tokio::test]
async fn settled_waits_for_the_last_confirmation() {
    let (book, start) = (Book::default(), start());
    book.settled().await;
    book.ordered(Stream::Unicast, &[command(1)], start, [start; 2]);
    let settling = book.settled();
    tokio::pin!(settling);
    let waits = futures_util::poll!(&mut settling).is_pending();
    assert!(waits, "one is out");
    book.take_in(notes(&[(1, Stage::Confirmed, start)]));
    settling.await;
}

/// Sums up what an order that was meant to leave at each of those moments fared like.
fn ordered_at(book: &Book, moments: &[(u8, Moment)], took: Duration) {
    for (number, at) in moments {
        book.ordered(Stream::Unicast, &[command(*number)], *at, [*at; 2]);
        let at = at.plus(took);
        book.take_in(notes(&[(*number, Stage::Acked, at), (*number, Stage::Confirmed, at)]));
    }
}

/// A gate of a storm that is over in a fifth of the phase must not be met by the calm of the rest.
#[test]
fn orders_that_were_meant_to_leave_while_something_went_on_are_told_apart() {
    let (book, start) = (Book::default(), start());
    let at = |after| start.plus(millis(after));
    let phase = book.begin();
    ordered_at(&book, &[(1, at(90))], millis(1));
    let storm = book.disturb(at(100), 1);
    // The end is heard of late: what was meant to leave after it is none of it.
    ordered_at(&book, &[(2, at(100)), (3, at(200)), (4, at(201))], millis(50));
    book.ordered(Stream::Unicast, &[command(5)], at(150), [at(150), at(190)]);
    book.happened(storm, at(200));
    ordered_at(&book, &[(6, at(300))], millis(1));
    let count = |part, stage| book.latency(part, stage).count;
    assert_eq!(count(Part::ChapterDuring(phase), Stage::Acked), 2);
    assert_eq!(
        count(Part::During, Stage::Stored),
        3,
        "one is not acked yet, and still one of them"
    );
    assert_eq!(count(Part::Chapter(phase, Stream::Unicast), Stage::Acked), 5);
    assert_eq!(book.latency(Part::During, Stage::Acked).p50.round(), 50.0);
    assert_eq!(book.disturbed(phase), Some(millis(100)));
}

#[test]
fn group_order_goes_on_from_its_intended_moment_until_its_last_ack() {
    let (book, start) = (Book::default(), start());
    let at = |after| start.plus(millis(after));
    let phase = book.begin();
    // Of two parts; a device acks before the answer, one after, and one part is refused.
    let group = book.disturb(at(10), 2);
    book.take_in(notes(&[(1, Stage::Acked, at(30))]));
    book.group_ordered(group, &[command(1), command(2)], at(10), [at(11), at(40)]);
    book.happened(group, at(45));
    assert_eq!(book.disturbed(phase), None, "one is not acked");
    book.take_in(notes(&[(2, Stage::Acked, at(70))]));
    assert_eq!(book.disturbed(phase), Some(millis(60)));
    // Those that overlap count once.
    let next = book.disturb(at(50), 1);
    book.happened(next, at(110));
    assert_eq!(book.disturbed(phase), Some(millis(100)));
    ordered_at(&book, &[(7, at(60)), (8, at(111))], millis(5));
    assert_eq!(book.latency(Part::During, Stage::Acked).count, 1);
}

#[test]
fn phase_has_its_own_orders_whenever_they_are_acked() {
    let (book, start) = (Book::default(), start());
    let before = book.begin();
    book.ordered(Stream::Unicast, &[command(1)], start, [start; 2]);
    let open = book.disturb(start, 1);
    book.finish(before, start.plus(millis(5)));
    let under = book.begin();
    ordered_at(&book, &[(2, start.plus(millis(6)))], millis(1));
    let at = start.plus(millis(900));
    book.take_in(notes(&[(1, Stage::Acked, at), (1, Stage::Confirmed, at)]));
    book.happened(open, at);
    let max = |part| book.latency(part, Stage::Acked).max.round();
    assert_eq!(max(Part::Chapter(before, Stream::Unicast)), 900.0);
    assert_eq!(max(Part::Chapter(under, Stream::Unicast)), 1.0);
    assert_eq!(max(Part::Run(Stream::Unicast)), 900.0);
    assert_eq!(book.disturbed(before), Some(millis(5)), "over with its phase");
    assert_eq!(book.disturbed(under), None);
}

/// Workers hand their notes on one after the other: the order in which they come says nothing.
#[test]
fn broadcast_of_a_hub_takes_from_its_first_device_to_its_last() {
    let (book, start) = (Book::default(), start());
    let told = |before, after| Told { before, at: start.plus(millis(after)) };
    let first = vec![told(0, 100), told(0, 130), told(1, 900)];
    // The last one of the first broadcast is later than everybody of the second.
    let second = vec![told(0, 90), told(1, 905), told(2, 2000), told(0, 950)];
    for told in [first, second] {
        book.take_in(Notes { told, ..Notes::default() });
    }
    let latency = book.broadcasts();
    assert_eq!((latency.count, latency.max.round()), (7, 860.0));
}
