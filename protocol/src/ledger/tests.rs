//! The ledger under scripts: replay, gaps, duplicates, refusals, restarts.

use std::time::Duration;

use super::*;
use crate::action::Action;
use crate::fixture::{self, NOW, Organisation, command, device};

struct Story {
    organisation: Organisation,
    records: Vec<Record>,
}

impl Story {
    fn new() -> Self {
        Self { organisation: Organisation::new(), records: Vec::new() }
    }

    /// The ledger as a restart would find it.
    fn ledger(&self) -> Ledger {
        Ledger::replay(&self.records)
    }

    fn frame(&self, number: u8, action: Action, seq: u64, after_seq: u64) -> CommandFrame {
        let envelope = self.organisation.envelope(number, action, device(1), seq);
        self.organisation.deliver(&envelope, after_seq)
    }

    fn offer(&self, frame: &CommandFrame) -> Offer {
        self.ledger().offer(frame, &self.organisation.verifying(device(1)))
    }

    fn take(&mut self, frame: &CommandFrame) {
        let offer = self.offer(frame);
        let Offer::Take(received) = offer else { panic!("not taken: {offer:?}") };
        self.records.push(Record::Received(*received));
    }

    fn done(&mut self, number: u8) -> CompactJws {
        let receipt = CompactJws::from_text(format!("receipt of {number}"));
        let command_id = command(number);
        self.records.push(Record::Intent { command_id });
        self.records.push(Record::Done { command_id, receipt: receipt.clone() });
        receipt
    }

    fn confirm(&mut self, receipt: &CompactJws) {
        self.records.push(Record::Confirmed { receipt_sha256: receipt.sha256() });
    }
}

fn refusal_reason(offer: &Offer) -> Option<RefusalReason> {
    match offer {
        Offer::Refuse(refusal) => Some(refusal.reason),
        Offer::Take(_) | Offer::Known(_) | Offer::Gap | Offer::Drop => None,
    }
}

#[test]
fn a_command_is_answered_by_its_stage() {
    let mut story = Story::new();
    let frame = story.frame(1, fixture::lock(), 1, 0);
    story.take(&frame);
    assert_eq!(story.offer(&frame), Offer::Known(Answer::Ack));
    story.records.push(Record::Intent { command_id: command(1) });
    assert_eq!(story.offer(&frame), Offer::Known(Answer::Ack));
    let receipt = story.done(1);
    assert_eq!(story.offer(&frame), Offer::Known(Answer::Receipt(receipt.clone())));
    // Who confirmed it may have lied: the one who delivers it again gets the truth again.
    story.confirm(&receipt);
    assert_eq!(story.offer(&frame), Offer::Known(Answer::Receipt(receipt.clone())));
    let compacted = Ledger::replay(&story.ledger().snapshot());
    let offer = compacted.offer(&frame, &story.organisation.verifying(device(1)));
    assert_eq!(offer, Offer::Known(Answer::Receipt(receipt)));
    assert_eq!(compacted.unconfirmed().count(), 0);
}

#[test]
fn what_was_carried_out_is_never_refused_as_anything_but_replayed() {
    let mut story = Story::new();
    let frame = story.frame(1, fixture::lock(), 1, 0);
    story.take(&frame);
    let receipt = story.done(1);
    story.confirm(&receipt);
    let mut ledger = story.ledger();
    let late = NOW.plus(Duration::from_secs(3600));
    let verifying = Verifying { now: late, ..story.organisation.verifying(device(1)) };
    let mislabelled = CommandFrame { command_id: command(2), ..frame.clone() };
    assert_eq!(ledger.offer(&mislabelled, &verifying), Offer::Drop);
    ledger.forget(late);
    for frame in [frame, mislabelled] {
        let offer = ledger.offer(&frame, &verifying);
        assert_eq!(refusal_reason(&offer), Some(RefusalReason::Replayed));
    }
}

#[test]
fn envelope_replayed_after_it_was_forgotten_is_refused() {
    let mut story = Story::new();
    let frame = story.frame(1, fixture::lock(), 1, 0);
    story.take(&frame);
    let receipt = story.done(1);
    story.confirm(&receipt);
    let mut ledger = story.ledger();
    ledger.forget(NOW.plus(Duration::from_secs(3600)));
    assert_eq!(ledger.snapshot(), [Record::Sequence { last_seq: PerLane { urgent: 1, bulk: 0 } }]);
    let offer = ledger.offer(&frame, &story.organisation.verifying(device(1)));
    assert_eq!(refusal_reason(&offer), Some(RefusalReason::Replayed));
}

