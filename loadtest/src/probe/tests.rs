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
    let usage = alone(std::process::id()).expect("our own files are ours to read");
    assert!(usage.pss_kib > 0);
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
    let (own, with_child) = (own.expect("ours"), with_child.expect("ours"));
    assert!(with_child.pss_kib > own.pss_kib + kib / 2, "{with_child:?} is more than {own:?}");
}
