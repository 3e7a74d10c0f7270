//! The envelope: a command as a device believes it, and the approvals inside.
//!
//! Verification is pure and complete but for replay, which needs memory and is the ledger's part.
//! The order of the checks is fixed, so that every wrong envelope has exactly one reason.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::{Action, Verb};
use crate::id::{CommandId, DeviceId, OrderId};
use crate::jws::{self, CompactJws, JwsError, Signer};
use crate::limits;
use crate::manifest::{InclusionProof, Manifest};
#[cfg(feature = "planted-bugs")]
use crate::planted;
use crate::receipt::RefusalReason;
use crate::state::{Lane, VerbClass};
use crate::time::Timestamp;
use crate::trust::{Approved, Authority, Forbidden, Role, Tally, TrustRoot};

#[cfg(test)]
mod tests;

/// The media type of an envelope's JWS header.
pub const TYP: &str = "tocsin-command+jws";
/// The media type of an approval's JWS header.
pub const APPROVAL_TYP: &str = "tocsin-approval+jws";

/// The claims of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The command.
    pub jti: CommandId,
    /// The device it is addressed to.
    pub aud: DeviceId,
    /// The enrollment of that device it is addressed to.
    pub generation: u32,
    /// When it was signed.
    #[serde(with = "crate::time::numeric_date")]
    pub iat: Timestamp,
    /// When its validity begins.
    #[serde(with = "crate::time::numeric_date")]
    pub nbf: Timestamp,
    /// When its validity ends.
    #[serde(with = "crate::time::numeric_date")]
    pub exp: Timestamp,
    /// Its lane.
    pub lane: Lane,
    /// Its place in the lane of this device and generation.
    pub seq: u64,
    /// The manifest of the order it carries out; the action stands there, once.
    pub manifest: Manifest,
    /// The proof that the device is one of the manifest's.
    pub proof: InclusionProof,
    /// The approvals, each over the same manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<CompactJws>,
    /// The script that the manifest names by its hash. Only with a verb that runs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
}

impl Envelope {
    /// The order it carries out.
    pub const fn order_id(&self) -> OrderId {
        self.manifest.order_id
    }

    /// What it orders.
    pub const fn action(&self) -> &Action {
        &self.manifest.action
    }
}

/// The claims of an approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Exactly what is approved.
    pub manifest: Manifest,
    /// When, by the approver's clock.
    #[serde(with = "crate::time::numeric_date")]
    pub approved_at: Timestamp,
}

/// Signs an envelope with a command key.
pub fn sign(envelope: &Envelope, signer: &dyn Signer) -> Result<CompactJws, JwsError> {
    jws::sign(TYP, envelope, signer)
}

/// Signs an approval with an approver's key.
pub fn approve(approval: &Approval, signer: &dyn Signer) -> Result<CompactJws, JwsError> {
    jws::sign(APPROVAL_TYP, approval, signer)
}

/// Why a device declines an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct Refusal {
    /// The reason, for programs.
    pub reason: RefusalReason,
    /// The particulars, for a person.
    pub detail: String,
    /// The claims, when a trusted key signed them and they are addressed to this device: then
    /// its sequence number counts as seen. Otherwise nothing in the envelope means anything.
    pub authentic: Option<Box<Envelope>>,
}

impl Refusal {
    /// A refusal for that reason.
    pub fn new(reason: RefusalReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), authentic: None }
    }

    /// The same refusal of an envelope that is authentic.
    #[must_use]
    pub fn of(self, envelope: &Envelope) -> Self {
        Self { authentic: Some(Box::new(envelope.clone())), ..self }
    }
}

/// Who verifies, when, and whom it trusts.
#[derive(Debug, Clone, Copy)]
pub struct Verifying<'a> {
    /// The device itself.
    pub device: DeviceId,
    /// Its enrollment generation.
    pub generation: u32,
    /// The later of its clock and the lower bound of time that it keeps on disk.
    pub now: Timestamp,
    /// Its pinned trust root.
    pub trust: &'a TrustRoot,
    /// Whether it acts on nothing. Only then it takes an order for simulated devices.
    pub is_simulated: bool,
}

/// An envelope that was verified. Only [`Verifying::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    envelope: Envelope,
    authority: Authority,
}

impl Verified {
    /// The claims, now to be believed.
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// On whose word.
    pub const fn authority(&self) -> Authority {
        self.authority
    }
}

