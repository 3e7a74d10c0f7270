//! What a stranger can send to Tocsin, as functions of bytes that must never panic or be fooled.
//!
//! Owns the targets and what each holds against its input; knows no fuzzer. The corpus is replayed
//! as an ordinary test, and `scripts/fuzz` looks for more with coverage as its guide. Must not be
//! used by anything that is shipped.
#![warn(missing_docs)]

mod collections;
mod enrollment;
mod envelopes;
mod frames;
mod http;
mod journal;
mod reports;
mod trust_roots;

/// One kind of input, and what must hold of it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is its folder in the corpus.
    pub name: &'static str,
    /// Takes one input. Panics when a promise is broken.
    pub run: fn(&[u8]),
    /// The inputs to begin with, made by our own code: the same each time.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

/// Every target.
pub const TARGETS: [Target; 9] = [
    Target { name: "frames", run: frames::run, seeds: frames::seeds },
    Target { name: "envelopes", run: envelopes::run, seeds: envelopes::seeds },
    Target { name: "claims", run: envelopes::run_claims, seeds: envelopes::claims_seeds },
    Target { name: "trust_roots", run: trust_roots::run, seeds: trust_roots::seeds },
    Target { name: "reports", run: reports::run, seeds: reports::seeds },
    Target { name: "journal", run: journal::run, seeds: journal::seeds },
    Target { name: "enrollment", run: enrollment::run, seeds: enrollment::seeds },
    Target { name: "collections", run: collections::run, seeds: collections::seeds },
    Target { name: "http", run: http::run, seeds: http::seeds },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The JSON of a value that cannot fail to have one.
fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("what the fixture makes has a JSON form")
}
