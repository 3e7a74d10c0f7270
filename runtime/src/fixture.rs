//! What tests of several crates put between their parts.

pub use self::relay::{Far, Link, Relay, Shape};

mod relay;