#[test]
fn commands_are_remembered_while_their_approvals_hold() {
    let mut story = Story::new();
    let frame = story.frame(1, fixture::lock(), 1, 0);
    story.take(&frame);
    let receipt = story.done(1);
    story.confirm(&receipt);
    let mut ledger = story.ledger();
    ledger.forget(NOW.plus(Duration::from_secs(3599)));
    let offer = ledger.offer(&frame, &story.organisation.verifying(device(1)));
    assert_eq!(offer, Offer::Known(Answer::Receipt(receipt)));
}

#[test]
fn order_stays_taken_although_its_command_was_pushed_out() {
    let mut story = Story::new();
    let wipe = story.frame(1, fixture::lock(), 1, 0);
    story.take(&wipe);
    let receipt = story.done(1);
    story.confirm(&receipt);
    // More confirmed commands than the ledger keeps, all of later ids.
    let Record::Received(first) = story.records[0].clone() else { panic!("taken first") };
    for number in 0..limits::LEDGER_ENTRIES as u64 {
        let later = NOW.plus(Duration::from_millis(number + 1));
        let command_id = CommandId::new(later, [0; 10]);
        let receipt = CompactJws::from_text(number.to_string());
        let order_id = OrderId::new(NOW, [0; 10]);
        let received = Received { command_id, order_id, lane: Lane::Bulk, ..first.clone() };
        story.records.push(Record::Received(received));
        story.records.push(Record::Done { command_id, receipt });
    }
    let mut ledger = story.ledger();
    ledger.forget(NOW);
    let ledger = Ledger::replay(&ledger.snapshot());
    let mut again = story.organisation.envelope(1, fixture::lock(), device(1), 2);
    again.jti = command(2);
    let again = story.organisation.deliver(&again, 0);
    let offer = ledger.offer(&again, &story.organisation.verifying(device(1)));
    assert_eq!(refusal_reason(&offer), Some(RefusalReason::DuplicateOrder));
}

#[test]
fn same_order_under_another_command_is_refused() {
    let mut story = Story::new();
    let first = story.frame(1, fixture::lock(), 1, 0);
    story.take(&first);
    let mut again = story.organisation.envelope(1, fixture::lock(), device(1), 2);
    again.jti = command(2);
    let again = story.organisation.deliver(&again, 0);
    assert_eq!(refusal_reason(&story.offer(&again)), Some(RefusalReason::DuplicateOrder));
}

#[test]
fn a_missing_earlier_command_is_asked_for() {
    let mut story = Story::new();
    let first = story.frame(1, fixture::lock(), 1, 0);
    let second = story.frame(2, fixture::lock(), 2, 1);
    assert_eq!(story.offer(&second), Offer::Gap);
    story.take(&first);
    story.take(&second);
    // Number 3 was cancelled: nothing that still waits comes before number 4.
    let fourth = story.frame(4, fixture::lock(), 4, 2);
    story.take(&fourth);
    assert_eq!(story.ledger().last_seq(), PerLane { urgent: 4, bulk: 0 });
}

#[test]
fn a_hint_that_points_forward_is_ignored() {
    let mut story = Story::new();
    let frame = story.frame(1, fixture::lock(), 1, 7);
    story.take(&frame);
}

#[test]
fn lanes_do_not_wait_for_each_other() {
    let mut story = Story::new();
    let refresh = Action::Refresh(crate::action::Refresh {});
    let bulk = story.frame(1, refresh, 9, 0);
    let urgent = story.frame(2, fixture::lock(), 1, 0);
    story.take(&bulk);
    story.take(&urgent);
    let ledger = story.ledger();
    assert_eq!(ledger.next_work(Lane::Bulk).map(|work| work.command_id), Some(command(1)));
    assert_eq!(ledger.next_work(Lane::Urgent).map(|work| work.command_id), Some(command(2)));
}

#[test]
fn work_comes_in_order_and_says_whether_it_was_begun() {
    let mut story = Story::new();
    // Ids do not sort like sequence numbers here.
    let first = story.frame(9, fixture::lock(), 1, 0);
    let second = story.frame(3, fixture::lock(), 2, 1);
    story.take(&first);
    story.take(&second);
    let work = story.ledger().next_work(Lane::Urgent).expect("two are open");
    assert_eq!((work.command_id, work.is_begun), (command(9), false));
    story.records.push(Record::Intent { command_id: command(9) });
    let work = story.ledger().next_work(Lane::Urgent).expect("two are open");
    assert_eq!((work.command_id, work.is_begun), (command(9), true));
    story.done(9);
    let work = story.ledger().next_work(Lane::Urgent).expect("one is open");
    assert_eq!((work.command_id, work.is_begun), (command(3), false));
}

