//! The time of a step, and everything of an executor that may hang in it.

use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::thread;

use protocol::action::{CollectEvidence, Lock, LockLevel};
use protocol::sealed::CaseSecret;

use super::*;
use crate::execute::Executor as _;
use crate::execute::fixtures::{Sandbox, task};
use crate::execute::tool::Tool;
use crate::execute::{collect, lock};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn wait_takes_no_longer_than_what_is_left_of_its_step() {
    let (clock, hand) = Clock::manual();
    let course = Course::by(clock);
    assert_eq!(course.within(SECOND * 9), SECOND * 9, "nothing was allowed, so nothing is over");
    course.allow(Some(SECOND * 10));
    assert_eq!(course.within(SECOND * 9), SECOND * 9);
    hand.advance(SECOND * 6);
    assert_eq!(course.within(SECOND * 9), SECOND * 4);
    assert_eq!(course.check("apply"), Ok(()));
    hand.advance(SECOND * 4);
    assert_eq!(course.within(SECOND * 9), Duration::ZERO);
    let late = course.check("apply").unwrap_err();
    assert_eq!((late.kind, &*late.stage), (FailureKind::Timeout, "apply"));
    // The next step has its own time, or all of it.
    course.allow(Some(SECOND));
    assert_eq!(course.within(SECOND * 9), SECOND);
    course.allow(None);
    assert_eq!(course.within(SECOND * 9), SECOND * 9);
}

#[test]
fn looking_ends_with_what_is_looked_for_or_with_the_time() {
    let (clock, hand) = Clock::manual();
    let course = Course::by(clock);
    let mut looks = 0;
    let mut third = || {
        looks += 1;
        looks == 3
    };
    assert!(course.until(SECOND, &mut third));
    looks = 0;
    let found = course.until(SECOND, || {
        looks += 1;
        hand.advance(SECOND / 2);
        false
    });
    assert!(!found);
    assert_eq!(looks, 2, "the whole time, and not a look more");
    // Who has no time left looks once all the same.
    course.allow(Some(Duration::ZERO));
    assert!(course.until(SECOND, || true));
    assert!(!course.until(SECOND, || false));
}

#[test]
fn step_that_was_given_up_waits_no_more_and_one_whose_agent_stops_goes_on() {
    let course = Course::default();
    let (looked, looks) = sync_channel(0);
    let waiting = {
        let course = course.clone();
        // Longer than any test runs.
        thread::spawn(move || course.until(SECOND * 3600, || looked.send(()).is_err()))
    };
    looks.recv().unwrap();
    course.leave();
    // It goes on looking: the agent that stops waits for its steps.
    looks.recv().unwrap();
    looks.recv().unwrap();
    course.give_up();
    while looks.recv().is_ok() {}
    assert!(!waiting.join().unwrap());
    assert_eq!(course.within(SECOND), Duration::ZERO);
}

/// What hangs, and what then is said about it.
type Hangs = fn(&Sandbox) -> (FailureKind, String);

#[test]
fn whatever_hangs_is_over_with_the_time_of_its_step_and_says_so() {
    let table: [(&str, Hangs); 4] = [
        ("console", |sandbox| {
            // It would end by itself before its own limit.
            let slow = Tool::at("/bin/sleep").args(["9"]).during(&sandbox.host.course);
            said(slow.run("console").unwrap_err())
        }),
        ("logind", |sandbox| {
            let socket = sandbox.host.state_dir.join("bus");
            let _silent = UnixListener::bind(&socket).unwrap();
            let mut host = sandbox.host.clone();
            host.dbus_address = Some(format!("unix:path={}", socket.display()));
            let (level, message) = (LockLevel::Screen, None);
            let lock = lock::LockExecutor::new(Lock { level, message });
            said(lock.plan(&host, &task(1)).unwrap_err())
        }),
        ("processes", |sandbox| {
            let mut task = task(1);
            task.course = sandbox.host.course.clone();
            let modules = sandbox.write("/proc/modules", "");
            std::fs::remove_file(&modules).unwrap();
            assert!(Command::new("mkfifo").arg(&modules).status().unwrap().success());
            let case_key = CaseSecret::new([9; 32]).public().unwrap();
            let collect =
                collect::CollectEvidence::new(CollectEvidence { case_key, sources: None });
            let evidence = collect.prove(&sandbox.host, &task).unwrap();
            let sections = evidence.get("sections").unwrap().as_array().unwrap();
            let section = sections.iter().find(|section| section["name"] == "modules").unwrap();
            assert_eq!(section["timed_out"], true);
            // The rest is there, so this is no failure.
            (FailureKind::Timeout, "processes".to_owned())
        }),
        ("uphold", |sandbox| said(sandbox.host.course.check("uphold").unwrap_err())),
    ];
    for (stage, hangs) in table {
        let sandbox = Sandbox::new();
        sandbox.host.course.allow(Some(Duration::ZERO));
        assert_eq!(hangs(&sandbox), (FailureKind::Timeout, stage.to_owned()));
    }
}

fn said(failure: Failure) -> (FailureKind, String) {
    (failure.kind, failure.stage)
}
