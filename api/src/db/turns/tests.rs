//! In which order turns are given.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use super::{IN_A_ROW, Rank, Turn, Turns};

type Waiting = Pin<Box<dyn Future<Output = Turn>>>;

/// Asks for a turn that is not to be had yet.
async fn ask(turns: &Turns, rank: Rank) -> Waiting {
    let turns = turns.clone();
    let mut waiting: Waiting = Box::pin(async move { turns.take(rank).await });
    assert!(has(&mut waiting).await.is_none(), "the turn is somebody's");
    waiting
}

/// The turn, if it is there already.
async fn has(waiting: &mut Waiting) -> Option<Turn> {
    let look = poll_fn(|context| match waiting.as_mut().poll(context) {
        Poll::Ready(turn) => Poll::Ready(Some(turn)),
        Poll::Pending => Poll::Ready(None),
    });
    look.await
}

#[tokio::test]
async fn who_comes_first_goes_before_those_who_asked_earlier() {
    let turns = Turns::default();
    let held = turns.take(Rank::InOrder).await;
    let mut early = ask(&turns, Rank::InOrder).await;
    let mut late = ask(&turns, Rank::InOrder).await;
    let mut urgent = ask(&turns, Rank::First).await;
    drop(held);
    assert!(has(&mut early).await.is_none());
    let held = has(&mut urgent).await.expect("the urgent one is next");
    drop(held);
    assert!(has(&mut late).await.is_none());
    let held = has(&mut early).await.expect("then in the order of asking");
    drop(held);
    assert!(has(&mut late).await.is_some());
}

#[tokio::test]
async fn others_get_a_turn_however_many_are_urgent() {
    let turns = Turns::default();
    let mut held = turns.take(Rank::InOrder).await;
    let mut other = ask(&turns, Rank::InOrder).await;
    for _ in 0..IN_A_ROW {
        let mut urgent = ask(&turns, Rank::First).await;
        drop(held);
        assert!(has(&mut other).await.is_none());
        held = has(&mut urgent).await.expect("the urgent one is next");
    }
    let mut urgent = ask(&turns, Rank::First).await;
    drop(held);
    let held = has(&mut other).await.expect("it waited long enough");
    drop(held);
    assert!(has(&mut urgent).await.is_some());
}

#[tokio::test]
async fn turn_of_somebody_who_went_away_is_passed_on() {
    let turns = Turns::default();
    let held = turns.take(Rank::InOrder).await;
    let gone = ask(&turns, Rank::First).await;
    let told = ask(&turns, Rank::First).await;
    let mut stays = ask(&turns, Rank::InOrder).await;
    drop(gone);
    // This one has got it and does not know: it goes away with the turn.
    drop(held);
    drop(told);
    let held = has(&mut stays).await.expect("whoever is still there has it");
    drop(held);
    drop(turns.take(Rank::InOrder).await);
}