impl Verifying<'_> {
    /// Verifies an envelope: signature, audience, validity, manifest, approvals.
    pub fn verify(&self, jws: &CompactJws) -> Result<Verified, Refusal> {
        let envelope = self.check_signature(jws)?;
        self.check_audience(&envelope)?;
        let authority = self
            .check_validity(&envelope)
            .and_then(|()| self.check_manifest(&envelope))
            .and_then(|()| self.check_approvals(&envelope))
            .map_err(|refusal| refusal.of(&envelope))?;
        Ok(Verified { envelope, authority })
    }

    fn check_signature(&self, jws: &CompactJws) -> Result<Envelope, Refusal> {
        use RefusalReason::{BadSignature, Malformed, Unsupported};
        let parsed = jws::parse(jws, TYP, limits::ENVELOPE_BYTES)
            .map_err(|error| Refusal::new(Malformed, error.to_string()))?;
        let key = self.trust.command_key(parsed.key_id()).ok_or_else(|| {
            Refusal::new(BadSignature, format!("{} is no command key", parsed.key_id()))
        })?;
        parsed.verify(&key.key).map_err(|error| Refusal::new(BadSignature, error.to_string()))?;
        // A trusted key signed it: what cannot be read now is newer than this agent.
        let envelope: Envelope =
            parsed.claims().map_err(|error| Refusal::new(Unsupported, error.to_string()))?;
        let verb = envelope.action().verb();
        if !key.may_order(verb) {
            return Err(Refusal::new(BadSignature, format!("this key may not order {verb}")));
        }
        if let Some(end) = envelope.manifest.lets_go().filter(|end| !key.may_order(*end)) {
            return Err(Refusal::new(BadSignature, format!("this key may not order {end}")));
        }
        envelope.action().check().map_err(|error| Refusal::new(Unsupported, error.to_string()))?;
        if envelope.lane != envelope.action().lane() {
            return Err(Refusal::new(Unsupported, "the lane is not the action's"));
        }
        Ok(envelope)
    }

    fn check_audience(&self, envelope: &Envelope) -> Result<(), Refusal> {
        if envelope.aud != self.device {
            let detail = format!("addressed to {}", envelope.aud);
            return Err(Refusal::new(RefusalReason::WrongAudience, detail));
        }
        if envelope.generation != self.generation {
            let detail = format!(
                "addressed to enrollment {}, this is {}",
                envelope.generation, self.generation
            );
            return Err(Refusal::new(RefusalReason::WrongAudience, detail));
        }
        Ok(())
    }

    fn check_validity(&self, envelope: &Envelope) -> Result<(), Refusal> {
        use RefusalReason::{Expired, NotYetValid, ValidityTooLong};
        #[cfg(feature = "planted-bugs")]
        if planted::has(planted::Bug::SkipExpiry) {
            return Ok(());
        }
        if envelope.nbf > self.now.plus(limits::CLOCK_SKEW) {
            return Err(Refusal::new(NotYetValid, format!("valid from {}", envelope.nbf)));
        }
        if envelope.exp <= self.now {
            let detail = format!("expired at {}, it is {}", envelope.exp, self.now);
            return Err(Refusal::new(Expired, detail));
        }
        let longest = longest_validity(envelope.action().verb().class());
        if envelope.exp.since(envelope.nbf) > longest {
            let detail = format!("valid for longer than {} s", longest.as_secs());
            return Err(Refusal::new(ValidityTooLong, detail));
        }
        self.check_end(envelope)
    }

    /// What ends by itself must not be over already, and a freeze must not be made to hold for
    /// longer than anybody may order.
    fn check_end(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let Some(until) = envelope.action().until() else { return Ok(()) };
        if until <= self.now {
            let detail = format!("it was to end at {}", until.rfc3339());
            return Err(Refusal::new(RefusalReason::Expired, detail));
        }
        let is_freeze = envelope.action().verb() == Verb::Freeze;
        if is_freeze && until.since(envelope.nbf) > limits::FREEZE {
            let detail = format!("a freeze holds for {} s at most", limits::FREEZE.as_secs());
            return Err(Refusal::new(RefusalReason::ValidityTooLong, detail));
        }
        Ok(())
    }

    fn check_manifest(&self, envelope: &Envelope) -> Result<(), Refusal> {
        use RefusalReason::WidenedManifest;
        let manifest = &envelope.manifest;
        if manifest.simulated && !self.is_simulated {
            let detail = "the order is for simulated devices, and this one acts";
            return Err(Refusal::new(RefusalReason::WrongAudience, detail));
        }
        if envelope.exp > manifest.expires_at {
            return Err(Refusal::new(WidenedManifest, "valid for longer than its manifest"));
        }
        if !manifest.includes(&self.device, &envelope.proof) {
            return Err(Refusal::new(WidenedManifest, "this device is not in the manifest"));
        }
        let longest = limits::UNDO_WINDOW.as_secs();
        if manifest.undo_secs.is_some_and(|undo| u64::from(undo) > longest) {
            let detail = format!("an undo window of more than {longest} s");
            return Err(Refusal::new(RefusalReason::ValidityTooLong, detail));
        }
        let codes = manifest.offline_codes.len();
        if codes > 0 && manifest.ended_offline().is_none() || codes > limits::OFFLINE_CODES {
            let detail = "more offline codes than there can be of this action";
            return Err(Refusal::new(RefusalReason::Unsupported, detail));
        }
        if !envelope.action().goes_with(envelope.script.as_deref()) {
            let detail = "the script is not the one that the manifest names";
            return Err(Refusal::new(WidenedManifest, detail));
        }
        Ok(())
    }

    fn check_approvals(&self, envelope: &Envelope) -> Result<Authority, Refusal> {
        use RefusalReason::{BadApproval, DoubledApproval, MissingApproval};
        if envelope.approvals.len() > limits::APPROVALS {
            return Err(Refusal::new(BadApproval, "too many approvals"));
        }
        let manifest = &envelope.manifest;
        let needs = self.trust.needs(manifest, &self.device)?;
        let mut tally = Tally::default();
        for approval in &envelope.approvals {
            let approved = check_approval(approval, manifest, self.trust)?;
            if approved.is_early(self.now) {
                return Err(Refusal::new(BadApproval, "approved in the future"));
            }
            tally.count(approved);
        }
        let needed = usize::from(needs.persons);
        #[cfg(feature = "planted-bugs")]
        if planted::has(planted::Bug::ApprovalsPerKey) && envelope.approvals.len() >= needed {
            return Ok(Authority::Approvers);
        }
        if let Some(authority) = tally.authority(needs) {
            return Ok(authority);
        }
        let (persons, mass) = (tally.persons(), tally.mass());
        if persons >= needed {
            let detail = format!("approved by {mass} of {} persons of the mass role", needs.mass);
            return Err(Refusal::new(MissingApproval, detail));
        }
        let detail = format!("approved by {persons} of {needed} persons");
        let reason =
            if envelope.approvals.len() >= needed { DoubledApproval } else { MissingApproval };
        Err(Refusal::new(reason, detail))
    }
}

