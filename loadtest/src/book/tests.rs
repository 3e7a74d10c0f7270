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
    let max = |stage| book.latency(Stream::Unicast, stage).max.round();
    assert_eq!(Stage::ALL.map(max), [40.0, 70.0, 50.0, 60.0, 0.0]);
    assert_eq!(book.latency(Stream::Unicast, Stage::Confirmed).count, 0);
    // Confirmed, it is forgotten, and its latencies stay.
    book.take_in(notes(&[(1, Stage::Confirmed, at(90))]));
    assert!(book.pages().open.is_empty());
    assert_eq!(Stage::ALL.map(max), [40.0, 70.0, 50.0, 60.0, 90.0]);
    assert_eq!(book.latency(Stream::Group, Stage::Acked).count, 0);
}

#[test]
fn first_time_of_a_stage_counts() {
    let (book, start) = (Book::default(), start());
    book.ordered(Stream::Unicast, &[command(1)], start, [start; 2]);
    for after in [5, 500] {
        book.take_in(notes(&[(1, Stage::Acked, start.plus(millis(after)))]));
    }
    let latency = book.latency(Stream::Unicast, Stage::Acked);
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
    let latency = book.latency(Stream::Group, Stage::Acked);
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
