//! A disk that answers with errors under the journal of a running agent.

use crate::installation::{Device, Installation, eventually};
use crate::trap::{SYNCS, Trap, WRITES, is_possible};

/// Syncs of the journal that work before the one of the outcome: the command's and the intent's.
const BEFORE_OUTCOME: u32 = 2;

/// The disk is well again; the agent goes on, or is killed first and started afterwards.
fn heal(installation: &Installation, device: &mut Device, trap: Trap, is_killed: bool) {
    if is_killed {
        trap.kill();
        device.kill();
        device.start();
    } else {
        trap.release();
    }
    eventually("the agent is well", || (!device.is_journal_failing()).then_some(()));
    installation.online(&device.name);
}

fn ended_once(installation: &Installation, device: &Device, command: &str) {
    let ended = installation.ended(command);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(device.effects(command), 1, "found out, not repeated");
}

#[test]
fn f03_io_errors_of_the_journal_hold_the_command_back_until_the_disk_is_well() {
    if !is_possible() {
        return;
    }
    let installation = Installation::new();
    let mut device = installation.device("web-1");
    for (calls, is_killed) in [(SYNCS, false), (WRITES, false), (SYNCS, true), (WRITES, true)] {
        let trap = Trap::break_journal(device.pid(), calls, 0);
        let command = installation.order("lock", &device.name);
        eventually("the agent says so", || device.is_journal_failing().then_some(()));
        let shown = installation.command(&command);
        assert!(shown["acked_at"].is_null(), "acked, and not on disk: {shown}");
        assert_eq!(device.effects(&command), 0, "no effect without its record");
        heal(&installation, &mut device, trap, is_killed);
        ended_once(&installation, &device, &command);
    }
}

#[test]
fn f03_io_error_after_the_effect_holds_the_receipt_back_and_repeats_nothing() {
    if !is_possible() {
        return;
    }
    let installation = Installation::new();
    let mut device = installation.device("web-1");
    for is_killed in [false, true] {
        let trap = Trap::break_journal(device.pid(), SYNCS, BEFORE_OUTCOME);
        let command = installation.order("lock", &device.name);
        eventually("the agent says so", || device.is_journal_failing().then_some(()));
        assert_eq!(device.effects(&command), 1);
        let shown = installation.command(&command);
        assert!(shown["receipt"].is_null(), "a receipt that is not on disk: {shown}");
        heal(&installation, &mut device, trap, is_killed);
        ended_once(&installation, &device, &command);
    }
}