impl From<Forbidden> for Refusal {
    fn from(forbidden: Forbidden) -> Self {
        Self::new(forbidden.reason(), forbidden.to_string())
    }
}

/// Verifies one approval of that manifest, and says whose it is and what for.
///
/// The control plane uses this when an approval comes in; the device uses it again.
pub fn check_approval<'a>(
    approval: &CompactJws,
    manifest: &Manifest,
    trust: &'a TrustRoot,
) -> Result<Approved<'a>, Refusal> {
    use RefusalReason::{BadApproval, WidenedManifest};
    let parsed = jws::parse(approval, APPROVAL_TYP, limits::ENVELOPE_BYTES)
        .map_err(|error| Refusal::new(BadApproval, error.to_string()))?;
    let (role, approver) = trust.signer(parsed.key_id()).ok_or_else(|| {
        Refusal::new(BadApproval, format!("{} is no approver's key", parsed.key_id()))
    })?;
    parsed.verify(&approver.key).map_err(|error| Refusal::new(BadApproval, error.to_string()))?;
    let approval: Approval =
        parsed.claims().map_err(|error| Refusal::new(BadApproval, error.to_string()))?;
    let person = &approver.person;
    if approval.manifest != *manifest {
        return Err(Refusal::new(WidenedManifest, format!("{person} approved something else")));
    }
    let approved_at = approval.approved_at;
    if !trust.admits(role, manifest, approved_at) {
        let what = match role {
            Role::Approver => "approves nothing of this",
            Role::Mass => "is kept for what destroys on many devices",
            Role::BreakGlass => "is kept for what can be undone, on few devices, within an hour",
        };
        return Err(Refusal::new(BadApproval, format!("the key of {person} {what}")));
    }
    // Break-glass is for when there is nobody else, and can be undone.
    if role != Role::BreakGlass && trust.asked_for(person, manifest) {
        let detail = format!("{person} asked for this order: somebody else has to approve it");
        return Err(Refusal::new(BadApproval, detail));
    }
    Ok(Approved { approver, role, approved_at })
}

/// How long an envelope of that class may be valid.
pub const fn longest_validity(class: VerbClass) -> Duration {
    match class {
        VerbClass::Routine => limits::ROUTINE_VALIDITY,
        VerbClass::Disruptive | VerbClass::Destructive | VerbClass::Stop => limits::VALIDITY,
    }
}
