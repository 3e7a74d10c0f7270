//! What an executor has put up and only a command may take down: quarantine and lock.
//!
//! Put up again at the start, before there is any connection, and looked at from then on: a
//! ruleset that somebody flushed, or that the kernel was not ready for, does not stay away. Must
//! not run beside an executor: the caller sees to that.

use protocol::id::CommandId;
use protocol::ledger::{Ledger, Record};
use protocol::receipt::Failure;
use protocol::time::Timestamp;
use tokio::sync::mpsc;

use crate::execute::lock::{Upheld as LockUpheld, wiping};
use crate::execute::quarantine::{Tampering, Upheld, Watch};
use crate::execute::{lock, quarantine, wipe};
use crate::host::Host;
use crate::journal::Journal;
use crate::offline;
use crate::reconcile::Noticed;
use crate::state::StateDir;

/// Puts up again what a reboot took down. What went wrong with one does not keep the other down.
pub(crate) fn put_up(host: &Host) -> Vec<Failure> {
    let mut failures = Vec::new();
    // Before: what a code had begun to end is not put up.
    failures.extend(offline::resume(host).err());
    match quarantine::reassert(host) {
        Ok(stands) => tracing::info!(stands, "quarantine looked at"),
        Err(failure) => failures.push(failure),
    }
    match lock::reassert(host) {
        Ok(state) => tracing::info!(stands = state.is_some(), "lock looked at"),
        Err(failure) => failures.push(failure),
    }
    match wiping::reassert(host) {
        Ok(closed) => tracing::info!(closed, "doors of a wipe looked at"),
        Err(failure) => failures.push(failure),
    }
    for failure in &failures {
        tracing::error!(stage = failure.stage, detail = failure.detail, "not re-asserted");
    }
    failures
}

/// Gives the doors back after a wipe that came to its end before this boot: somebody switched the
/// device on again, and an agent whose key went with the TPM never starts to do it.
pub(crate) fn open_after_wipe(host: &Host) -> Result<(), Failure> {
    // Of a claim that cannot be read nobody knows whose it is: see `wiping::reassert`.
    let Ok(Some(claimed)) = wiping::claimed(host) else { return Ok(()) };
    if wipe::ended(host)? == Some(claimed) && wiping::give_back(host)? {
        tracing::warn!(command.id = %claimed, "wipe ended in a former boot: doors are as before");
    }
    Ok(())
}

/// Goes on with a wipe that was cut off, so far as its keys: before anybody can log in, and with no network
/// to ask. It must still be open in the journal, as begun: one that failed has had its receipt, and
/// one that a damaged journal may have lost is its agent's to find out about.
pub(crate) fn go_on_wiping(host: &Host, state: &StateDir) -> anyhow::Result<Option<CommandId>> {
    let failed = |failure: Failure| anyhow::anyhow!("{}", failure.detail);
    let Some(command_id) = wipe::unfinished(host).map_err(failed)? else { return Ok(None) };
    let Some(enrollment) = state.enrollment()? else { return Ok(None) };
    let Some(records) = Journal::peek(&state.journal_path(&enrollment))? else { return Ok(None) };
    let intent = Record::Intent { command_id };
    if !records.contains(&intent) || !Ledger::replay(&records).is_open(command_id) {
        return Ok(None);
    }
    tracing::warn!(command.id = %command_id, "wipe that was cut off goes on");
    wipe::resume(host).map_err(failed)?;
    Ok(Some(command_id))
}

/// The word of a notice about a quarantine that stands again.
pub(crate) const fn noticed(tampering: Tampering) -> &'static str {
    match tampering {
        Tampering::Removed => "quarantine_removed",
        Tampering::Altered => "quarantine_altered",
        Tampering::Flushed => "quarantine_flushed",
        Tampering::DeviceLeft => "quarantine_device_left",
    }
}

/// The lock and the quarantine of a host.
#[derive(Debug)]
pub(crate) struct Standing;

impl Standing {
    /// Puts up again what a reboot took down. A failure is told, is made good later, and does
    /// not keep the agent from asking for help.
    pub(crate) fn at_start(host: &Host) -> Self {
        put_up(host);
        Self
    }

