//! What the control plane has committed: orders, commands, numbers, receipts. Survives every crash.
//!
//! The transitions are those of the real table (`api::commands::model`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use api::commands::model::{Happening, Step, step};
use protocol::action::{Action, Refresh};
use protocol::envelope::{self, Approval, Envelope};
use protocol::fixture::{self, Organisation};
use protocol::frame::CommandFrame;
use protocol::id::{CommandId, OrderId};
use protocol::jws::CompactJws;
use protocol::key::SigningKey;
use protocol::manifest::{DeviceTree, Manifest};
use protocol::state::{CommandState, Lane};
use protocol::time::Timestamp;

use crate::hub::{GENERATION, device_id};
use crate::scene::Scene;

/// When a new command is sent again at the earliest.
const FIRST_REDELIVERY: Duration = Duration::from_secs(2);
/// An ack that was on its way when the validity ended may still come in for this long.
const GRACE: Duration = Duration::from_secs(60);

/// One of the people who approve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Person {
    Alice,
    Bob,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: CommandId,
    pub(crate) device: usize,
    pub(crate) manifest: Manifest,
    proof: protocol::manifest::InclusionProof,
    approvals: Vec<CompactJws>,
    /// The persons who truly approved.
    pub(crate) persons: BTreeSet<Person>,
    pub(crate) needed: usize,
    pub(crate) lane: Lane,
    /// Its number and envelope, once it was released.
    pub(crate) sent: Option<(u64, CompactJws)>,
    pub(crate) state: CommandState,
    pub(crate) redeliver_at: Timestamp,
    pub(crate) sends: u32,
    pub(crate) receipt: Option<CompactJws>,
    /// It was withdrawn, or its end came, before its device answered.
    pub(crate) was_given_up: bool,
    /// When it was released, and when its device was first heard of it.
    pub(crate) released_at: Option<Instant>,
    pub(crate) heard_at: Option<Instant>,
}

/// Everything committed.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) rows: Vec<Row>,
    next_seq: BTreeMap<(usize, Lane), u64>,
    pub(crate) revoked: BTreeSet<usize>,
}

impl Row {
    pub(crate) fn expires_at(&self) -> Timestamp {
        self.manifest.expires_at
    }

    pub(crate) fn seq(&self) -> u64 {
        self.sent.as_ref().map_or(0, |(seq, _)| *seq)
    }

    /// Whether something happened to it that changes its state. Says whether it contradicts.
    pub(crate) fn happen(&mut self, happening: Happening) -> Step {
        let step = step(self.state, happening);
        if let Step::To(state) = step {
            self.was_given_up |= matches!(state, CommandState::Cancelled | CommandState::Expired);
            self.state = state;
        }
        step
    }

    pub(crate) fn frame(&self, after_seq: u64) -> Option<CommandFrame> {
        let (_, jws) = self.sent.clone()?;
        Some(CommandFrame { command_id: self.id, lane: self.lane, after_seq, jws })
    }
}

