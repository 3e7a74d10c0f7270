//! The chain names its first bad entry, whatever was done to it.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn chain(length: usize) -> Vec<Event> {
    let mut head = ChainHead::genesis();
    (0..length)
        .map(|index| {
            let draft = Draft {
                at: Timestamp::from_millis(index as u64),
                actor: Actor::System,
                kind: Kind::CommandQueued,
                subject: format!("s{index}"),
                payload: json!({ "index": index }),
            };
            chained(&draft, &mut head)
        })
        .collect()
}

fn verdict(events: Vec<Event>) -> Result<i64, i64> {
    verify_chain(ChainHead::genesis(), events).map(|head| head.seq).map_err(|broken| broken.seq)
}

#[test]
fn whole_chain_answers_its_head() {
    assert_eq!(verdict(chain(5)), Ok(5));
    assert_eq!(verdict(Vec::new()), Ok(0));
}

#[test]
fn moving_a_byte_between_fields_is_noticed() {
    let mut events = chain(1);
    events[0].kind.push('s');
    events[0].subject.remove(0);
    assert_eq!(verdict(events), Err(1));
}

#[test]
fn export_with_a_broken_line_names_it() {
    let mut lines = chain(2).iter().map(|e| serde_json::to_string(e).unwrap()).collect::<Vec<_>>();
    assert_eq!(verify_json_lines(lines.join("\n").as_bytes(), &Marks::new()).unwrap().seq, 2);
    lines[1].push('}');
    let outcome = verify_json_lines(lines.join("\n").as_bytes(), &Marks::new());
    assert!(matches!(outcome, Err(ChainError::Line { line: 2, .. })));
}

proptest! {
    #[test]
    fn first_bad_entry_is_named(length in 1usize..20, at in 0usize..20, how in 0u8..6) {
        let mut events = chain(length);
        let at = at % length;
        let bad = i64::try_from(at).unwrap() + 1;
        match how {
            0 => events[at].payload.push(' '),
            1 => events[at].actor = "operator:eve".to_owned(),
            2 => events[at].at += 1,
            3 => events[at].hash = "0".repeat(64),
            4 => {
                events.remove(at);
                // Without its end a chain is whole: the head must be written down elsewhere.
                let expected = if at + 1 == length { Ok(bad - 1) } else { Err(bad) };
                prop_assert_eq!(verdict(events), expected);
                return Ok(());
            }
            _ => {
                events[at].subject = "another".to_owned();
                events[at].hash = events[at].compute_hash();
                // Hashed again, the entry itself fits; its successor gives it away.
                let expected = if at + 1 == length { Ok(bad) } else { Err(bad + 1) };
                prop_assert_eq!(verdict(events), expected);
                return Ok(());
            }
        }
        prop_assert_eq!(verdict(events), Err(bad));
    }
}
