//! The cases of the protocol for a counter of instructions; see benchmarks/src/counting.rs.

mod cases;
#[path = "../../benchmarks/src/counting.rs"]
mod counting;

fn main() {
    counting::run(cases::cases());
}
