//! Reboot: the device's system starts again, and the next boot is the proof.
//!
//! The boot in which the order was carried out is written down before anything is asked for.
//! Whoever looks in a later boot knows that it worked; an agent that starts again in the same one
//! knows that it did not come, and asks again.
//!
//! Evidence: `boot_id_before`, `boot_id_after`.

use std::time::Duration;

use protocol::id::{BootId, CommandId};
use protocol::receipt::{Evidence, Failure, FailureKind};
use runtime::clock::BOOT_ID_PATH;
use serde::{Deserialize, Serialize};

use super::state_file::StateFile;
use super::{Executor, Plan, Recovery, Task, failure};
use crate::host::{Host, Shutdown};

#[cfg(test)]
mod tests;

/// How long services may take to stop until the reboot is called failed.
const WITHIN: Duration = Duration::from_secs(10 * 60);

/// The executor of `reboot`.
#[derive(Debug, Default)]
pub struct Reboot;

/// In which boot a command asked for the next one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    command_id: CommandId,
    boot_id: BootId,
}

impl StateFile for Asked {
    const NAME: &'static str = "reboot.json";
}

impl Asked {
    /// By that command, if it asked.
    fn by(host: &Host, task: &Task, stage: &str) -> Result<Option<Self>, Failure> {
        let asked = Self::load(host, stage)?;
        Ok(asked.filter(|asked| asked.command_id == task.command_id))
    }
}

impl Executor for Reboot {
    fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let boot_id = this_boot(host, "plan")?;
        let steps = vec!["start the system again".to_owned()];
        Ok(Plan { steps, facts: Evidence::new().with("boot_id", boot_id.to_string()) })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let boot_id = this_boot(host, "apply")?;
        Asked { command_id: task.command_id, boot_id }.save(host, "apply")?;
        host.shut_down(Shutdown::Reboot)
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let now = this_boot(host, "prove")?;
        let not_proven = |detail| failure(FailureKind::NotProven, "prove", detail);
        let asked = Asked::by(host, task, "prove")?
            .ok_or_else(|| not_proven("no reboot of this command is recorded"))?;
        if asked.boot_id == now {
            return Err(not_proven("the system has not started again"));
        }
        Ok(Evidence::new()
            .with("boot_id_before", asked.boot_id.to_string())
            .with("boot_id_after", now.to_string()))
    }

    fn recover(&self, host: &Host, task: &Task) -> Recovery {
        match (this_boot(host, "recover"), Asked::by(host, task, "recover")) {
            (Ok(now), Ok(Some(asked))) if asked.boot_id != now => Recovery::Applied,
            // It was not asked for, or did not come: nothing else starts a system twice.
            (Ok(_), Ok(_)) => Recovery::Apply,
            (Err(_), _) | (_, Err(_)) => Recovery::InDoubt,
        }
    }

    fn awaits_boot(&self) -> Option<Duration> {
        Some(WITHIN)
    }
}

fn this_boot(host: &Host, stage: &str) -> Result<BootId, Failure> {
    let unknown = |error: &dyn std::fmt::Display| {
        let detail =
            format!("the boot id cannot be read, so that nothing could be proven: {error}");
        failure(FailureKind::Precondition, stage, detail)
    };
    let text = std::fs::read_to_string(host.path(BOOT_ID_PATH)).map_err(|error| unknown(&error))?;
    text.trim().parse().map_err(|error| unknown(&error))
}
