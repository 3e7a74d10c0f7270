//! Tests of draining and of owned tasks.

use std::future::pending;
use std::io;
use std::time::Duration;

use super::{Drain, TaskError, Tasks};

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn hard_token_follows_at_the_deadline() {
    let drain = Drain::new();
    assert!(!drain.is_draining());
    drain.begin(LONG);
    assert!(drain.is_draining() && !drain.hard().is_cancelled());
    drain.hard().cancelled().await;
}

#[tokio::test(start_paused = true)]
async fn earliest_deadline_wins() {
    let drain = Drain::new();
    let start = tokio::time::sleep(LONG);
    drain.begin(2 * LONG);
    drain.begin(LONG / 2);
    tokio::select! {
        biased;
        () = start => panic!("the later deadline was kept"),
        () = drain.hard().cancelled() => {}
    }
}

#[tokio::test]
async fn child_follows_its_parent_but_not_the_reverse() {
    let parent = Drain::new();
    let (one, two) = (parent.child(), parent.child());
    one.abort();
    assert!(!parent.is_draining() && !two.is_draining());
    parent.begin(LONG);
    assert!(two.is_draining() && !two.hard().is_cancelled());
    let last = parent.last();
    assert!(!last.is_draining());
    parent.abort();
    assert!(last.is_draining() && two.hard().is_cancelled());
}

#[tokio::test]
async fn failing_task_drains_the_others_and_is_named() {
    let drain = Drain::new();
    let mut tasks = Tasks::new(drain.clone(), LONG);
    tasks.spawn("patient", async move {
        drain.soft().cancelled().await;
        Ok::<(), io::Error>(())
    });
    tasks.spawn("broken", async { Err(io::Error::other("no luck")) });
    let error = tasks.wait().await.unwrap_err();
    assert_eq!(error.to_string(), "task broken failed");
    assert!(matches!(error, TaskError::Failed { name: "broken", .. }));
}

#[tokio::test]
async fn panicking_task_is_reported_as_such() {
    let mut tasks = Tasks::new(Drain::new(), LONG);
    tasks.spawn("wild", async {
        if true {
            panic!("as the test wants it");
        }
        Ok::<(), io::Error>(())
    });
    let error = tasks.wait().await.unwrap_err();
    assert!(matches!(error, TaskError::Panicked { name: "wild", .. }), "{error:?}");
}

#[tokio::test]
async fn early_success_leaves_the_others_running() {
    let drain = Drain::new();
    let mut tasks = Tasks::new(drain.clone(), LONG);
    let soft = drain.soft().clone();
    tasks.spawn("short", async { Ok::<(), io::Error>(()) });
    tasks.spawn("long", async move {
        soft.cancelled().await;
        Ok::<(), io::Error>(())
    });
    let wait = tasks.wait();
    tokio::pin!(wait);
    tokio::select! {
        biased;
        _ = &mut wait => panic!("ended before the drain"),
        () = tokio::task::yield_now() => {}
    }
    drain.begin(LONG);
    wait.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn deaf_task_is_aborted_after_the_hard_token() {
    let drain = Drain::new();
    let mut tasks = Tasks::new(drain.clone(), LONG);
    tasks.spawn("deaf", pending::<Result<(), io::Error>>());
    drain.abort();
    tasks.wait().await.unwrap();
}
