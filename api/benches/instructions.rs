//! What an order costs the control plane, for a counter of instructions, which `scripts/instructions`
//! puts around it.
//!
//! Prints `ROUNDS NAME …`, and calls [`count_from_here`] before each part and after the last one: what is
//! counted between two calls belongs to one part. What is named `-` is the actors' own work.

use std::hint::black_box;

use actors::Stage;

mod actors;

/// Orders of each part.
const ROUNDS: usize = 64;
/// Orders that come together.
const TOGETHER: usize = 16;

/// Where the counter writes down what it has, and begins anew.
#[inline(never)]
fn count_from_here(place: usize) -> usize {
    black_box(place)
}

#[expect(clippy::print_stdout, reason = "a program whose output is read by a script")]
fn main() {
    println!(
        "{ROUNDS} order_given_alone - order_reported_alone - order_given_of_16 - order_reported_of_16"
    );
    // Time goes on when everybody waits, and no otherwise: what is written together does not depend on the
    // machine.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("there is a runtime").block_on(async {
        let mut stage = Stage::set().await;
        let mut place = 0;
        let mut next = || {
            count_from_here(place);
            place += 1;
        };
        // What is done once in a process, and once for each statement.
        for size in [1, TOGETHER] {
            stage.warm_up(ROUNDS, size).await;
        }
        for size in [1, TOGETHER] {
            next();
            let given = stage.give(ROUNDS, size).await;
            next();
            let receipts = stage.sign(&given);
            next();
            stage.report(receipts, size).await;
            if size == 1 {
                next();
            }
        }
        next();
    });
}
