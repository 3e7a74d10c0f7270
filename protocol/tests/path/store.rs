//! The control plane as the simulation knows it: what is committed, and what it answers.

use crate::agent::Bug;
use protocol::action::{Action, Refresh};
use protocol::fixture::{self, Organisation};
use protocol::frame::{AgentFrame, CommandFrame, HubFrame};
use protocol::id::CommandId;
use protocol::state::{CommandState, Lane, PerLane};

/// One command in the store.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) frame: CommandFrame,
    pub(crate) seq: u64,
    pub(crate) state: CommandState,
}

/// The rows, in the order of their making. Survives every crash.
#[derive(Debug)]
pub(crate) struct Store {
    organisation: Organisation,
    pub(crate) rows: Vec<Row>,
    next_seq: PerLane<u64>,
    handled: usize,
    bug: Option<Bug>,
}

impl Store {
    pub(crate) fn new(bug: Option<Bug>) -> Self {
        let organisation = Organisation::new();
        let next_seq = PerLane { urgent: 1, bulk: 1 };
        Self { organisation, rows: Vec::new(), next_seq, handled: 0, bug }
    }

    pub(crate) const fn organisation(&self) -> &Organisation {
        &self.organisation
    }

    /// Commits a new command. Its first delivery is a pending one like any other.
    pub(crate) fn create(&mut self, lane: Lane) {
        let number = u8::try_from(self.rows.len() + 1).expect("few commands in one run");
        let action = match lane {
            Lane::Urgent => fixture::lock(),
            Lane::Bulk => Action::Refresh(Refresh {}),
        };
        let seq = *self.next_seq.get(lane);
        *self.next_seq.get_mut(lane) += 1;
        let envelope = self.organisation.envelope(number, action, fixture::device(1), seq);
        let frame = self.organisation.deliver(&envelope, 0);
        self.rows.push(Row { frame, seq, state: CommandState::Queued });
    }

    /// Withdraws a command that no agent has.
    pub(crate) fn cancel(&mut self, at: usize) {
        let withdraws_sent = self.bug == Some(Bug::WithdrawSent);
        if let Some(row) = self.rows.get_mut(at)
            && (row.state == CommandState::Queued || (withdraws_sent && row.state.is_undelivered()))
        {
            row.state = CommandState::Cancelled;
        }
    }

    /// Everything that the agent may still have to be told of, in order, chained by `after_seq`.
    /// It counts as sent before it leaves: what was withdrawn can never have been sent.
    pub(crate) fn pending(&mut self) -> Vec<HubFrame> {
        let mut after_seq = PerLane { urgent: 0, bulk: 0 };
        let mut frames = Vec::new();
        for row in self.rows.iter_mut().filter(|row| row.state.is_undelivered()) {
            row.state = CommandState::Sent;
            let previous = std::mem::replace(after_seq.get_mut(row.frame.lane), row.seq);
            let frame = CommandFrame { after_seq: previous, ..row.frame.clone() };
            frames.push(HubFrame::Command(frame));
        }
        frames
    }

    /// Commits what an agent said, and returns the answer.
    pub(crate) fn handle(&mut self, frame: &AgentFrame) -> Vec<HubFrame> {
        self.handled += 1;
        let loses = self.bug == Some(Bug::ConfirmBeforeCommit) && self.handled.is_multiple_of(4);
        match frame {
            AgentFrame::Hello(_) | AgentFrame::Sync { .. } => self.pending(),
            AgentFrame::Ack { command_id } => {
                if let Some(row) = self.row(*command_id)
                    && row.state.is_undelivered()
                {
                    row.state = CommandState::Acked;
                }
                Vec::new()
            }
            AgentFrame::Receipt { command_id, jws } => {
                if let Some(row) = self.row(*command_id)
                    && !row.state.is_terminal()
                    && !loses
                {
                    row.state = CommandState::Succeeded;
                }
                vec![HubFrame::Confirmed { receipts: vec![jws.sha256()] }]
            }
            AgentFrame::Progress { .. } | AgentFrame::Unknown => Vec::new(),
        }
    }

    fn row(&mut self, command_id: CommandId) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.frame.command_id == command_id)
    }
}
