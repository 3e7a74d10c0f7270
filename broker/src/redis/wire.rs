//! What messages look like on a channel and in the stream.
//!
//! Owns their encoding and bounds. What is read was written by anybody: what is malformed is
//! skipped by whoever reads it, and nothing here panics.

use protocol::limits;

use crate::{BATCH, Downstream, Upstream};

/// Bytes after which a batch goes on in a further message: a subscriber's queue is counted in
/// bytes, and Redis copies a message at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Bytes of one message. The largest is an answer of everything pending, which is bounded as the
/// body of an exchange is.
const MESSAGE_BYTES: usize = 2 * limits::EXCHANGE_BYTES;
/// Bytes of one message to the control plane: a frame with its return address.
const UPSTREAM_BYTES: usize = limits::FRAME_BYTES + 1024;
/// Bytes after which a batch to the control plane goes on in a further entry.
const ENTRY_BYTES: usize = 16 * 1024;
/// Messages of one entry.
pub(super) const ENTRY: usize = 64;
/// The first byte of a message that carries deliveries.
const DELIVERIES: u8 = b'd';
/// The first byte of the word of a subscriber that it is the newest.
const NEWEST: u8 = b'n';
/// Bytes by which a subscriber is known.
pub(super) const TOKEN: usize = 16;

/// A subscriber.
pub(super) type Token = [u8; TOKEN];

/// What came over a hub's channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word<'a> {
    /// Deliveries, to be decoded.
    Deliveries(&'a [u8]),
    /// That subscriber is the newest.
    Newest(Token),
}

/// A batch as messages; `None` when a part of it can never be sent.
pub(super) fn encode(batch: &[Downstream]) -> Option<Vec<Vec<u8>>> {
    let mut chunks: Vec<Vec<u8>> = Vec::new();
    for message in batch {
        let json = serde_json::to_vec(message).ok().filter(|json| json.len() < MESSAGE_BYTES)?;
        match chunks.last_mut() {
            Some(chunk) if chunk.len() + json.len() < CHUNK_BYTES => chunk.push(b','),
            Some(_) | None => chunks.push(vec![DELIVERIES, b'[']),
        }
        if let Some(chunk) = chunks.last_mut() {
            chunk.extend(json);
        }
    }
    chunks.iter_mut().for_each(|chunk| chunk.push(b']'));
    Some(chunks)
}

/// The word of the newest subscriber.
pub(super) fn newest(token: Token) -> Vec<u8> {
    [&[NEWEST], &token[..]].concat()
}

/// What a message is.
pub(super) fn word(message: &[u8]) -> Option<Word<'_>> {
    match message.split_first()? {
        (&DELIVERIES, json) if json.len() <= MESSAGE_BYTES + CHUNK_BYTES => {
            Some(Word::Deliveries(json))
        }
        (&NEWEST, token) => Some(Word::Newest(token.try_into().ok()?)),
        _ => None,
    }
}

/// The deliveries of a message.
pub(super) fn decode(json: &[u8]) -> Option<Vec<Downstream>> {
    serde_json::from_slice::<Vec<Downstream>>(json).ok().filter(|batch| batch.len() <= BATCH)
}

/// A batch to the control plane as entries, one message to the line; `None` when a part of it can never be sent.
/// What Redis does for an entry costs it more than what it does for a line.
pub(super) fn encode_upstream(batch: &[Upstream]) -> Option<Vec<Vec<u8>>> {
    let (mut entries, mut lines): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
    for message in batch {
        let json = serde_json::to_vec(message).ok().filter(|json| json.len() <= UPSTREAM_BYTES)?;
        match entries.last_mut() {
            Some(entry) if lines < ENTRY && entry.len() + json.len() < ENTRY_BYTES => {
                entry.push(b'\n');
                entry.extend(json);
                lines += 1;
            }
            Some(_) | None => {
                entries.push(json);
                lines = 1;
            }
        }
    }
    Some(entries)
}

