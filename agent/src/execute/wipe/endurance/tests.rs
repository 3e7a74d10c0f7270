//! The power goes when nobody speaks any more, and stays when it is told to.

use super::*;
use crate::execute::fixtures::Sandbox;
use crate::host::Power;

fn pressed(host: &Host) -> usize {
    let Power::Recorded(path) = &host.power else { unreachable!("a sandbox records") };
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[test]
fn silence_ends_in_a_power_off() {
    let sandbox = Sandbox::new();
    let timer = Timer::arm(sandbox.host.clone(), Duration::from_millis(1));
    timer.feed();
    timer.thread.join().unwrap();
    assert_eq!(pressed(&sandbox.host), 1);
}

#[test]
fn timer_outlives_whoever_armed_it() {
    let sandbox = Sandbox::new();
    let Timer { words, thread } = Timer::arm(sandbox.host.clone(), Duration::from_millis(1));
    drop(words);
    thread.join().unwrap();
    assert_eq!(pressed(&sandbox.host), 1);
}

#[test]
fn disarmed_timer_leaves_the_power_on() {
    let sandbox = Sandbox::new();
    let endurance = Endurance::begin(&sandbox.host, Some(PATIENCE));
    endurance.feed();
    endurance.give_up();
    assert_eq!(pressed(&sandbox.host), 0);
}

#[test]
fn agent_is_the_last_that_memory_pressure_takes() {
    let sandbox = Sandbox::new();
    let score = sandbox.write("/proc/self/oom_score_adj", "0");
    drop(Endurance::begin(&sandbox.host, None));
    assert_eq!(std::fs::read_to_string(score).unwrap(), "-1000");
}
