//! The whole system in a simulated world: several hubs and devices, the broker, the control plane,
//! connections, disks and clocks, with every fault that each of them may have.
//!
//! A run is chaos, then healing, then calm, and what was promised is required: everything ends and
//! is explained, nothing twice, in order, presence is true, nobody waits. The same seed is the same
//! run; a failure names its seed. Planted bugs prove that the simulation can see. docs/adr/0019
//! says what is real here and what the simulation cannot see.

mod api;
mod bug;
mod bus;
mod device;
mod disk;
mod hub;
mod keeper;
mod ladder;
mod link;
mod run;
mod scene;
#[path = "../support/seeds.rs"]
mod seeds;
mod store;
mod world;

use bug::Bug;
use run::{Ran, run};
use seeds::{first_failure, number};

/// Seeds of one run of the tests.
const SEEDS: u64 = 2_000;
/// Seeds within which each planted bug must show.
const ENOUGH: u64 = 10_000;

#[test]
fn every_promise_holds_whatever_fails() {
    if let Some(seed) = number("TOCSIN_SEED") {
        let Ran { verdict, trace: (digest, lines) } = run(seed, None, true);
        println!("{}\ndigest {digest:016x}: {verdict:?}", lines.join("\n"));
        return assert_eq!(verdict, Ok(()), "seed={seed}");
    }
    let seeds = number("TOCSIN_SEEDS").unwrap_or(SEEDS);
    if let Some((seed, broken)) = first_failure(seeds, |seed| run(seed, None, false).verdict) {
        panic!(
            "seed={seed}: {broken}\nTOCSIN_SEED={seed} cargo test --package tocsin --test \
             simulation every_promise -- --nocapture"
        );
    }
}

#[test]
fn same_seed_is_the_same_run_and_others_differ() {
    let digests: Vec<_> = (0..20).map(|seed| run(seed, None, false).trace.0).collect();
    let again: Vec<_> = (0..20).map(|seed| run(seed, None, true).trace.0).collect();
    assert_eq!(digests, again);
    let mut distinct = digests;
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 20);
}

macro_rules! planted {
    ($($name:ident: $bug:ident;)*) => {
        $(
            #[test]
            fn $name() {
                let judge = |seed| run(seed, Some(Bug::$bug), false).verdict;
                let found = first_failure(ENOUGH, judge);
                let (seed, broken) = found.expect("a planted bug shows within 10,000 seeds");
                println!("{:?}: found by seed {seed}: {broken}", Bug::$bug);
            }
        )*
    };
}

planted! {
    planted_no_sync_is_found: NoSync;
    planted_ack_before_journal_is_found: AckBeforeJournal;
    planted_skipped_expiry_is_found: SkipExpiry;
    planted_missing_fence_is_found: NoFencing;
    planted_unconditional_unregister_is_found: UnconditionalUnregister;
    planted_jitter_before_cap_is_found: JitterBeforeCap;
    planted_resumption_without_revocation_check_is_found: ResumeWithoutRevocationCheck;
    planted_backlog_before_register_is_found: BacklogBeforeRegister;
    planted_approvals_per_key_are_found: ApprovalsPerKey;
    planted_lane_starvation_is_found: LaneStarvation;
    planted_confirmation_before_commit_is_found: ConfirmBeforeCommit;
    planted_lease_without_compare_is_found: LeaseWithoutCompare;
    planted_missing_intent_is_found: NoIntent;
    planted_missing_probe_is_found: NoProbe;
    planted_ignored_gap_is_found: IgnoreGap;
    planted_forgetting_on_send_is_found: ForgetOnSend;
}
