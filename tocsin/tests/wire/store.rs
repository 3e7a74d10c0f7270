//! What the control plane has committed: commands, their numbers, and what was heard of them.
//!
//! Survives every crash of its process. Orders need no approval here and do not end: those rules
//! have tests of their own, and the simulation without bytes goes through them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::action::{Action, Refresh};
use protocol::envelope::{self, Envelope};
use protocol::fixture::{self, Organisation};
use protocol::frame::CommandFrame;
use protocol::id::{CommandId, OrderId};
use protocol::jws::CompactJws;
use protocol::manifest::{DeviceTree, Manifest};
use protocol::state::{Lane, PerLane};
use runtime::Entropy;

use crate::fleet::device_id;
use crate::scene::Scene;

/// How long an order is valid: longer than any run.
const VALIDITY: Duration = Duration::from_secs(20 * 3600);
/// First wait before a command is sent again; it doubles up to the last.
const REDELIVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(16));
/// How long a device without a session is left alone.
const ABSENT: Duration = Duration::from_secs(30);

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Waiting,
    Acked,
    /// Its receipt is here.
    Done,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: CommandId,
    pub(crate) device: usize,
    pub(crate) lane: Lane,
    pub(crate) seq: u64,
    jws: CompactJws,
    pub(crate) state: State,
    due: Instant,
    sends: u32,
    pub(crate) ordered_at: Instant,
    pub(crate) heard_at: Option<Instant>,
}

/// Everything committed.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) rows: Vec<Row>,
    /// The device whose enrollment has ended, if one has.
    pub(crate) revoked: Option<usize>,
    numbers: BTreeMap<(usize, Lane), u64>,
}

impl Row {
    fn frame(&self, after_seq: u64) -> CommandFrame {
        let (command_id, lane) = (self.id, self.lane);
        CommandFrame { command_id, lane, after_seq, jws: self.jws.clone() }
    }
}

impl Store {
    /// Commits an order on one device: urgent, or in bulk.
    pub(crate) fn order(
        &mut self,
        device: usize,
        lane: Lane,
        (organisation, scene, chance): (&Organisation, &Scene, &Entropy),
    ) -> usize {
        let action = match lane {
            Lane::Urgent => fixture::lock(),
            Lane::Bulk => Action::Refresh(Refresh {}),
        };
        let number = self.numbers.entry((device, lane)).or_insert(0);
        *number += 1;
        let (seq, aud, iat) = (*number, device_id(device), scene.wall().whole_secs());
        let devices = DeviceTree::new([aud]).expect("one device");
        let manifest = Manifest {
            order_id: OrderId::new(iat, chance.bytes()),
            action,
            expires_at: iat.plus(VALIDITY),
            device_count: 1,
            device_root: devices.root(),
            plans: std::collections::BTreeMap::new(),
            undo_secs: None,
            offline_codes: BTreeMap::new(),
            requested_by: None,
            simulated: false,
        };
        let claims = Envelope {
            jti: CommandId::new(iat, chance.bytes()),
            aud,
            generation: 1,
            iat,
            nbf: iat,
            exp: manifest.expires_at,
            lane,
            seq,
            proof: devices.proof(&aud).expect("the device is in its own tree"),
            manifest,
            approvals: Vec::new(),
            script: None,
        };
        let jws = envelope::sign(&claims, &organisation.command_key).expect("the fixture signs");
        let now = scene.now();
        scene.note(format_args!("order on device-{device}: {} {seq}", lane_name(lane)));
        self.rows.push(Row {
            id: claims.jti,
            device,
            lane,
            seq,
            jws,
            state: State::Waiting,
            due: now + REDELIVERY.0,
            sends: 0,
            ordered_at: now,
            heard_at: None,
        });
        self.rows.len() - 1
    }

    /// A command whose end somebody waits for.
    pub(crate) fn owed(&self) -> Option<&Row> {
        let is_owed = |row: &&Row| row.state != State::Done && self.revoked != Some(row.device);
        self.rows.iter().find(is_owed)
    }

    pub(crate) fn row(&mut self, id: CommandId) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.id == id)
    }

    /// The commands that are to be sent again now.
    pub(crate) fn due(&self, now: Instant) -> Vec<usize> {
        let is_due = |row: &Row| {
            row.state == State::Waiting && row.due <= now && self.revoked != Some(row.device)
        };
        (0..self.rows.len()).filter(|at| is_due(&self.rows[*at])).collect()
    }

    /// A command as it is sent by itself.
    pub(crate) fn frame(&self, at: usize) -> CommandFrame {
        let row = &self.rows[at];
        let earlier = self.rows.iter().filter(|other| {
            (other.device, other.lane) == (row.device, row.lane)
                && other.state == State::Waiting
                && other.seq < row.seq
        });
        row.frame(earlier.map(|row| row.seq).max().unwrap_or(0))
    }

    /// What became of sending some commands: a hub took them, or there was no hub to take them.
    pub(crate) fn sent(&mut self, rows: &[usize], was_taken: bool, now: Instant) {
        for at in rows {
            let row = &mut self.rows[*at];
            let wait = REDELIVERY.0 * (1 << row.sends.min(4));
            row.sends += u32::from(was_taken);
            row.due = now + if was_taken { wait.min(REDELIVERY.1) } else { ABSENT };
        }
    }

    /// Everything that waits for a device, in order; also what it was said to have and has not.
    pub(crate) fn pending(
        &self,
        device: usize,
        last_seq: PerLane<u64>,
    ) -> (Vec<CommandFrame>, Vec<usize>) {
        let (mut frames, mut rows) = (Vec::new(), Vec::new());
        for lane in Lane::ALL {
            let mut before = 0;
            // Rows of one lane are in the order of their numbers.
            for (at, row) in self.rows.iter().enumerate() {
                let is_lost = row.state == State::Acked && row.seq > *last_seq.get(lane);
                let is_pending = row.state == State::Waiting || is_lost;
                if (row.device, row.lane) == (device, lane) && is_pending {
                    frames.push(row.frame(before));
                    rows.push(at);
                    before = row.seq;
                }
            }
        }
        (frames, rows)
    }
}

pub(crate) const fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Urgent => "urgent",
        Lane::Bulk => "bulk",
    }
}
