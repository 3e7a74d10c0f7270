//! The fuzzer around one target, which `TOCSIN_FUZZ` names. `scripts/fuzz` builds and runs it.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<&fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("TOCSIN_FUZZ").unwrap_or_default();
    fuzz::target(&name).unwrap_or_else(|| {
        let names: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
        panic!("TOCSIN_FUZZ names no target; there are {}", names.join(", "))
    })
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.run)(input));
