//! Reading `/proc`, of made-up processes and of this one.

use super::*;

#[test]
fn a_name_with_parentheses_does_not_shift_the_fields() {
    let stat = "42 (a) R (b) S 1 42 42 0 -1 4194560 1 2 3 4 70 30 0 0 20 0 5 0 100 1 2";
    assert_eq!(ticks(stat), Some(100));
    assert_eq!(ticks("42 nothing"), None);
}

#[test]
fn pss_is_the_line_of_that_name_only() {
    let rollup = "00-ff ---p 0 0 0 [rollup]\nRss: 9 kB\nPss:      1234 kB\nPss_Anon: 5 kB\n";
    assert_eq!(pss(rollup), Some(1234));
    assert_eq!(pss("Pss_Anon: 5 kB\n"), None);
}

#[test]
fn this_process_can_be_looked_at() {
    let usage = usage(std::process::id()).expect("our own files are ours to read");
    assert!(usage.pss_kib > 0);
}