#[test]
fn receipts_wait_until_exactly_they_are_confirmed() {
    let mut story = Story::new();
    let frame = story.frame(1, fixture::lock(), 1, 0);
    story.take(&frame);
    let receipt = story.done(1);
    story.confirm(&CompactJws::from_text("another receipt".to_owned()));
    assert_eq!(story.ledger().unconfirmed().collect::<Vec<_>>(), [(command(1), &receipt)]);
    story.confirm(&receipt);
    assert_eq!(story.ledger().unconfirmed().count(), 0);
}

#[test]
fn forged_envelope_does_not_stand_in_the_way_of_the_real_one() {
    let mut story = Story::new();
    let real = story.frame(1, fixture::lock(), 1, 0);
    let envelope = story.organisation.envelope(1, fixture::lock(), device(1), 1);
    let forged = CommandFrame {
        jws: crate::envelope::sign(&envelope, &fixture::signing_key(99)).expect("signs"),
        ..real.clone()
    };
    assert_eq!(refusal_reason(&story.offer(&forged)), Some(RefusalReason::BadSignature));
    let receipt = CompactJws::from_text("refused".to_owned());
    story.records.push(Record::Refused(Refused {
        command_id: command(1),
        place: None,
        envelope_sha256: forged.jws.sha256(),
        receipt: receipt.clone(),
    }));
    assert_eq!(story.offer(&forged), Offer::Known(Answer::Receipt(receipt.clone())));
    story.take(&real);
    let outcome = story.done(1);
    story.confirm(&receipt);
    assert_eq!(story.ledger().unconfirmed().collect::<Vec<_>>(), [(command(1), &outcome)]);
}

#[test]
fn authentic_refusal_counts_as_seen() {
    let mut story = Story::new();
    let wipe = story.frame(1, fixture::wipe(), 1, 0);
    assert_eq!(refusal_reason(&story.offer(&wipe)), Some(RefusalReason::MissingApproval));
    story.records.push(Record::Refused(Refused {
        command_id: command(1),
        place: Some((Lane::Urgent, 1)),
        envelope_sha256: wipe.jws.sha256(),
        receipt: CompactJws::from_text("refused".to_owned()),
    }));
    let next = story.frame(2, fixture::lock(), 2, 1);
    story.take(&next);
}

#[test]
fn refusal_waits_for_what_is_missing_before_it() {
    let mut story = Story::new();
    let first = story.frame(1, fixture::lock(), 1, 0);
    let refused = story.frame(2, fixture::wipe(), 2, 1);
    assert_eq!(story.offer(&refused), Offer::Gap);
    story.take(&first);
    assert_eq!(refusal_reason(&story.offer(&refused)), Some(RefusalReason::MissingApproval));
}

#[test]
fn strangers_cannot_fill_the_ledger() {
    let mut story = Story::new();
    for number in 0..limits::LEDGER_STRANGERS {
        story.records.push(Record::Refused(Refused {
            command_id: command(1),
            place: None,
            envelope_sha256: number.to_string(),
            receipt: CompactJws::from_text(number.to_string()),
        }));
    }
    let garbage = CommandFrame {
        jws: CompactJws::from_text("garbage".to_owned()),
        ..story.frame(1, fixture::lock(), 1, 0)
    };
    assert_eq!(story.offer(&garbage), Offer::Drop);
    let real = story.frame(1, fixture::lock(), 1, 0);
    story.take(&real);
}

#[test]
fn compaction_changes_nothing_that_matters() {
    let mut story = Story::new();
    for (number, seq) in [(1, 1), (2, 2), (3, 3), (4, 4)] {
        let frame = story.frame(number, fixture::lock(), seq, seq - 1);
        story.take(&frame);
    }
    let confirmed = story.done(1);
    story.confirm(&confirmed);
    story.done(2);
    story.records.push(Record::Intent { command_id: command(3) });
    let before = story.ledger();
    let after = Ledger::replay(&before.snapshot());
    assert_eq!(after.last_seq(), before.last_seq());
    assert_eq!(after.next_work(Lane::Urgent), before.next_work(Lane::Urgent));
    assert_eq!(after.unconfirmed().collect::<Vec<_>>(), before.unconfirmed().collect::<Vec<_>>());
    for (number, seq) in [(1, 1), (2, 2), (3, 3), (4, 4)] {
        let frame = story.frame(number, fixture::lock(), seq, seq - 1);
        let verifying = story.organisation.verifying(device(1));
        assert_eq!(after.offer(&frame, &verifying), before.offer(&frame, &verifying));
    }
}

