//! The path of a command in a simulated world: store, bus, hub, connection and agent, with every
//! fault that each of them may have, compared with what was promised.
//!
//! A run is chaos, then healing, then the promises are required. The same seed is the same run;
//! a failure names its seed. Planted bugs prove that the simulation can see. `TOCSIN_SEEDS` asks
//! for a longer run.

mod agent;
mod random;
mod store;
mod world;

use agent::Bug;
use world::World;

/// Runs one seed to its end; `Err` says which promise broke.
fn run(seed: u64, bug: Option<Bug>) -> Result<(), String> {
    let mut world = World::new(seed, bug);
    for _ in 0..400 {
        world.chaos_step();
        world.check_always()?;
    }
    world.heal()?;
    world.check_promises()
}

#[test]
fn every_command_ends_exactly_once_and_in_order_whatever_fails() {
    let seeds =
        std::env::var("TOCSIN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    for seed in 0..seeds {
        if let Err(broken) = run(seed, None) {
            panic!("seed {seed}: {broken}");
        }
    }
}

#[test]
fn the_simulation_sees_planted_bugs() {
    for bug in Bug::ALL {
        let found = (0..10_000).find(|seed| run(*seed, Some(bug)).is_err());
        assert!(found.is_some(), "{bug:?} was not found in 10,000 seeds");
    }
}
