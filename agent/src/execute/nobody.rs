//! Nobody: in the place of an executor for orders about other orders, which touch no host.
//!
//! The agent carries those out where it remembers its commands. Should one come here all the same,
//! it fails and nothing is done.

use protocol::receipt::{Evidence, Failure, FailureKind};

use super::{Executor, Plan, Recovery, Task, failure};
use crate::host::Host;

/// The executor of what no executor carries out.
#[derive(Debug)]
pub struct Nobody;

fn nobody(stage: &str) -> Failure {
    failure(FailureKind::Internal, stage, "no executor carries out what is about other orders")
}

impl Executor for Nobody {
    fn plan(&self, _host: &Host, _task: &Task) -> Result<Plan, Failure> {
        Err(nobody("plan"))
    }

    fn apply(&self, _host: &Host, _task: &Task) -> Result<(), Failure> {
        Err(nobody("apply"))
    }

    fn prove(&self, _host: &Host, _task: &Task) -> Result<Evidence, Failure> {
        Err(nobody("prove"))
    }

    fn recover(&self, _host: &Host, _task: &Task) -> Recovery {
        Recovery::InDoubt
    }
}
