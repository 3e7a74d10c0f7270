//! The book that is written, read, bounded and damaged.

use std::os::unix::fs::MetadataExt as _;

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// As whoever connects tells it.
fn tell(book: &AddressBook, name: &str, proven: SocketAddr, found: &[SocketAddr]) {
    if book.proven(name, proven, found) {
        book.save();
    }
}

#[test]
fn address_that_was_proven_is_known_after_a_restart_and_written_only_when_it_is_news() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two, three) = (at("192.0.2.1:443"), at("192.0.2.2:443"), at("192.0.2.3:443"));
    let file = || std::fs::metadata(folder.path().join(FILE)).unwrap();
    let book = AddressBook::open(folder.path());
    assert_eq!(book.known("hub.example:443"), []);
    tell(&book, "hub.example:443", two, &[one, two]);
    let written = file();
    assert_eq!(written.mode() & 0o777, PRIVATE);
    // Listed in another order, fewer of them, or remembered: it is all the same.
    tell(&book, "hub.example:443", one, &[two, one]);
    tell(&book, "hub.example:443", one, &[one]);
    tell(&book, "hub.example:443", two, &[]);
    assert_eq!(file().ino(), written.ino());
    let again = AddressBook::open(folder.path());
    assert_eq!(again.known("hub.example:443"), [two, one]);
    assert_eq!(again.known("hub.example:444"), []);

    tell(&again, "hub.example:443", three, &[three]);
    assert_ne!(file().ino(), written.ino());
    assert_eq!(AddressBook::open(folder.path()).known("hub.example:443"), [three]);
}

#[test]
fn what_a_quarantine_leaves_open_is_known_by_its_port_under_any_name() {
    let book = AddressBook::default();
    let (hub, api, other) = (at("192.0.2.1:443"), at("[2001:db8::1]:443"), at("192.0.2.1:8443"));
    tell(&book, "hub.example:443", hub, &[hub]);
    book.left_open(&[api, hub, other]);
    assert_eq!(book.known("hub.example:443"), [hub, api]);
    assert_eq!(book.known("api.example:443"), [api, hub]);
    assert_eq!(book.known("api.example:8443"), [other]);
}

#[test]
fn book_is_bounded_and_forgets_the_oldest_name() {
    let folder = tempfile::tempdir().unwrap();
    let book = AddressBook::open(folder.path());
    let many: Vec<_> = (1..100).map(|n| at(&format!("192.0.2.{n}:443"))).collect();
    for number in 0..NAMES + 2 {
        tell(&book, &format!("hub-{number}.example:443"), many[50], &many);
    }
    let book = AddressBook::open(folder.path());
    assert_eq!(book.known("hub-1.example:443"), []);
    let known = book.known("hub-2.example:443");
    assert_eq!((known[0], known.len()), (many[50], ADDRESSES));
}

#[test]
fn book_that_is_damaged_or_cannot_be_written_is_kept_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let hub = at("192.0.2.1:443");
    let book = AddressBook::open(&state);
    tell(&book, "hub.example:443", hub, &[hub]);
    assert_eq!(book.known("hub.example:443"), [hub]);
    // There is a disk again: what was not written then is written now.
    std::fs::create_dir(&state).unwrap();
    tell(&book, "hub.example:443", hub, &[hub]);
    assert_eq!(AddressBook::open(&state).known("hub.example:443"), [hub]);
    std::fs::write(state.join(FILE), "{").unwrap();
    let book = AddressBook::open(&state);
    assert_eq!(book.known("hub.example:443"), []);
    tell(&book, "hub.example:443", hub, &[hub]);
    assert_eq!(AddressBook::open(&state).known("hub.example:443"), [hub]);
}

#[test]
fn address_that_is_no_name_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let hub = at("192.0.2.1:443");
    tell(&AddressBook::open(folder.path()), "192.0.2.1:443", hub, &[hub]);
    assert!(!folder.path().join(FILE).exists());
}
