//! Plan: what a destructive action would do on this device, looked at and signed.
//!
//! Goes the way of every command, and changes nothing on it. What the device signs here is what
//! people approve: an order that is bound to the plan's hash is refused once the device would do
//! something else.
//!
//! Evidence: `plan_hash` (SHA-256 of the facts, base64url), `facts` (what is hashed) and `steps` (one
//! line per intended change, for a person).

use protocol::receipt::{Evidence, Failure};

use super::{Executor, Plan, Recovery, Task};
use crate::host::Host;

/// The executor of `plan`.
#[derive(Debug)]
pub struct Planned(Box<dyn Executor>);

impl Planned {
    /// Looks at what that executor would do.
    pub fn new(executor: Box<dyn Executor>) -> Self {
        Self(executor)
    }
}

impl Executor for Planned {
    fn plan(&self, host: &Host, task: &Task) -> Result<Plan, Failure> {
        self.0.plan(host, task)
    }

    fn apply(&self, _host: &Host, _task: &Task) -> Result<(), Failure> {
        Ok(())
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let plan = self.0.plan(host, task)?;
        let facts: serde_json::Map<_, _> =
            plan.facts.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        Ok(Evidence::new()
            .with("plan_hash", plan.hash().to_string())
            .with("steps", plan.steps)
            .with("facts", facts))
    }

    fn recover(&self, _host: &Host, _task: &Task) -> Recovery {
        Recovery::Apply
    }
}
