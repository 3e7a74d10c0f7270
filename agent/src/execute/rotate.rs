//! Rotate-credentials and crypto-lock: a new credential is added, tried, and escrowed; only then
//! the former one goes.
//!
//! `apply` makes the new credential and seals it to the recovery key that the order names; what is
//! sealed leaves for the control plane, and `finish` follows only when that holds it. When it does
//! not say so in time, `withdraw` takes the new credential back. So whatever breaks off, the
//! device opens with a credential that is in escrow, or with the one that it had before.
//!
//! A rotation of volumes gives each managed volume a new recovery key, and empties the keyslot of
//! the former one; nobody else's keyslot is touched. A rotation of an account replaces its
//! password, if it has one. A crypto lock is a rotation of volumes that empties every other
//! keyslot, the agent's own too, after which the device powers off.
//!
//! Evidence: `credential` (`volumes`, `account`), `sealed_sha256` and `recovery_key`; of volumes
//! `volumes`, a list of `{path, uuid, format, slot, former_slots, keyslots}`; of an account
//! `account`; of a crypto lock besides `grade` and `header_backup_opens`, as of a wipe.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::action::{self, Credential};
use protocol::escrow::Subject;
use protocol::receipt::{Evidence, Failure, FailureKind};
use protocol::sealed::CaseKey;

use self::account::Account;
use self::volumes::Volumes;
use super::{Afterwards, Executor, Plan, Recovery, Task, failure};
use crate::host::Host;

pub use self::managed::{Manage, ManagedVolumes};
pub use super::course::patience::KEYSLOT as PATIENCE;

mod account;
mod crypt;
mod keyslots;
mod managed;
mod record;
mod secret;
mod volumes;

/// A rotation and a crypto lock may be under way at once, in two lanes: one step at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has to be in escrow before the former credential goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escrowing {
    /// What the credentials open.
    pub subjects: Vec<Subject>,
    /// Whose key opens what is sealed.
    pub recovery_key: CaseKey,
    /// The credentials, sealed.
    pub sealed: String,
}

/// The outcome of a rotation that nobody confirmed.
fn late() -> Failure {
    let detail =
        "the control plane did not confirm the escrow in time; the former credential stays";
    failure(FailureKind::Timeout, "escrow", detail)
}

/// The executor of `rotate_credentials`.
#[derive(Debug)]
pub struct RotateCredentials {
    params: action::RotateCredentials,
    volumes: Volumes<false>,
}

impl RotateCredentials {
    /// With those parameters.
    pub fn new(params: action::RotateCredentials) -> Self {
        Self::patient(params, PATIENCE)
    }

    /// The same, where `cryptsetup` may take that long for one keyslot.
    pub fn patient(params: action::RotateCredentials, patience: Duration) -> Self {
        let volumes = Volumes::new(params.recovery_key, patience);
        Self { params, volumes }
    }

    fn account(&self) -> Option<Account<'_>> {
        match &self.params.credential {
            Credential::Volumes => None,
            Credential::Account(name) => Some(Account { name, key: &self.params.recovery_key }),
        }
    }
}

impl Executor for RotateCredentials {
    fn plan(&self, host: &Host, task: &Task) -> Result<Plan, Failure> {
        match self.account() {
            Some(account) => account.plan(host),
            None => self.volumes.plan(host, task),
        }
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let _alone = alone();
        match self.account() {
            Some(account) => account.apply(host, task),
            None => self.volumes.apply(host, task),
        }
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        match self.account() {
            Some(account) => account.prove(host, task),
            None => self.volumes.prove(host, task),
        }
    }

    fn has_remainder(&self, host: &Host, task: &Task) -> bool {
        self.escrow(host, task).is_some()
    }

    fn escrow(&self, host: &Host, task: &Task) -> Option<Escrowing> {
        self.volumes.escrow(host, task)
    }

    fn finish(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let _alone = alone();
        match self.account() {
            Some(account) => account.finish(host, task),
            None => self.volumes.finish(host, task),
        }
    }

    fn withdraw(&self, host: &Host, task: &Task) -> Failure {
        let _alone = alone();
        self.volumes.withdraw(host, task)
    }

    fn recover(&self, host: &Host, task: &Task) -> Recovery {
        self.volumes.recover(host, task)
    }
}

/// The executor of `crypto_lock`.
#[derive(Debug)]
pub struct CryptoLock(Volumes<true>);

impl CryptoLock {
    /// With those parameters.
    pub fn new(params: &action::CryptoLock) -> Self {
        Self(Volumes::new(params.recovery_key, PATIENCE))
    }
}

impl Executor for CryptoLock {
    fn plan(&self, host: &Host, task: &Task) -> Result<Plan, Failure> {
        self.0.plan(host, task)
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let _alone = alone();
        self.0.apply(host, task)
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        self.0.prove(host, task)
    }

    fn has_remainder(&self, host: &Host, task: &Task) -> bool {
        self.escrow(host, task).is_some()
    }

    fn escrow(&self, host: &Host, task: &Task) -> Option<Escrowing> {
        self.0.escrow(host, task)
    }

    fn finish(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let _alone = alone();
        self.0.finish(host, task)
    }

    fn withdraw(&self, host: &Host, task: &Task) -> Failure {
        let _alone = alone();
        self.0.withdraw(host, task)
    }

    fn has_begun(&self, host: &Host, task: &Task) -> bool {
        self.0.has_begun(host, task)
    }

    fn recover(&self, host: &Host, task: &Task) -> Recovery {
        self.0.recover(host, task)
    }

    fn afterwards(&self) -> Afterwards {
        Afterwards::PowerOff
    }
}