fn held(number: u8, left_ms: u64) -> Record {
    Record::Held(Held { command_id: command(number), since: NOW, left_ms })
}

#[test]
fn held_command_lets_others_pass_and_comes_behind_them_when_its_window_is_over() {
    let mut story = Story::new();
    for (number, seq) in [(1, 1), (2, 2)] {
        let frame = story.frame(number, fixture::lock(), seq, seq - 1);
        story.take(&frame);
    }
    let next = |story: &Story| story.ledger().next_work(Lane::Urgent).map(|work| work.command_id);
    assert_eq!(next(&story), Some(command(1)));
    story.records.push(held(1, 10));
    assert_eq!(next(&story), Some(command(2)));
    assert_eq!(story.ledger().held().count(), 1);
    story.records.push(held(1, 0));
    assert_eq!(story.ledger().held().count(), 0);
    assert_eq!(next(&story), Some(command(2)));
    story.done(2);
    assert_eq!(next(&story), Some(command(1)));
    let compacted = Ledger::replay(&story.ledger().snapshot());
    let work = compacted.next_work(Lane::Urgent).expect("its window is over");
    assert_eq!(work.held.map(|held| held.left_ms), Some(0));
}

#[test]
fn window_never_grows() {
    let mut story = Story::new();
    let frame = story.frame(1, fixture::lock(), 1, 0);
    story.take(&frame);
    story.records.extend([held(1, 10), held(1, 20)]);
    assert_eq!(story.ledger().window(command(1)).map(|held| held.left_ms), Some(10));
}

#[test]
fn orders_about_orders_wait_for_nothing_in_their_lane() {
    let mut story = Story::new();
    let lock = story.frame(1, fixture::lock(), 1, 0);
    let order_id = fixture::order(1);
    let cancel = Action::Cancel(crate::action::Cancel { order_id });
    let cancel = story.frame(2, cancel, 2, 1);
    story.take(&lock);
    story.take(&cancel);
    let ledger = story.ledger();
    assert_eq!(ledger.next_work(Lane::Urgent).map(|work| work.command_id), Some(command(1)));
    assert_eq!(ledger.next_about_orders().map(|work| work.command_id), Some(command(2)));
    story.done(1);
    story.done(2);
    assert_eq!(story.ledger().next_about_orders(), None);
    assert!(
        matches!(story.ledger().standing(order_id), Some(Standing::Ended(id, _)) if id == command(1))
    );
}

#[test]
fn hostile_second_cancel_that_is_soon_over_does_not_shorten_the_first() {
    let barred = |secs| Record::Barred {
        order_id: fixture::order(1),
        remember_until: NOW.plus(Duration::from_secs(secs)),
    };
    let mut ledger = Ledger::replay(&[barred(60), barred(5)]);
    ledger.forget(NOW.plus(Duration::from_secs(6)));
    assert!(ledger.is_barred(fixture::order(1)));
    ledger.forget(NOW.plus(Duration::from_secs(61)));
    assert!(!ledger.is_barred(fixture::order(1)));
}

#[test]
fn freeze_is_not_cut_short_by_another_and_both_outlast_compaction() {
    let frozen = |number, secs| {
        let until = NOW.plus(Duration::from_secs(secs));
        Record::Frozen(Frozen { command_id: command(number), ordered_at: NOW, until })
    };
    let barred = Record::Barred {
        order_id: fixture::order(1),
        remember_until: NOW.plus(Duration::from_secs(60)),
    };
    let ledger = Ledger::replay(&[frozen(1, 60), frozen(2, 30), barred]);
    let mut ledger = Ledger::replay(&ledger.snapshot());
    let stands = ledger.frozen().expect("it was ordered");
    assert_eq!((stands.command_id, stands.until), (command(1), NOW.plus(Duration::from_secs(60))));
    assert!(ledger.is_barred(fixture::order(1)));
    ledger.apply(&Record::Thawed);
    ledger.forget(NOW.plus(Duration::from_secs(61)));
    assert_eq!((ledger.frozen(), ledger.is_barred(fixture::order(1))), (None, false));
}
