# The few commands of daily work. `just check` is what continuous integration runs.

default:
    @just --list

# Format, lints, documentation, tests: everything a change must keep true.
check:
    scripts/test

# Rewrite every file in the one format.
fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Run the tests, or those whose name contains a text.
test *filter:
    cargo test --workspace {{ filter }}

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --open

# A whole fleet in one process, on this machine, with simulated executors.
demo *args:
    cargo run --package tocsin -- demo {{ args }}

# So many seeds of the simulation: hours, if you like. A failure names its seed.
simulate seeds="20000":
    TOCSIN_SEEDS={{ seeds }} cargo test --release --package tocsin --test simulation every_promise -- --nocapture

# The same with real hubs and agents over real bytes, in a simulated network.
simulate-wire seeds="2000":
    TOCSIN_SEEDS={{ seeds }} cargo test --release --package tocsin --test wire every_device -- --nocapture

# Faults alone and in pairs while orders are given, on real Redis and PostgreSQL, from a seed.
chaos rounds="20" seed="1":
    TOCSIN_CHAOS_SEED={{ seed }} TOCSIN_CHAOS_ROUNDS={{ rounds }} \
        cargo test --package tocsin --test cluster -- --nocapture chaos_

# Look for inputs that break a promise: so many seconds for each target, or for those named.
fuzz seconds="600" *targets:
    scripts/fuzz {{ seconds }} {{ targets }}

# Count the instructions of frames, signatures and registry, beside those of the parent commit.
instructions *args:
    scripts/instructions {{ args }}

# Time frames, signatures, registry and dispatch with criterion; or those cases whose name contains a text.
bench *args:
    scripts/bench {{ args }}

# What sessions and commands cost by their number, and what follows for a million devices: about a quarter of an hour
# on a machine that does nothing else.
scaling *args:
    cargo build --release --workspace
    "$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')"/release/tocsin-loadtest \
        scaling --json scaling.json --html scaling.html {{ args }}
