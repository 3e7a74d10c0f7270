//! Tests of the clocks and the boot identity.

use std::path::Path;
use std::time::Duration;

use super::{Clock, boot_id, is_uuid};
use crate::entropy::Entropy;

#[test]
fn manual_clock_moves_only_by_hand() {
    let (clock, hand) = Clock::manual();
    let start = clock.now();
    assert_eq!(clock.now(), start);
    hand.advance(Duration::from_millis(1500));
    assert_eq!(clock.clone().now() - start, Duration::from_millis(1500));
    assert_eq!((clock.unix_millis(), clock.unix_secs()), (1500, 1));
}

#[test]
fn wall_clock_jump_leaves_monotonic_time_alone() {
    let (clock, hand) = Clock::manual();
    let start = clock.now();
    hand.set_unix_millis(1_700_000_000_000);
    assert_eq!(clock.now(), start);
    assert_eq!(clock.unix_secs(), 1_700_000_000);
    for _ in 0..1000 {
        hand.advance(Duration::from_micros(500));
    }
    assert_eq!(clock.unix_millis(), 1_700_000_000_500);
}

#[tokio::test(start_paused = true)]
async fn clock_of_a_runtime_goes_with_its_timers() {
    let clock = Clock::of_runtime(1_700_000_000_000);
    let start = clock.now();
    assert_eq!(clock.now(), start);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(clock.clone().now() - start, Duration::from_secs(3600));
    assert_eq!(clock.unix_millis(), 1_700_003_600_000);
}

#[test]
fn system_clock_is_past_the_year_2020() {
    assert!(Clock::system().unix_secs() > 1_577_836_800);
}

#[test]
fn boot_id_is_the_files_when_well_formed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("boot_id");
    std::fs::write(&path, "0C60A3F5-5b0e-4c3a-9a47-6d6f0a6e8f11\n").unwrap();
    let id = boot_id(&path, &Entropy::seeded(1));
    assert_eq!(id, "0c60a3f5-5b0e-4c3a-9a47-6d6f0a6e8f11");
}

#[test]
fn boot_id_falls_back_to_a_random_uuid() {
    let missing = Path::new("/nonexistent/boot_id");
    let (one, two) = (Entropy::seeded(1), Entropy::seeded(2));
    let id = boot_id(missing, &one);
    assert!(is_uuid(&id), "{id}");
    assert_eq!(&id[14..15], "4");
    assert_ne!(id, boot_id(missing, &two));
}
