//! Every input that is kept keeps every promise, and the corpus holds every seed.
//!
//! A run with `TOCSIN_WRITE_SEEDS=1` writes the seeds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz::{TARGETS, Target};
use protocol::planted::{self, Bug};

/// Inputs of one target.
const MOST_INPUTS: usize = 200;
/// Bytes of all inputs.
const MOST_BYTES: u64 = 1024 * 1024;

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

fn replay(name: &str) {
    let target = fuzz::target(name).expect("the target exists");
    let mut inputs = 0;
    for entry in fs::read_dir(folder(target)).expect("the target has a corpus") {
        let path = entry.expect("the folder can be listed").path();
        let input = fs::read(&path).expect("the input can be read");
        let kept = std::panic::catch_unwind(|| (target.run)(&input));
        assert!(kept.is_ok(), "{} breaks a promise", path.display());
        inputs += 1;
    }
    assert!(inputs >= (target.seeds)().len(), "{inputs} inputs");
}

#[test]
fn frames_keep_their_promises() {
    replay("frames");
}

#[test]
fn hostile_envelopes_without_a_key_are_never_believed() {
    replay("envelopes");
}

#[test]
fn hostile_claims_under_a_stolen_command_key_destroy_nothing() {
    replay("claims");
}

#[test]
fn claims_show_the_mistakes_that_are_planted() {
    let claims = fuzz::target("claims").unwrap();
    for (bug, seed) in [(Bug::ApprovalsPerKey, "wipe_of_one"), (Bug::SkipExpiry, "over")] {
        let (_, input) = (claims.seeds)().into_iter().find(|(name, _)| *name == seed).unwrap();
        planted::plant(Some(bug));
        let shown = std::panic::catch_unwind(|| (claims.run)(&input));
        planted::plant(None);
        assert!(shown.is_err(), "{bug:?} is not seen");
    }
}

#[test]
fn hostile_trust_roots_are_never_believed() {
    replay("trust_roots");
}

#[test]
fn hostile_reports_prove_nothing() {
    replay("reports");
}

#[test]
fn journals_survive_whatever_stands_in_them() {
    replay("journal");
}

#[test]
fn hostile_enrollments_get_no_other_name() {
    replay("enrollment");
}

#[test]
fn hostile_collections_are_unpacked_into_numbered_files_or_not_at_all() {
    replay("collections");
}

#[test]
fn hostile_requests_are_answered_as_their_own_fault() {
    replay("http");
}

#[test]
fn corpus_holds_every_seed_and_nothing_without_a_target() {
    let write = std::env::var_os("TOCSIN_WRITE_SEEDS").is_some();
    for target in &TARGETS {
        for (name, seed) in (target.seeds)() {
            let path = folder(target).join(name);
            if write {
                fs::create_dir_all(folder(target)).unwrap();
                fs::write(&path, &seed).unwrap();
            }
            let kept = fs::read(&path).unwrap_or_default();
            assert!(kept == seed, "{}: write it with TOCSIN_WRITE_SEEDS=1", path.display());
        }
    }
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap();
    let folders: BTreeSet<_> =
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let names: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(folders, names);
    // Whoever adds a target has it replayed.
    let this = include_str!("corpus.rs");
    let is_replayed = |name: &&String| this.contains(&format!("replay(\"{name}\")"));
    assert_eq!(names.iter().find(|name| !is_replayed(name)), None);
}

/// What a fuzzer has found is kept as far as it covers more, and no further: every run replays it.
#[test]
fn corpus_stays_within_its_bounds() {
    let mut bytes = 0;
    for target in &TARGETS {
        let entries: Vec<_> = fs::read_dir(folder(target)).unwrap().map(Result::unwrap).collect();
        assert!(entries.len() <= MOST_INPUTS, "{}: {} inputs", target.name, entries.len());
        bytes += entries.iter().map(|entry| entry.metadata().unwrap().len()).sum::<u64>();
    }
    assert!(bytes <= MOST_BYTES, "{bytes} bytes");
}
