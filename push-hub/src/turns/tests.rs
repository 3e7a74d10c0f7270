//! Tests of who begins first.

use std::pin::Pin;
use std::task::{Context, Waker};

use futures_util::FutureExt as _;

use super::*;

type Waiting = Pin<Box<dyn Future<Output = Turn>>>;

/// Somebody who has asked.
fn asks(turns: &Arc<Turns>, rank: Rank) -> Waiting {
    let turns = turns.clone();
    let mut waiting: Waiting = Box::pin(async move { turns.wait(rank).await });
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    waiting
}

/// The only turn, taken.
fn busy() -> (Arc<Turns>, Turn) {
    let turns = Turns::new(1);
    let turn = turns.wait(Rank::Full).now_or_never().expect("nobody is before it");
    (turns, turn)
}

/// The places of those who wait, in the order in which they begin.
fn order(turn: Turn, waiting: Vec<Waiting>) -> Vec<usize> {
    let mut waiting: Vec<_> = waiting.into_iter().map(Some).collect();
    let mut began = Vec::new();
    let mut turn = Some(turn);
    while let Some(ended) = turn.take() {
        drop(ended);
        for (place, asked) in waiting.iter_mut().enumerate() {
            let Some(granted) = asked.as_mut().and_then(|asked| asked.now_or_never()) else {
                continue;
            };
            *asked = None;
            began.push(place);
            turn = Some(granted);
        }
    }
    began
}

#[test]
fn owed_go_before_resumed_and_those_before_full_handshakes() {
    let (turns, turn) = busy();
    let ranks = [Rank::Full, Rank::Resuming, Rank::Owed, Rank::Full, Rank::Resuming, Rank::Owed];
    let waiting = ranks.map(|rank| asks(&turns, rank)).into();
    assert_eq!(order(turn, waiting), [2, 5, 1, 4, 0, 3]);
}

#[test]
fn full_handshakes_keep_a_share() {
    let (turns, turn) = busy();
    let mut waiting: Vec<_> = (0..10).map(|_| asks(&turns, Rank::Resuming)).collect();
    waiting.extend((0..2).map(|_| asks(&turns, Rank::Full)));
    assert_eq!(order(turn, waiting), [0, 1, 2, 3, 10, 4, 5, 6, 7, 11, 8, 9]);
}

#[test]
fn who_gives_up_loses_nobodys_turn() {
    let (turns, turn) = busy();
    let given_up = asks(&turns, Rank::Owed);
    let granted = asks(&turns, Rank::Resuming);
    let last = asks(&turns, Rank::Full);
    drop(given_up);
    drop(turn);
    // It had been granted, and was dropped before it looked.
    drop(granted);
    assert_eq!(order(last.now_or_never().expect("its turn"), Vec::new()), [0; 0]);
    assert!(turns.wait(Rank::Full).now_or_never().is_some(), "all turns came back");
}
