//! The journal of a device, read after whatever happened to its disk.

use protocol::fixture::{self, NOW, Organisation};
use protocol::jws::CompactJws;
use protocol::ledger::{Frozen, Held, Ledger, Received, Record, Refused};
use protocol::state::{Lane, PerLane};

use crate::json;

/// Each line is a record. What a journal leaves is the same after it was compacted.
pub(crate) fn run(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n');
    let records: Vec<Record> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let mut ledger = Ledger::replay(&records);
    let snapshot = ledger.snapshot();
    let again = Ledger::replay(&snapshot);
    assert_eq!(again.snapshot(), snapshot, "compacting changes what is remembered");
    assert_eq!(again.last_seq(), ledger.last_seq(), "compacting forgets numbers");
    for lane in [Lane::Urgent, Lane::Bulk] {
        assert_eq!(again.next_work(lane), ledger.next_work(lane), "compacting changes the work");
    }
    ledger.forget(NOW);
    assert_eq!(ledger.last_seq(), again.last_seq(), "numbers are never forgotten");
}

pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let organisation = Organisation::new();
    let command_id = fixture::command(1);
    let envelope = organisation.envelope(1, fixture::wipe(), fixture::device(1), 4);
    let jws = organisation.deliver(&envelope, 0).jws;
    let receipt = CompactJws::from_text("header.claims.signature".to_owned());
    let received = Record::Received(Received {
        command_id,
        order_id: envelope.order_id(),
        lane: envelope.lane,
        seq: envelope.seq,
        remember_until: envelope.manifest.expires_at,
        envelope: jws.clone(),
        is_about_orders: false,
    });
    let life = [
        Record::Sequence { last_seq: PerLane { urgent: 2, bulk: 1 } },
        received.clone(),
        Record::Held(Held { command_id, since: NOW, left_ms: 60_000 }),
        Record::Held(Held { command_id, since: NOW, left_ms: 0 }),
        Record::Intent { command_id },
        Record::Done { command_id, receipt: receipt.clone() },
        Record::Confirmed { receipt_sha256: receipt.sha256() },
    ];
    let frozen = Frozen { command_id, ordered_at: NOW, until: envelope.manifest.expires_at };
    let refused = Refused {
        command_id: fixture::command(2),
        place: Some((Lane::Urgent, 9)),
        envelope_sha256: jws.sha256(),
        receipt,
    };
    let stops = [
        received,
        Record::Barred { order_id: fixture::order(3), remember_until: frozen.until },
        Record::Order { order_id: fixture::order(4), remember_until: NOW },
        Record::Frozen(frozen),
        Record::Thawed,
        Record::Frozen(frozen),
        Record::Refused(refused),
    ];
    let lines =
        |records: &[Record]| records.iter().map(json).collect::<Vec<_>>().join(b"\n".as_slice());
    vec![("life", lines(&life)), ("stops", lines(&stops)), ("torn", lines(&life)[..700].to_vec())]
}
