//! Nothing: the micro-benchmarks are in `benches/`, and no product depends on this crate.
