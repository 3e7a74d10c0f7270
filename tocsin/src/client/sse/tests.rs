//! Tests of reading server-sent events.

use super::{Message, Parser};

fn message(id: Option<&str>, event: &str, data: &str) -> Message {
    Message { id: id.map(str::to_owned), event: event.to_owned(), data: data.to_owned() }
}

fn check(pieces: &[&str], expected: &[Message]) {
    let mut parser = Parser::default();
    for piece in pieces {
        parser.feed(piece.as_bytes()).unwrap();
    }
    let got: Vec<_> = std::iter::from_fn(|| parser.take()).collect();
    assert_eq!(got, expected, "{pieces:?}");
}

#[test]
fn events_are_read_however_they_are_cut() {
    check(&["id: 7\nevent: x\ndata: {}\n\n"], &[message(Some("7"), "x", "{}")]);
    check(&["id: 7\r\nevent", ": x\r\nda", "ta: {}\r\n", "\r\n"], &[message(Some("7"), "x", "{}")]);
    check(&["data: a\ndata: b\n\n"], &[message(None, "", "a\nb")]);
    check(&[": alive\n\n", ":\n\n"], &[]);
    check(&["data: a\n\ndata:b\n\n"], &[message(None, "", "a"), message(None, "", "b")]);
    check(&["id: 7\ndata: unfinished\n"], &[]);
}

#[test]
fn endless_event_is_refused() {
    let mut parser = Parser::default();
    let piece = vec![b'x'; 64 * 1024];
    let outcome = (0..32).try_for_each(|_| parser.feed(&piece));
    assert!(outcome.is_err());
}
