//! The accounting, entry by entry.

use std::time::Duration;

use protocol::fixture::command;
use runtime::Clock;

use super::*;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn latency_counts_from_the_intended_moment_whatever_came_first() {
    let (book, start) = (Book::default(), Clock::system().now());
    // The device is faster than the answer, and the order left 40 ms late.
    book.reached(command(1), Stage::Received, start + millis(50));
    book.reached(command(1), Stage::Acked, start + millis(60));
    book.ordered(command(1), start, [start + millis(40), start + millis(70)]);
    let max = |stage| book.latency(stage).max_ms.round();
    let found = Stage::ALL.map(max);
    assert_eq!(found, [40.0, 70.0, 50.0, 60.0, 0.0]);
    assert_eq!(book.latency(Stage::Confirmed).count, 0);
}

#[test]
fn first_time_of_a_stage_counts() {
    let (book, start) = (Book::default(), Clock::system().now());
    book.ordered(command(1), start, [start; 2]);
    book.reached(command(1), Stage::Acked, start + millis(5));
    book.reached(command(1), Stage::Acked, start + millis(500));
    assert_eq!(book.latency(Stage::Acked).count, 1);
    assert!(book.latency(Stage::Acked).max_ms < 6.0);
}

#[test]
fn lost_doubled_and_unanswered_are_told_apart() {
    let (book, start) = (Book::default(), Clock::system().now());
    for number in 1..=3 {
        book.ordered(command(number), start, [start; 2]);
    }
    for (number, stages) in [(1, &Stage::ALL[2..]), (2, &Stage::ALL[2..4]), (9, &Stage::ALL[2..])] {
        for stage in stages {
            book.reached(command(number), *stage, start);
        }
        book.took_effect(command(number));
    }
    book.took_effect(command(2));
    book.redelivered();
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
    assert_eq!(book.errors(), BTreeMap::from([("order status 503".to_owned(), 1)]));
}

#[tokio::test]
async fn book_settles_when_the_last_command_is_confirmed() {
    let (book, start) = (Book::default(), Clock::system().now());
    book.settled().await;
    book.reached(command(1), Stage::Confirmed, start);
    book.ordered(command(1), start, [start; 2]);
    book.ordered(command(2), start, [start; 2]);
    let confirming = async {
        tokio::task::yield_now().await;
        book.reached(command(2), Stage::Confirmed, start);
    };
    tokio::join!(book.settled(), confirming);
    assert_eq!(book.counts().lost, 0);
}
