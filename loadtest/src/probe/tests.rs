//! Reading `/proc`, of made-up processes and of this one.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::*;

#[test]
fn a_name_with_parentheses_does_not_shift_the_fields() {
    let stat = "42 (a) R (b) S 1 42 42 0 -1 4194560 1 2 3 4 70 30 4 1 20 0 5 0 100 1 2";
    assert_eq!(ticks(stat), Some([100, 5]));
    assert_eq!(ticks("42 nothing"), None);
}

#[test]
fn pss_is_the_line_of_that_name_only() {
    let rollup = "00-ff ---p 0 0 0 [rollup]\nRss: 9 kB\nPss:      1234 kB\nPss_Anon: 5 kB\n";
    assert_eq!(pss(rollup), Some(1234));
    assert_eq!(pss("Pss_Anon: 5 kB\n"), None);
}

#[test]
fn what_was_written_is_not_what_was_thrown_away() {
    let io = "rchar: 1\nwchar: 9000\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n";
    assert_eq!(written(io), Some(8));
    assert_eq!(written("wchar: 9000\n"), None);
}

#[test]
fn buffers_of_sockets_are_counted_in_pages() {
    let text = "sockets: used 9\nTCP: inuse 7 orphan 0 tw 3 alloc 8 mem 5\nUDP: inuse 1 mem 2\n";
    let kernel = sockets(text, 4).expect("as the kernel writes it");
    assert_eq!(kernel, Kernel { socket_kib: 20, sockets: 7, time_wait: 3, slab_kib: 0 });
    assert_eq!(sockets("UDP: inuse 1 mem 2\n", 4), None);
}

#[test]
fn objects_of_the_kernel_are_the_line_of_all_slabs() {
    assert_eq!(slab("Cached: 9 kB\nSlab:      123456 kB\nSReclaimable: 1 kB\n"), Some(123_456));
    assert!(kernel().slab_kib > 0, "this kernel tells");
}

#[test]
fn this_process_can_be_looked_at() {
    let usage = alone(std::process::id()).expect("it runs");
    assert!(usage.pss_kib > Some(0) && usage.cpu.is_some());
    assert!(processors() > 0 && !kernel_version().is_empty());
}

#[test]
fn what_a_process_started_counts_with_it() {
    // Far more than this process changes by itself meanwhile.
    let (kib, program) = (64 * 1024, "x = b'x' * (64 << 20); print(); input()");
    let mut child = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
    said.read_line(&mut String::new()).expect("it has what it needs");
    let (own, with_child) = (alone(std::process::id()), family(std::process::id()));
    let is_known = children(std::process::id()).contains(&child.id());
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    assert!(is_known, "the child is found");
    let (own, with_child) = (own.expect("it runs"), with_child.expect("it runs"));
    let least = own.pss_kib.expect("our own is ours to read") + kib / 2;
    assert!(with_child.pss_kib > Some(least), "{with_child:?} is more than {own:?}");
}

/// Memory and disks of a hub are root's to read, its processor time is everybody's: whoever measures
/// without being root must get the one, and not a nothing of the others.
#[test]
fn what_may_not_be_read_is_unknown_and_takes_nothing_else_with_it() {
    let unknown = Usage { pss_kib: None, cpu: Some(Duration::from_millis(30)), written_kib: None };
    let known =
        Usage { pss_kib: Some(9), cpu: Some(Duration::from_millis(10)), written_kib: Some(1) };
    let both = Usage { cpu: Some(Duration::from_millis(40)), ..Usage::default() };
    assert_eq!(known.plus(unknown), both);
    assert_eq!(known.plus(Usage::NOTHING), known);
}

/// Root reads everything: as anybody else the first process shows what a hub shows to its own user.
#[test]
fn process_of_somebody_else_shows_its_processor_time_alone() {
    if nix::unistd::geteuid().is_root() {
        return;
    }
    // Some machines hide the processes of others.
    let Ok(usage) = alone(1) else { return };
    assert_eq!((usage.pss_kib, usage.written_kib), (None, None));
    assert!(usage.cpu.is_some(), "{usage:?}");
}

#[test]
fn process_that_is_not_there_is_gone() {
    // The kernel's numbers are below 2^22.
    assert_eq!(alone(u32::MAX), Err(Gone(u32::MAX)));
    assert_eq!(family(u32::MAX), Err(Gone(u32::MAX)));
}

#[test]
fn processor_time_is_told_finer_than_in_hundredths_of_a_second() {
    let cpu = || alone(std::process::id()).expect("it runs").cpu.expect("it is told");
    let before = cpu();
    // Far from a hundredth of a second: each look is some work.
    let after = std::iter::repeat_with(cpu).find(|cpu| *cpu > before).expect("it is busy");
    assert!(after - before < Duration::from_millis(10), "{before:?} {after:?}");
}

#[test]
fn what_other_machines_took_is_the_eighth_of_the_first_line() {
    let text = "cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1 2 3 4 5 6 7 44 9 10\n";
    assert_eq!(steal(text), Some(88));
    assert_eq!(steal("intr 1\n"), None);
    assert_eq!(
        stolen_ms(Some(Duration::from_millis(20)), Some(Duration::from_millis(50))),
        Some(30)
    );
    assert_eq!(stolen_ms(None, Some(Duration::ZERO)), None);
}
