//! What a journal that was damaged still says.

use protocol::fixture::{NOW, command, order};
use protocol::ledger::{Frozen, Received};

use super::*;

fn received(number: u8) -> Record {
    Record::Received(Received {
        command_id: command(number),
        order_id: order(number),
        lane: Lane::Urgent,
        seq: u64::from(number),
        remember_until: NOW,
        envelope: CompactJws::from_text("an envelope".to_owned()),
        is_about_orders: false,
    })
}

#[test]
fn what_stops_and_ends_counts_beyond_the_damage_and_all_else_is_taken_for_begun() {
    let ledger = Ledger::replay(&[received(1), received(2)]);
    let receipt = CompactJws::from_text("a receipt".to_owned());
    let done = Record::Done { command_id: command(1), receipt };
    let frozen = Frozen { command_id: command(3), ordered_at: NOW, until: NOW };
    let beyond = vec![received(7), done.clone(), Record::Frozen(frozen), Record::Thawed];
    let records = after_damage(&ledger, &Damage { set_aside: None, beyond });
    let last_seq = PerLane { urgent: 7, bulk: 0 };
    let intent = Record::Intent { command_id: command(2) };
    assert_eq!(
        records,
        [Record::Sequence { last_seq }, done, Record::Frozen(frozen), intent],
        "the one that ended is not begun again"
    );
}
