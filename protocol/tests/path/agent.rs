//! The agent as the simulation knows it: a disk that survives, a memory that does not, and every
//! step between them where a crash may fall.

use std::collections::VecDeque;

use protocol::fixture::{self, Organisation};
use protocol::frame::{AgentFrame, HubFrame};
use protocol::id::CommandId;
use protocol::jws::CompactJws;
use protocol::ledger::{Answer, Ledger, Offer, Record, Work};
use protocol::state::Lane;

/// A mistake that an implementation could make, planted to see whether the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The journal is never synced.
    NoSync,
    /// The ack leaves before the journal holds the command.
    AckBeforeJournal,
    /// The effect begins without an intent on disk.
    NoIntent,
    /// After a crash the effect is repeated without looking.
    NoProbe,
    /// A gap in the lane is not noticed.
    IgnoreGap,
    /// The agent forgets its receipt when it is sent, not when it is confirmed.
    ForgetOnSend,
    /// The store confirms a receipt that it then loses.
    ConfirmBeforeCommit,
    /// A command that was sent can still be withdrawn.
    WithdrawSent,
}

impl Bug {
    pub(crate) const ALL: [Self; 8] = [
        Self::NoSync,
        Self::AckBeforeJournal,
        Self::NoIntent,
        Self::NoProbe,
        Self::IgnoreGap,
        Self::ForgetOnSend,
        Self::ConfirmBeforeCommit,
        Self::WithdrawSent,
    ];
}

/// One step; a crash may come between any two.
#[derive(Debug, Clone)]
enum Step {
    Write(Record),
    Sync,
    Apply(Record),
    Send(AgentFrame),
    Effect(CommandId),
}

/// What outlives the agent's process.
#[derive(Debug, Default)]
pub(crate) struct Device {
    journal: Vec<Record>,
    synced: usize,
    /// Every effect that ever happened, in order.
    pub(crate) effects: Vec<CommandId>,
}

/// The agent on its device.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) device: Device,
    ledger: Ledger,
    steps: VecDeque<Step>,
    /// Frames that the current session is to send.
    pub(crate) outgoing: VecDeque<AgentFrame>,
    /// One request at a time: every late frame of a lane shows the same gap.
    is_syncing: bool,
    bug: Option<Bug>,
}

impl Agent {
    pub(crate) fn new(bug: Option<Bug>) -> Self {
        Self {
            device: Device::default(),
            ledger: Ledger::default(),
            steps: VecDeque::new(),
            outgoing: VecDeque::new(),
            is_syncing: false,
            bug,
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(crate) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The process dies; what was not synced is lost, but for `kept` records of it.
    pub(crate) fn crash(&mut self, kept: usize) {
        let length = (self.device.synced + kept).min(self.device.journal.len());
        self.device.journal.truncate(length);
        self.device.synced = length;
        self.ledger = Ledger::replay(&self.device.journal);
        self.steps.clear();
        self.outgoing.clear();
    }

    /// A session stands: receipts that were not confirmed go out again.
    pub(crate) fn connected(&mut self) {
        self.outgoing.clear();
        self.is_syncing = false;
        let receipts = self.ledger.unconfirmed();
        self.outgoing.extend(receipts.map(|(command_id, jws)| receipt(command_id, jws)));
    }

    /// Whether it can take another frame: one thing at a time.
    pub(crate) fn is_busy(&self) -> bool {
        !self.steps.is_empty()
    }

    pub(crate) fn take(&mut self, frame: &HubFrame, organisation: &Organisation) {
        match frame {
            HubFrame::Command(command) => {
                let verifying = organisation.verifying(fixture::device(1));
                let mut command = command.clone();
                if self.has(Bug::IgnoreGap) {
                    command.after_seq = 0;
                }
                match self.ledger.offer(&command, &verifying) {
                    Offer::Take(received) => self.receive(Record::Received(*received)),
                    Offer::Known(answer) => self.answer(command.command_id, answer),
                    Offer::Gap => self.sync(),
                    // Late copies of what was confirmed and forgotten: nothing is owed.
                    Offer::Refuse(_) | Offer::Drop => {}
                }
            }
            HubFrame::Confirmed { receipts } => {
                for receipt_sha256 in receipts.iter().cloned() {
                    self.record(Record::Confirmed { receipt_sha256 });
                }
            }
            HubFrame::Welcome(_)
            | HubFrame::Trust { .. }
            | HubFrame::Mode { .. }
            | HubFrame::Reconnect(_)
            | HubFrame::Unknown => {}
        }
    }

    fn sync(&mut self) {
        if !std::mem::replace(&mut self.is_syncing, true) {
            let last_seq = self.ledger.last_seq();
            self.outgoing.push_back(AgentFrame::Sync { last_seq });
        }
    }

    fn receive(&mut self, record: Record) {
        let Record::Received(received) = &record else { return };
        self.is_syncing = false;
        let ack = Step::Send(AgentFrame::Ack { command_id: received.command_id });
        if self.has(Bug::AckBeforeJournal) {
            self.steps.push_back(ack);
            self.record(record);
        } else {
            self.record(record);
            self.steps.push_back(ack);
        }
    }

    fn answer(&mut self, command_id: CommandId, answer: Answer) {
        match answer {
            Answer::Ack => self.outgoing.push_back(AgentFrame::Ack { command_id }),
            Answer::Receipt(jws) => self.outgoing.push_back(receipt(command_id, &jws)),
        }
    }

    /// On disk, then in memory.
    fn record(&mut self, record: Record) {
        self.steps.push_back(Step::Write(record.clone()));
        if !self.has(Bug::NoSync) {
            self.steps.push_back(Step::Sync);
        }
        self.steps.push_back(Step::Apply(record));
    }

    /// Does one step, or begins the next command. Says whether there was anything to do.
    pub(crate) fn step(&mut self) -> bool {
        let Some(step) = self.steps.pop_front() else {
            let work = Lane::ALL.into_iter().find_map(|lane| self.ledger.next_work(lane));
            return work.map(|work| self.begin(&work)).is_some();
        };
        match step {
            Step::Write(record) => self.device.journal.push(record),
            Step::Sync => self.device.synced = self.device.journal.len(),
            Step::Apply(record) => self.ledger.apply(&record),
            Step::Send(frame) => self.outgoing.push_back(frame),
            Step::Effect(command_id) => self.device.effects.push(command_id),
        }
        true
    }

    fn begin(&mut self, work: &Work) {
        let command_id = work.command_id;
        let is_begun = work.is_begun || (self.has(Bug::NoIntent) && self.is_applied(command_id));
        if !is_begun && !self.has(Bug::NoIntent) {
            self.record(Record::Intent { command_id });
        }
        let is_applied = work.is_begun && self.is_applied(command_id) && !self.has(Bug::NoProbe);
        if !is_applied {
            self.steps.push_back(Step::Effect(command_id));
        }
        let jws = CompactJws::from_text(format!("receipt of {command_id}"));
        self.record(Record::Done { command_id, receipt: jws.clone() });
        self.steps.push_back(Step::Send(receipt(command_id, &jws)));
        if self.has(Bug::ForgetOnSend) {
            self.record(Record::Confirmed { receipt_sha256: jws.sha256() });
        }
    }

    /// The probe: looks at the world, not at the journal.
    fn is_applied(&self, command_id: CommandId) -> bool {
        self.device.effects.contains(&command_id)
    }
}

fn receipt(command_id: CommandId, jws: &CompactJws) -> AgentFrame {
    AgentFrame::Receipt { command_id, jws: jws.clone() }
}
