//! The program that a counter of instructions runs, which `scripts/instructions` puts around it.
//!
//! Prints `ROUNDS NAME …`, and calls [`count_from_here`] before each case and after the last one: what
//! is counted between two calls belongs to one case. Each crate that has cases takes this file into a
//! program of its own, so that nothing of it is in any library.

use std::hint::black_box;

/// A name, and something that is done again and again.
pub(crate) type Case = (&'static str, Box<dyn FnMut()>);

/// So many that what the loop itself costs is nothing.
const ROUNDS: usize = 50;

/// Where the counter writes down what it has, and begins anew.
#[inline(never)]
fn count_from_here(place: usize) -> usize {
    black_box(place)
}

/// Does every case as often as it is counted.
#[expect(clippy::print_stdout, reason = "a program whose output is read by a script")]
pub(crate) fn run(mut cases: Vec<Case>) {
    let names: Vec<_> = cases.iter().map(|(name, _)| *name).collect();
    println!("{ROUNDS} {}", names.join(" "));
    for (_, case) in &mut cases {
        // What is done once in a process.
        case();
    }
    for (place, (_, case)) in cases.iter_mut().enumerate() {
        count_from_here(place);
        for _ in 0..ROUNDS {
            case();
        }
    }
    count_from_here(names.len());
}
