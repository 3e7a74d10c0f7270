//! The life of a command as a pure table: a state and what happened give the next state.
//!
//! Owns every transition. No clock, no store. What a device has signed is final: what it says
//! afterwards is a conflict, to be recorded and never to be believed over the first. `expired` and
//! `cancelled` are only the control plane's word: a command that was sent may have arrived all the
//! same, and then the device's word stands. A wiped device must never be shown as spared.

use protocol::state::CommandState;

/// What happened to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// Enough persons approved, and the first wave of its order is to succeed before it leaves.
    PutBehind,
    /// Nothing is awaited any more; it has a number and a signature now.
    Released,
    /// It was handed to a session.
    Sent,
    /// The device has it on disk.
    Acked,
    /// The device was said to have it on disk, and by its own numbers has not.
    Lost,
    /// The device reports a stage.
    Progressed,
    /// The device's signed receipt says how it ended.
    Receipt {
        /// The terminal state that the receipt states.
        outcome: CommandState,
        /// Whether it is the very receipt that is stored already.
        is_stored: bool,
    },
    /// Its validity ended.
    Expired,
    /// An operator withdraws it.
    Withdrawn,
    /// The enrollment it was made for ended: nothing can be heard of it any more.
    EnrollmentEnded,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It goes on to that state.
    To(CommandState),
    /// Nothing changes, and nothing is wrong: a repetition, or old news.
    Stay,
    /// It contradicts what is known. The state stays.
    Conflict,
}

/// The transition table.
pub const fn step(state: CommandState, happening: Happening) -> Step {
    match happening {
        Happening::PutBehind => put_behind(state),
        Happening::Released => released(state),
        Happening::Sent => sent(state),
        Happening::Acked => acked(state),
        Happening::Lost => lost(state),
        Happening::Progressed => progressed(state),
        Happening::Receipt { outcome, is_stored } => receipt(state, outcome, is_stored),
        Happening::Expired => expired(state),
        Happening::Withdrawn => withdrawn(state),
        Happening::EnrollmentEnded => enrollment_ended(state),
    }
}

const fn put_behind(state: CommandState) -> Step {
    use CommandState as S;
    match state {
        S::AwaitingApproval => Step::To(S::AwaitingWave),
        S::AwaitingWave => Step::Stay,
        S::Queued | S::Sent | S::Acked | S::Running => Step::Conflict,
        S::Succeeded | S::Failed | S::Refused | S::Expired | S::Cancelled | S::InDoubt => {
            Step::Conflict
        }
    }
}

const fn released(state: CommandState) -> Step {
    use CommandState as S;
    match state {
        S::AwaitingApproval | S::AwaitingWave => Step::To(S::Queued),
        S::Queued | S::Sent | S::Acked | S::Running => Step::Stay,
        S::Succeeded | S::Failed | S::Refused | S::Expired | S::Cancelled | S::InDoubt => {
            Step::Conflict
        }
    }
}

const fn sent(state: CommandState) -> Step {
    use CommandState as S;
    match state {
        S::Queued => Step::To(S::Sent),
        // A device may answer before the sending is written down, or an operator withdraw.
        S::Sent | S::Acked | S::Running => Step::Stay,
        S::Succeeded | S::Failed | S::Refused | S::Expired | S::Cancelled | S::InDoubt => {
            Step::Stay
        }
        S::AwaitingApproval | S::AwaitingWave => Step::Conflict,
    }
}

const fn acked(state: CommandState) -> Step {
    use CommandState as S;
    match state {
        S::Queued | S::Sent | S::Expired | S::Cancelled => Step::To(S::Acked),
        S::Acked | S::Running | S::Succeeded | S::Failed | S::Refused => Step::Stay,
        S::AwaitingApproval | S::AwaitingWave | S::InDoubt => Step::Conflict,
    }
}

const fn lost(state: CommandState) -> Step {
    use CommandState as S;
    match state {
        // It is out still, and nobody may say that it never was.
        S::Acked | S::Running => Step::To(S::Sent),
        S::AwaitingApproval | S::AwaitingWave | S::Queued | S::Sent => Step::Stay,
        S::Succeeded | S::Failed | S::Refused | S::Expired | S::Cancelled | S::InDoubt => {
            Step::Stay
        }
    }
}

const fn progressed(state: CommandState) -> Step {
    use CommandState as S;
    match state {
        S::Queued | S::Sent | S::Acked | S::Expired | S::Cancelled => Step::To(S::Running),
        S::Running | S::Succeeded | S::Failed | S::Refused => Step::Stay,
        S::AwaitingApproval | S::AwaitingWave | S::InDoubt => Step::Conflict,
    }
}

const fn receipt(state: CommandState, outcome: CommandState, is_stored: bool) -> Step {
    use CommandState as S;
    match state {
        S::Queued | S::Sent | S::Acked | S::Running | S::Expired | S::Cancelled => {
            Step::To(outcome)
        }
        S::Succeeded | S::Failed | S::Refused | S::InDoubt => {
            if is_stored {
                Step::Stay
            } else {
                Step::Conflict
            }
        }
        S::AwaitingApproval | S::AwaitingWave => Step::Conflict,
    }
}

const fn expired(state: CommandState) -> Step {
    use CommandState as S;
    match state {
        S::AwaitingApproval | S::AwaitingWave | S::Queued | S::Sent => Step::To(S::Expired),
        // The device has it: only the device can say how it ended.
        S::Acked | S::Running => Step::Stay,
        S::Succeeded | S::Failed | S::Refused | S::Expired | S::Cancelled | S::InDoubt => {
            Step::Stay
        }
    }
}

const fn withdrawn(state: CommandState) -> Step {
    use CommandState as S;
    match state {
        S::AwaitingApproval | S::AwaitingWave | S::Queued | S::Sent => Step::To(S::Cancelled),
        S::Cancelled => Step::Stay,
        S::Acked | S::Running => Step::Conflict,
        S::Succeeded | S::Failed | S::Refused | S::Expired | S::InDoubt => Step::Conflict,
    }
}

const fn enrollment_ended(state: CommandState) -> Step {
    use CommandState as S;
    match state {
        S::AwaitingApproval | S::AwaitingWave | S::Queued => Step::To(S::Cancelled),
        // It was out, and its device can prove nothing any more. This is the only way in which
        // the control plane itself calls a command in doubt.
        S::Sent | S::Acked | S::Running => Step::To(S::InDoubt),
        S::Succeeded | S::Failed | S::Refused | S::Expired | S::Cancelled | S::InDoubt => {
            Step::Stay
        }
    }
}

#[cfg(test)]
mod tests;