    /// Watches over the quarantine, be there one now or later. Without a watch it is looked at from
    /// time to time only.
    pub(crate) fn watch(&self, host: &Host, tell: mpsc::Sender<Noticed>) -> Option<Watch> {
        let its = host.clone();
        let told = move |tampering| {
            let Ok(Some(recorded)) = quarantine::current(&its) else { return };
            let what = noticed(tampering);
            // It may not wait: whoever reads waits for the watch when the agent ends.
            if tell.try_send(Noticed { command_id: recorded.command_id, what, when: None }).is_err()
            {
                tracing::warn!(what, "too many notices wait; this one is not sent");
            }
        };
        Watch::start(host.clone(), told)
            .inspect_err(|failure| {
                tracing::error!(detail = failure.detail, "quarantine not watched");
            })
            .ok()
    }

    /// When what stands ends by itself, as the record says.
    pub(crate) fn until(host: &Host) -> Option<Timestamp> {
        quarantine::current(host).ok().flatten()?.until
    }

    /// Takes down what has come to its signed end, puts up again what is gone, and answers what the
    /// control plane should know. The doors of a wipe are given back unless that command is
    /// `open`. Blocks.
    pub(crate) fn uphold(&self, host: &Host, now: Timestamp, open: &[CommandId]) -> Vec<Noticed> {
        uphold_doors(host, open);
        let quarantine = uphold_quarantine(host, now);
        quarantine.into_iter().chain(uphold_lock(host)).collect()
    }
}

fn uphold_quarantine(host: &Host, now: Timestamp) -> Option<Noticed> {
    match quarantine::expire(host, now) {
        Ok(Some(command_id)) => {
            tracing::warn!(command.id = %command_id, "quarantine has come to its end");
            return Some(Noticed { command_id, what: "quarantine_ended", when: None });
        }
        Ok(None) => {}
        Err(failure) => {
            // Nothing is put up that should be down: it is tried again.
            tracing::error!(detail = failure.detail, "quarantine not ended");
            return None;
        }
    }
    if let Err(failure) = offline::resume(host) {
        tracing::error!(detail = failure.detail, "what a code ended is not at its end");
    }
    let recorded = quarantine::current(host).ok().flatten();
    let mut what = None;
    match quarantine::uphold(host) {
        Ok(Upheld::NotQuarantined | Upheld::Stands | Upheld::Covered) => {}
        Ok(Upheld::Mended(tampering)) => {
            what = Some(noticed(tampering));
            tracing::error!(what, "quarantine was tampered with, and stands again");
        }
        Ok(Upheld::Confirmed) => tracing::warn!("quarantine without an end is confirmed"),
        Ok(Upheld::RolledBack) => {
            what = Some("quarantine_rolled_back");
            tracing::error!("quarantine without an end and without an answer rolled back");
        }
        Err(failure) => tracing::error!(detail = failure.detail, "quarantine not upheld"),
    }
    let command_id = recorded?.command_id;
    what.map(|what| Noticed { command_id, what, when: None })
}

/// Only what stood open beside a running agent is told: at its start it may have been an order
/// that was cut off half way.
fn uphold_lock(host: &Host) -> Option<Noticed> {
    match lock::uphold(host) {
        Ok(LockUpheld::NotLocked | LockUpheld::Stands) => None,
        Ok(LockUpheld::Renewed) => {
            tracing::warn!("text of a lock was gone, as after every boot, and is there again");
            None
        }
        Ok(LockUpheld::Opened(command_id)) => {
            tracing::error!(command.id = %command_id, "lock was tampered with, and stands again");
            Some(Noticed { command_id, what: "lock_opened", when: None })
        }
        Err(failure) => {
            tracing::error!(detail = failure.detail, "lock not upheld");
            None
        }
    }
}

/// Holds the doors closed for a wipe that goes on, and gives them back after one that is over.
fn uphold_doors(host: &Host, open: &[CommandId]) {
    let claimed = wiping::claimed(host);
    let goes_on =
        claimed.as_ref().is_ok_and(|claimed| claimed.is_some_and(|id| open.contains(&id)));
    if goes_on {
        match wiping::uphold(host) {
            Ok(false) => {}
            Ok(true) => tracing::error!("door of a wiped device stood open, and is closed again"),
            Err(failure) => tracing::error!(detail = failure.detail, "doors of a wipe not upheld"),
        }
        return;
    }
    match wiping::give_back(host) {
        Ok(false) => {}
        Ok(true) => tracing::warn!("wipe is over and the power is on: doors are as before"),
        Err(failure) => tracing::error!(detail = failure.detail, "doors are not given back"),
    }
}