/// The messages of an entry, each of which may be none; nothing when it is no entry.
pub(super) fn decode_upstream(entry: &[u8]) -> Option<Vec<Option<Upstream>>> {
    let lines = || entry.split(|byte| *byte == b'\n');
    let fits = entry.len() <= UPSTREAM_BYTES && lines().take(ENTRY + 1).count() <= ENTRY;
    fits.then(|| lines().map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use protocol::fixture;
    use protocol::frame::{AgentFrame, HubFrame, Mode};

    use super::*;

    fn delivery(bytes: usize) -> Downstream {
        let frame = HubFrame::Mode { mode: Mode::Poll, reason: "x".repeat(bytes) };
        Downstream::Deliver { device: fixture::device(1), frames: vec![frame] }
    }

    #[test]
    fn batch_survives_the_wire_in_messages_of_bounded_size() {
        let batch = vec![delivery(60_000); 20];
        let messages = encode(&batch).expect("each part fits");
        assert!(messages.len() > 1 && messages.iter().all(|chunk| chunk.len() <= CHUNK_BYTES + 2));
        let read = messages.iter().flat_map(|message| match word(message) {
            Some(Word::Deliveries(json)) => decode(json).expect("deliveries"),
            other => panic!("{other:?}"),
        });
        assert_eq!(read.collect::<Vec<_>>(), batch);
    }

    #[test]
    fn part_beyond_its_bound_is_refused_and_a_large_one_travels_alone() {
        assert_eq!(encode(&[delivery(MESSAGE_BYTES)]), None);
        let messages = encode(&[delivery(1), delivery(MESSAGE_BYTES / 2), delivery(1)]);
        assert_eq!(messages.expect("each part fits").len(), 3);
        assert_eq!(encode(&[]), Some(Vec::new()));
    }

    fn said(bytes: usize) -> Upstream {
        Upstream {
            device: fixture::device(1),
            generation: 1,
            hub: "hub-a".parse().expect("a name"),
            session: fixture::session(1),
            frame: AgentFrame::Progress {
                command_id: fixture::command(1),
                stage: "\n".repeat(bytes),
                advance: None,
            },
        }
    }

    #[test]
    fn messages_to_the_control_plane_share_entries_of_bounded_size() {
        let read = |entries: &[Vec<u8>]| {
            let lines = entries.iter().flat_map(|entry| decode_upstream(entry).expect("an entry"));
            lines.map(|message| message.expect("a message")).collect::<Vec<_>>()
        };
        for (batch, count) in [
            (Vec::new(), 0),
            (vec![said(1); ENTRY], 1),
            (vec![said(1); ENTRY + 1], 2),
            (vec![said(3000); 6], 3),
            (vec![said(1), said(ENTRY_BYTES), said(1), said(1)], 3),
        ] {
            let entries = encode_upstream(&batch).expect("each part fits");
            assert_eq!(entries.len(), count);
            assert_eq!(read(&entries), batch);
        }
        assert_eq!(encode_upstream(&[said(1), said(UPSTREAM_BYTES)]), None);
    }

    #[test]
    fn message_of_an_entry_that_is_none_leaves_the_others() {
        let [entry] = &encode_upstream(&[said(1), said(2)]).expect("each part fits")[..] else {
            panic!("one entry")
        };
        let wrong = [&entry[..], b"\n[1]\n"].concat();
        assert_eq!(decode_upstream(&wrong), Some(vec![Some(said(1)), Some(said(2)), None, None]));
        assert_eq!(decode_upstream(&[b'\n'; ENTRY]), None, "more messages than an entry has");
        assert_eq!(decode_upstream(&vec![b' '; UPSTREAM_BYTES + 1]), None);
    }

    #[test]
    fn what_is_no_message_is_nothing() {
        for wrong in [&b""[..], b"x", b"n", b"nshort", b"n01234567890123456"] {
            assert_eq!(word(wrong), None, "{wrong:?}");
        }
        for wrong in [&b""[..], b"{}", b"[1]", b"[{\"deliver\":{}}]", &[b'['; 100_000]] {
            assert_eq!(decode(wrong), None);
            let lines = decode_upstream(wrong);
            assert!(lines.is_none_or(|lines| lines == [None]), "{wrong:?}");
        }
        let many = format!("[{}]", vec!["1"; BATCH + 1].join(","));
        assert_eq!(decode(many.as_bytes()), None);
    }
}
