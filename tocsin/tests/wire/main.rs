//! The whole system over real bytes in a simulated network: real hubs and agents, with their TLS,
//! WebSockets and long-polls, while links are cut, held, slow and lossy and hosts come and go.
//!
//! A run is chaos, healing, calm and a device that goes silent, and what was promised is required.
//! The same seed is the same run; a failure names its seed. Planted bugs prove that the simulation
//! can see. docs/adr/0020 says what is real here and what it cannot see.
//!
//! `hostile` is apart: there the sockets are real, and the broker is an attacker's.

mod bus;
mod fleet;
mod hostile;
mod hosts;
mod life;
mod net;
mod plane;
mod run;
mod scene;
#[path = "../support/seeds.rs"]
mod seeds;
mod store;
mod stranger;
mod world;

use protocol::planted::Bug;
use run::{Ran, run};
use seeds::{first_failure, number};

/// Seeds of one run of the tests.
const SEEDS: u64 = 16;
/// Seeds within which each planted bug must show.
const ENOUGH: u64 = 100;

#[test]
fn every_device_is_served_whatever_the_network_does() {
    if let Some(seed) = number("TOCSIN_SEED") {
        let Ran { verdict, trace: (digest, lines) } = run(seed, None, true);
        println!("{}\ndigest {digest:016x}: {verdict:?}", lines.join("\n"));
        return assert_eq!(verdict, Ok(()), "seed={seed}");
    }
    let seeds = number("TOCSIN_SEEDS").unwrap_or(SEEDS);
    if let Some((seed, broken)) = first_failure(seeds, |seed| run(seed, None, false).verdict) {
        panic!(
            "seed={seed}: {broken}\nTOCSIN_SEED={seed} cargo test --package tocsin --test wire \
             every_device -- --nocapture"
        );
    }
}

#[test]
fn same_seed_is_the_same_trace_and_others_differ() {
    let one_by_one: Vec<_> = (0..3).map(|seed| run(seed, None, true).trace).collect();
    // What else goes on in the process makes no difference.
    let side_by_side: Vec<_> = std::thread::scope(|scope| {
        let runs = [0, 1, 2].map(|seed| scope.spawn(move || run(seed, None, true).trace));
        runs.map(|run| run.join().expect("a run does not panic")).into()
    });
    for ((digest, lines), (other_digest, other_lines)) in one_by_one.iter().zip(&side_by_side) {
        let differs = lines.iter().zip(other_lines).find(|(one, other)| one != other);
        assert_eq!(differs, None, "the first line that differs");
        assert_eq!(digest, other_digest);
    }
    assert_ne!(one_by_one[0].0, one_by_one[1].0);
    assert_ne!(one_by_one[1].0, one_by_one[2].0);
}

macro_rules! planted {
    ($($name:ident: $bug:ident;)*) => {
        $(
            #[test]
            fn $name() {
                let judge = |seed| run(seed, Some(Bug::$bug), false).verdict;
                let found = first_failure(ENOUGH, judge);
                let (seed, broken) = found.expect("a planted bug shows within 100 seeds");
                println!("{:?}: found by seed {seed}: {broken}", Bug::$bug);
            }
        )*
    };
}

planted! {
    planted_endless_handshake_is_found: EndlessHandshake;
    planted_endless_write_is_found: EndlessWrite;
    planted_endless_close_is_found: EndlessClose;
    planted_missing_flush_is_found: NoFlush;
    planted_resumption_without_revocation_check_is_found: ResumedUnchecked;
    planted_endless_dial_is_found: EndlessDial;
}
