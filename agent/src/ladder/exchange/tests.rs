//! What waits for a request: of advances only the newest.

use protocol::advance::Advance;
use protocol::id::CommandId;
use protocol::time::Timestamp;
use tokio::sync::mpsc;

use super::*;

fn command(number: u8) -> CommandId {
    CommandId::new(Timestamp::default(), [number; 10])
}

fn at(number: u8, stage: &str, done: u64) -> AgentFrame {
    let advance = Some(Advance::default().bytes(done, 1000));
    AgentFrame::Progress { command_id: command(number), stage: stage.to_owned(), advance }
}

#[test]
fn newer_advance_takes_the_place_of_the_one_that_waits() {
    let (sender, frames) = mpsc::channel(16);
    let mut outgoing = Outgoing::new(frames);
    let stage = AgentFrame::stage(command(1), "finish".to_owned());
    let ack = AgentFrame::Ack { command_id: command(2) };
    for frame in [stage, ack.clone(), at(1, "finish", 1), at(2, "apply", 5), at(1, "finish", 2)] {
        sender.try_send(frame).unwrap();
    }
    assert_eq!(outgoing.batch(), [at(1, "finish", 2), ack, at(2, "apply", 5)]);
}

#[test]
fn advance_that_comes_during_a_request_goes_with_the_next_one() {
    let (sender, frames) = mpsc::channel(16);
    let mut outgoing = Outgoing::new(frames);
    sender.try_send(at(1, "finish", 1)).unwrap();
    let sent = outgoing.batch();
    outgoing.hold(at(1, "finish", 2));
    outgoing.hold(at(1, "finish", 3));
    outgoing.answered(sent.len());
    assert_eq!(outgoing.batch(), [at(1, "finish", 3)]);
}
