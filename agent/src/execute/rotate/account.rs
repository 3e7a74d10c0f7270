//! The password of a local account: made and sealed first, put into `shadow(5)` once it is escrowed.
//!
//! There is one place for a password, so nothing can stand beside the former one: what is added and
//! tried before the escrow is the hash in the record. An account without a password, or one that an
//! administrator has locked, stays as it is.

use protocol::escrow::{self, Subject};
use protocol::receipt::{Evidence, Failure, FailureKind};
use protocol::sealed::CaseKey;
use runtime::Entropy;

use super::record::{Password, Phase, Rotation};
use super::secret::Secret;
use super::{crypt, late};
use crate::execute::lock;
use crate::execute::state_file::StateFile as _;
use crate::execute::{Plan, Task, failure, sha256_hex};
use crate::host::Host;

/// One account, and whose key reads its next password.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account<'a> {
    pub(super) name: &'a str,
    pub(super) key: &'a CaseKey,
}

impl Account<'_> {
    pub(super) fn plan(self, host: &Host) -> Result<Plan, Failure> {
        self.former(host, "plan")?;
        let steps = vec![
            format!("make a password for {}, and seal it to {}", self.name, self.key),
            "once it is escrowed, put it into /etc/shadow".to_owned(),
        ];
        let facts = Evidence::new()
            .with("credential", "account")
            .with("account", self.name)
            .with("recovery_key", self.key.to_string());
        Ok(Plan { steps, facts })
    }

    /// The hash of its password now, if it is one that may be replaced.
    fn former(self, host: &Host, stage: &str) -> Result<String, Failure> {
        let lacks = |detail: String| Err(failure(FailureKind::Precondition, stage, detail));
        if let Some(state) = lock::current(host)?
            && !state.break_glass.iter().any(|kept| kept == self.name)
        {
            return lacks("the device is locked, and this is no break-glass account".to_owned());
        }
        match lock::password_field(host, self.name)? {
            None => lacks(format!("there is no local account {:?}", self.name)),
            Some(field) if field.is_empty() || field.starts_with(['!', '*']) => {
                lacks(format!("{:?} has no password, or is locked", self.name))
            }
            Some(field) => Ok(field),
        }
    }

    pub(super) fn apply(self, host: &Host, task: &Task) -> Result<(), Failure> {
        let found = Rotation::<false>::load(host, "apply")?;
        match found.filter(|found| found.command_id == task.command_id).map(|found| found.phase) {
            Some(Phase::Withdrawing | Phase::Withdrawn) => return Err(late()),
            Some(Phase::Added | Phase::Finished) => return Ok(()),
            Some(Phase::Adding) | None => {}
        }
        let broken = |error: &dyn std::fmt::Display| failure(FailureKind::Internal, "apply", error);
        let former = self.former(host, "apply")?;
        let entropy = Entropy::system();
        let secret = Secret::new(entropy.bytes());
        let credential = escrow::Credential {
            subject: Subject::Account { name: self.name.to_owned() },
            secret: secret.reveal().to_owned(),
        };
        let sealed = escrow::seal(&[credential], (self.key, task.command_id), entropy.bytes());
        let rotation = Rotation::<false> {
            command_id: task.command_id,
            envelope: task.envelope.clone(),
            phase: Phase::Added,
            turns: Vec::new(),
            password: Some(Password {
                name: self.name.to_owned(),
                field: crypt::field(secret.reveal(), entropy.bytes()),
                former_sha256: sha256_hex(former.as_bytes()),
            }),
            sealed: Some(sealed.map_err(|error| broken(&error))?),
        };
        rotation.save(host, "apply")
    }

    pub(super) fn finish(self, host: &Host, task: &Task) -> Result<(), Failure> {
        let mut rotation = Rotation::<false>::of(host, task, "finish")?;
        let Some(Password { name, field, former_sha256 }) = &rotation.password else {
            return Err(failure(FailureKind::Internal, "finish", "the record is another one"));
        };
        let now = self.former(host, "finish")?;
        if now != *field && sha256_hex(now.as_bytes()) != *former_sha256 {
            let detail = "somebody else changed the password meanwhile";
            return Err(failure(FailureKind::Precondition, "finish", detail));
        }
        lock::set_password_field(host, name, (&now, field), task.started_at)?;
        rotation.phase = Phase::Finished;
        rotation.save(host, "finish")
    }

    pub(super) fn prove(self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let rotation = Rotation::<false>::of(host, task, "prove")?;
        let field = rotation.password.as_ref().map(|password| &password.field);
        let is_set = lock::password_field(host, self.name)?.as_ref() == field;
        if rotation.phase == Phase::Finished && !is_set {
            let detail = "the account has another password than the one that was escrowed";
            return Err(failure(FailureKind::NotProven, "prove", detail));
        }
        Ok(Evidence::new()
            .with("credential", "account")
            .with("account", self.name)
            .with("recovery_key", self.key.to_string())
            .with("sealed_sha256", rotation.sealed_sha256()))
    }
}
