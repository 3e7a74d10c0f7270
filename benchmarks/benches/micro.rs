//! Every case of `protocol/benches/cases.rs` and `push-hub/benches/cases.rs`, timed by criterion, and
//! what of a registry only many rounds at once can show.
//!
//! The same cases are counted in instructions by `scripts/instructions`: there a difference between
//! two commits is seen, here what one machine takes for each.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};

#[path = "../../push-hub/benches/cases.rs"]
mod of_hub;
#[path = "../../protocol/benches/cases.rs"]
mod of_protocol;

/// Sessions that come or go between two looks at the clock: a hub of 10,000 has up to a tenth more.
const BATCH: u64 = 1_000;

fn every_case(criterion: &mut Criterion) {
    for (name, mut case) in of_protocol::cases() {
        criterion.bench_function(name, |bencher| bencher.iter(&mut case));
    }
    for (name, mut case) in of_hub::cases() {
        criterion.bench_function(name, |bencher| bencher.iter(&mut case));
    }
}

/// Sessions beyond the 10,000 come, and go again; only one of the two is timed.
fn registry(criterion: &mut Criterion) {
    let sessions = of_hub::full();
    for (name, is_coming) in [("registry_insert", true), ("registry_remove", false)] {
        criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let (mut left, mut took) = (rounds, Duration::ZERO);
                while left > 0 {
                    let batch = left.min(BATCH);
                    let numbers = (of_hub::SESSIONS..).take(usize::try_from(batch).unwrap_or(1));
                    let began = Instant::now();
                    let came: Vec<_> =
                        numbers.map(|number| of_hub::register(&sessions, number)).collect();
                    let between = Instant::now();
                    let gone = came.iter().filter(|session| sessions.unregister(session)).count();
                    let ended = Instant::now();
                    assert_eq!(gone, came.len());
                    took += if is_coming { between - began } else { ended - between };
                    left -= batch;
                }
                took
            });
        });
    }
}

criterion_group!(benches, every_case, registry);
criterion_main!(benches);
