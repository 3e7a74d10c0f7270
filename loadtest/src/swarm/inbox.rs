//! What a simulated device makes of a frame, by whatever rung it came.
//!
//! Decides nothing about commands, which is the device's part, and owns no connection: it says
//! what there is to send.

use std::time::Instant;

use protocol::frame::{AgentFrame, HubFrame, Mode, Reconnect};
use protocol::id::CommandId;
use protocol::time::Timestamp;

use super::device::{Delivered, Device};
use crate::tally::{Stage, Tally};

/// What follows from a frame.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Frames to send, in order.
    pub(super) send: Vec<AgentFrame>,
    /// Whose ack is among them.
    pub(super) acking: Option<CommandId>,
    /// Something earlier is missing.
    pub(super) is_gap: bool,
    /// What the hub asked for.
    pub(super) asked: Option<Asked>,
}

/// What a hub may ask of a session.
#[derive(Debug)]
pub(super) enum Asked {
    Mode(Mode),
    Move(Reconnect),
}

/// Takes a frame in.
pub(super) fn hear(
    (device, tally): (&mut Device, &Tally),
    frame: HubFrame,
    read_at: Instant,
    wall: Timestamp,
) -> Heard {
    let mut heard = Heard::default();
    match frame {
        HubFrame::Command(command) => {
            let command_id = command.command_id;
            tally.received(command_id, read_at);
            match device.deliver(&command, wall) {
                Delivered::Taken => {
                    heard.acking = Some(command_id);
                    heard.send.push(AgentFrame::Ack { command_id });
                }
                Delivered::Known(answer) => {
                    tally.redelivered();
                    heard.send.push(answer);
                }
                Delivered::Dropped => tally.error("command dropped, ledger full"),
                Delivered::Gap => heard.is_gap = true,
                Delivered::Refused(reason, receipt) => {
                    tally.error(format_args!("command refused, {}", reason.as_str()));
                    heard.send.extend(receipt);
                }
            }
        }
        HubFrame::Confirmed { receipts } => {
            for receipt in receipts {
                if let Some(command_id) = device.confirm(receipt, wall) {
                    tally.reached(command_id, Stage::Confirmed, read_at);
                }
            }
        }
        HubFrame::Trust { root } => {
            if device.trust(&root).is_err() {
                tally.error("trust root not taken");
            }
        }
        HubFrame::Reconnect(reconnect) => heard.asked = Some(Asked::Move(reconnect)),
        HubFrame::Mode { mode, .. } => {
            tally.mode(device.told(), read_at);
            heard.asked = Some(Asked::Mode(mode));
        }
        HubFrame::Welcome(_) | HubFrame::Checkpoint { .. } | HubFrame::Unknown => {}
    }
    heard
}

/// Carries out what was taken: receipts to send.
pub(super) fn work((device, tally): (&mut Device, &Tally), wall: Timestamp) -> Vec<AgentFrame> {
    let ended = device.work(wall);
    ended.iter().for_each(|(command_id, _)| tally.took_effect(*command_id));
    ended.into_iter().map(|(_, frame)| frame).collect()
}
