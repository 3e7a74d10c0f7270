//! Tests of noticing that the machine slept.

use super::*;

#[test]
fn sleep_is_what_one_clock_counts_and_the_other_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let uptime = folder.path().join("uptime");
    let (clock, hand) = Clock::manual();
    let since_boot = |secs: f64| std::fs::write(&uptime, format!("{secs:.2} 12.00\n")).unwrap();
    since_boot(1000.0);
    let mut watch = Watch::new(clock, uptime.clone());
    // Awake all the time.
    hand.advance(Duration::from_secs(30));
    since_boot(1030.4);
    assert_eq!(watch.look(), None);
    // Asleep for ten minutes, of which nobody's timer knows.
    hand.advance(Duration::from_secs(5));
    since_boot(1635.4);
    assert_eq!(watch.look(), Some(Duration::from_secs(600)));
    assert_eq!(watch.look(), None, "once");
    // Where the kernel says nothing, nothing is noticed.
    std::fs::remove_file(&uptime).unwrap();
    assert_eq!(watch.look(), None);
    since_boot(9000.0);
    assert_eq!(watch.look(), None);
}

#[test]
fn kernel_of_this_machine_says_it() {
    let watch = Watch::new(Clock::system(), PathBuf::from("/proc/uptime"));
    assert!(watch.seen.is_some());
}