impl Store {
    pub(crate) fn row(&mut self, id: CommandId) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.id == id)
    }

    /// Commits an order on one device. Says where its command stands in the outbox, if there.
    pub(crate) fn create(&mut self, device: usize, scene: &mut Scene) -> Option<usize> {
        let action = match scene.below(5) {
            0 | 1 => fixture::lock(),
            2 => fixture::wipe(),
            _ => Action::Refresh(Refresh {}),
        };
        let (verb, lane) = (action.verb(), action.lane());
        let valid_secs = if scene.one_in(4) { 5 + scene.below(120) } else { 20 * 3600 };
        let tree = DeviceTree::new([device_id(device)]).expect("one device");
        let expires_at = scene.wall().plus(Duration::from_secs(valid_secs as u64)).whole_secs();
        let manifest = Manifest {
            order_id: OrderId::new(scene.wall(), scene.chance.bytes()),
            action,
            expires_at,
            device_count: 1,
            device_root: tree.root(),
            plans: std::collections::BTreeMap::new(),
            undo_secs: None,
            offline_codes: BTreeMap::new(),
            requested_by: None,
            simulated: false,
        };
        let trust = &scene.organisation.trust;
        let needed = usize::from(trust.approvals_needed(&manifest, &device_id(device)));
        self.rows.push(Row {
            id: CommandId::new(scene.wall(), scene.chance.bytes()),
            device,
            proof: tree.proof(&device_id(device)).expect("the device is in its own tree"),
            manifest,
            approvals: Vec::new(),
            persons: BTreeSet::new(),
            needed,
            lane,
            sent: None,
            state: CommandState::AwaitingApproval,
            redeliver_at: scene.wall(),
            sends: 0,
            receipt: None,
            was_given_up: false,
            released_at: None,
            heard_at: None,
        });
        let at = self.rows.len() - 1;
        let row = &self.rows[at];
        scene.note(format_args!(
            "order {} {verb} on device {device}, valid for {valid_secs} s",
            row.id
        ));
        (needed == 0).then(|| self.release(at, scene))
    }

    /// A person approves; the last one that is needed releases the command.
    pub(crate) fn approve(&mut self, at: usize, scene: &mut Scene) -> Option<usize> {
        let row = self.rows.get_mut(at)?;
        if row.state != CommandState::AwaitingApproval {
            return None;
        }
        let person = if scene.one_in(2) { Person::Alice } else { Person::Bob };
        if row.persons.insert(person) {
            let key = key_of(&scene.organisation, person);
            row.approvals.push(approval(&row.manifest, key, scene.wall()));
        }
        let is_enough = row.persons.len() >= row.needed;
        is_enough.then(|| self.release(at, scene))
    }

    /// Somebody who owns the control plane releases what one person approved with two keys.
    pub(crate) fn forge_release(&mut self, at: usize, scene: &mut Scene) -> Option<usize> {
        let row = self.rows.get_mut(at)?;
        if row.state != CommandState::AwaitingApproval {
            return None;
        }
        let keys = [&scene.organisation.alice, &scene.organisation.alice_spare];
        row.approvals =
            keys.map(|key| approval(&row.manifest, key, scene.wall())).into_iter().collect();
        row.persons = BTreeSet::from([Person::Alice]);
        scene.note(format_args!("{} is released on one person's two keys", row.id));
        Some(self.release(at, scene))
    }

    /// Numbers and signs a command.
    fn release(&mut self, at: usize, scene: &mut Scene) -> usize {
        let row = &mut self.rows[at];
        let seq = self.next_seq.entry((row.device, row.lane)).or_insert(1);
        let now = scene.wall().whole_secs();
        let claims = Envelope {
            jti: row.id,
            aud: device_id(row.device),
            generation: GENERATION,
            iat: now,
            nbf: now,
            exp: row.manifest.expires_at,
            lane: row.lane,
            seq: *seq,
            manifest: row.manifest.clone(),
            proof: row.proof.clone(),
            approvals: row.approvals.clone(),
            script: None,
        };
        let signed = envelope::sign(&claims, &scene.organisation.command_key);
        row.sent = Some((*seq, signed.expect("the fixture signs")));
        *seq += 1;
        row.happen(Happening::Released);
        row.redeliver_at = scene.wall().plus(FIRST_REDELIVERY);
        scene.note(format_args!("{} is number {} of its lane", row.id, row.seq()));
        row.released_at = Some(scene.now());
        at
    }

    /// The number of the newest earlier command of that lane that is still undelivered.
    pub(crate) fn after_seq(&self, at: usize, now: Timestamp) -> u64 {
        let row = &self.rows[at];
        let earlier = self.rows.iter().filter(|other| {
            (other.device, other.lane) == (row.device, row.lane)
                && other.state.is_undelivered()
                && other.seq() < row.seq()
                && other.expires_at() > now
        });
        earlier.map(Row::seq).max().unwrap_or(0)
    }

    pub(crate) fn cancel(&mut self, at: usize, scene: &mut Scene) {
        if let Some(row) = self.rows.get_mut(at)
            && row.happen(Happening::Withdrawn) == Step::To(CommandState::Cancelled)
        {
            scene.note(format_args!("{} is withdrawn", row.id));
        }
    }

    /// Ends what no device took in time.
    pub(crate) fn expire(&mut self, scene: &mut Scene) {
        let now = scene.wall();
        for row in self.rows.iter_mut().filter(|row| row.expires_at().plus(GRACE) < now) {
            if row.happen(Happening::Expired) == Step::To(CommandState::Expired) {
                scene.note(format_args!("{} expires", row.id));
            }
        }
    }

    pub(crate) fn revoke(&mut self, device: usize, scene: &mut Scene) {
        if self.revoked.insert(device) {
            scene.note(format_args!("device {device} is revoked"));
            for row in self.rows.iter_mut().filter(|row| row.device == device) {
                row.happen(Happening::EnrollmentEnded);
            }
        }
    }

    /// Writes that a session took those commands: 4 s until the next sending, then 8 s, …
    pub(crate) fn mark_sent(&mut self, ids: &[CommandId], now: Timestamp) {
        for row in self.rows.iter_mut().filter(|row| ids.contains(&row.id)) {
            row.happen(Happening::Sent);
            let secs = 4_u64 << row.sends.min(6);
            row.redeliver_at = now.plus(Duration::from_secs(secs));
            row.sends += 1;
        }
    }
}

fn key_of(organisation: &Organisation, person: Person) -> &SigningKey {
    match person {
        Person::Alice => &organisation.alice,
        Person::Bob => &organisation.bob,
    }
}

fn approval(manifest: &Manifest, key: &SigningKey, now: Timestamp) -> CompactJws {
    let approval = Approval { manifest: manifest.clone(), approved_at: now.whole_secs() };
    envelope::approve(&approval, key).expect("the fixture signs")
}
