//! Tests of where blocking work runs.

use std::thread;

use tokio::task::JoinSet;

use super::Blocking;

#[tokio::test]
async fn threads_are_others_and_inline_is_the_same() {
    let here = thread::current().id();
    for (blocking, is_here) in [(Blocking::Threads, false), (Blocking::Inline, true)] {
        let there = blocking.run(|| thread::current().id()).await.unwrap();
        assert_eq!(there == here, is_here, "{blocking:?}");
        let mut set = JoinSet::new();
        blocking.spawn_in(&mut set, || thread::current().id());
        let there = set.join_next().await.unwrap().unwrap();
        assert_eq!(there == here, is_here, "{blocking:?}");
    }
}

#[tokio::test]
async fn panic_of_the_work_is_an_error_wherever_it_runs() {
    for blocking in [Blocking::Threads, Blocking::Inline] {
        let outcome = blocking.run(|| panic!("the work fails")).await;
        assert!(outcome.is_err_and(|error| error.is_panic()), "{blocking:?}");
    }
}
