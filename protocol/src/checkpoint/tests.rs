//! A device that saw a chain knows when it is shown another one.

use super::*;
use crate::fixture::{NOW, Organisation, signing_key};

/// The hash of event `seq` in the chain of that letter.
fn hash(seq: u64, chain: char) -> String {
    format!("{chain}{seq:063x}")
}

/// Checkpoint `number` of a chain that was another one before event `from`, at 10 events each.
fn checkpoint(number: u64, chain: char, from: u64) -> Checkpoint {
    let mark = |number: u64| {
        let seq = number * 10;
        Mark { seq, hash: hash(seq, if seq < from { 'a' } else { chain }) }
    };
    let earlier = earlier(number).into_iter().map(mark).collect();
    Checkpoint { number, head: mark(number), at: NOW, earlier }
}

#[test]
fn one_chain_is_believed_however_many_checkpoints_were_missed() {
    let mut memory = Memory::default();
    for number in [1, 2, 3, 9, 10, 700, 701, 100_000] {
        assert_eq!(memory.take(&checkpoint(number, 'a', 0)), Ok(()), "{number}");
        assert_eq!(memory.take(&checkpoint(number, 'a', 0)), Ok(()), "{number} again");
    }
    assert_eq!(memory.newest().map(|mark| mark.seq), Some(1_000_000));
    assert!(memory.0.len() <= limits::CHECKPOINT_MEMORY);
    assert_eq!(memory.take(&checkpoint(701, 'a', 0)), Ok(()), "an echo of a known one");
}

#[test]
fn hostile_history_that_was_rewritten_is_noticed_once() {
    let mut memory = Memory::default();
    (1..=100).for_each(|number| memory.take(&checkpoint(number, 'a', 0)).expect("one chain"));
    // Rewritten from its begin on, and gone on since, however long ago the device was there.
    for number in [101, 130, 257, 1300, 60_000] {
        let fork = memory.clone().take(&checkpoint(number, 'b', 0)).expect_err("a fork");
        assert!(matches!(fork, Fork::Other(_)), "{fork}");
    }
    // Rewritten at its end only, and shown at the next checkpoint.
    let mut other = memory.clone();
    assert_eq!(other.take(&checkpoint(101, 'b', 1000)), Err(Fork::Other(1000)));
    assert_eq!(other.take(&checkpoint(102, 'b', 1000)), Ok(()), "it was told");
    // Cut off, and gone on from there.
    let mut shorter = checkpoint(90, 'a', 0);
    shorter.head.seq = 905;
    assert_eq!(memory.take(&shorter), Err(Fork::Shorter { ends: 905, went: 1000 }));
}

#[test]
fn earlier_ones_are_few_and_common_to_neighbours() {
    assert!(earlier(1).is_empty());
    assert_eq!(earlier(2), [1]);
    assert_eq!(earlier(13), [12, 11, 10, 8, 1]);
    assert_eq!(earlier(17), [16, 15, 14, 12, 8, 1]);
    assert!(earlier(u64::MAX).len() <= limits::CHECKPOINT_MARKS);
}

#[test]
fn checkpoint_of_no_command_key_or_of_another_form_is_not_believed() {
    let organisation = Organisation::new();
    let good = checkpoint(3, 'a', 0);
    let signed = good.sign(&organisation.command_key).expect("signs");
    assert_eq!(Checkpoint::verify(&signed, &organisation.trust), Ok(good.clone()));
    let strange = good.sign(&signing_key(99)).expect("signs");
    assert_eq!(Checkpoint::verify(&strange, &organisation.trust), Err(JwsError::BadSignature));
    let mut wrong = good;
    wrong.head.hash.push('\u{202e}');
    let wrong = wrong.sign(&organisation.command_key).expect("signs");
    assert!(matches!(Checkpoint::verify(&wrong, &organisation.trust), Err(JwsError::Claims(_))));
}
