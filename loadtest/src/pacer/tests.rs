//! Permits come when they should, and end when nobody wants them.

use super::*;

#[tokio::test]
async fn permits_come_no_earlier_than_their_moments() {
    let clock = Clock::system();
    let schedule = Schedule::new(clock.now(), "1000/s".parse().expect("a rate"));
    let pacer = Pacer::start(schedule, 20, clock.clone());
    for index in 0..20 {
        assert_eq!(pacer.next().await, Some(index));
        assert!(clock.now() >= schedule.at(index), "{index} was early");
    }
}

#[tokio::test]
async fn everybody_who_waits_learns_of_the_end() {
    let clock = Clock::system();
    let schedule = Schedule::new(clock.now(), "1000/s".parse().expect("a rate"));
    let pacer = Pacer::start(schedule, 1, clock);
    let taken = tokio::join!(pacer.next(), pacer.next(), pacer.next());
    assert_eq!(taken, (Some(0), None, None));
    assert_eq!(pacer.next().await, None);
}

#[tokio::test]
async fn thread_ends_with_its_pacer() {
    let clock = Clock::system();
    let schedule = Schedule::new(clock.now(), "1/m".parse().expect("a rate"));
    let pacer = Pacer::start(schedule, 1000, clock);
    pacer.next().await;
    let permits = Arc::downgrade(&pacer.permits);
    drop(pacer);
    // The thread holds the other reference; without its end this would never be.
    while permits.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}
