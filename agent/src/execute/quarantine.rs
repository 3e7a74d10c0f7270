//! Quarantine and its release: the device talks to hubs, control plane and allowed peers only.
//!
//! One atomic nftables transaction puts the table up, one takes it down; the machine's own tables
//! are read and never written. The state file outlives a reboot, and [`reassert`] puts the table
//! up again from it. When the control plane cannot be reached through a new quarantine, the
//! device returns to what stood before and says so; once it was reached, only a release lifts it.
//!
//! Limits of this form: the agent's traffic is told by user id, and raw and packet sockets pass
//! below the `inet` hooks. Of ICMP only path-MTU and neighbour messages come in.
//!
//! Evidence of `quarantine`: `table_sha256`, `policies` (chain to policy), `reachable` (an
//! address of the control plane), `sinks` (`v4` and `v6`: `filtered` or `no_route`),
//! `others_before_sha256`, `others_after_sha256`, `others_unchanged`. Evidence of `release`:
//! `table_present` (false), `lifted` (command id) and the same three about other tables.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use nix::unistd::geteuid;
use protocol::action::{self, AllowedPeer};
use protocol::id::CommandId;
use protocol::receipt::{Evidence, Failure, FailureKind};
use runtime::Clock;

use self::nft::Nft;
use self::record::{Released, Standing};
use self::ruleset::{Peers, transaction};
use super::state_file::StateFile as _;
use super::{Executor, Plan, Recovery, Task, failure, sha256_hex};
use crate::host::Host;

mod nft;
mod probe;
mod record;
mod ruleset;
#[cfg(test)]
mod tests;

/// How long the control plane may stay silent before a new quarantine is rolled back.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
/// How long proving waits for the control plane.
const PROVE_WITHIN: Duration = Duration::from_secs(3);
/// The base chains that must stand, each with policy drop.
const CHAINS: [&str; 3] = ["forward", "input", "output"];

/// The executor of `quarantine`.
#[derive(Debug)]
pub struct Quarantine {
    params: action::Quarantine,
    confirm_within: Duration,
    clock: Clock,
}

/// The executor of `release`.
#[derive(Debug, Default)]
pub struct Release;

impl Quarantine {
    /// Quarantines as that order says.
    pub fn new(params: action::Quarantine) -> Self {
        Self { params, confirm_within: CONFIRM_WITHIN, clock: Clock::system() }
    }

    /// Gives the control plane that long to answer, instead of 10 s.
    #[must_use]
    pub fn confirm_within(mut self, within: Duration) -> Self {
        self.confirm_within = within;
        self
    }

    fn reach(&self, host: &Host, within: Duration) -> Option<SocketAddr> {
        probe::first_reachable(&host.control_plane, within, &self.clock)
    }

    /// Puts the table up, waits for the control plane, and completes the record.
    fn put_up(&self, host: &Host, nft: &Nft, mut standing: Standing) -> Result<(), Failure> {
        nft.load(&rules(&host.control_plane, &self.params.allow))?;
        if self.reach(host, self.confirm_within).is_none() {
            let detail = format!("no control plane answered within {:?}", self.confirm_within);
            return Err(failure(FailureKind::NotProven, "apply", detail));
        }
        standing.table_sha256 = Some(nft.table_sha256()?);
        standing.others_after_sha256 = others(nft);
        standing.confirmed = true;
        standing.previous = None;
        standing.save(host, "apply")
    }
}

impl Executor for Quarantine {
    fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let stage = "plan";
        if host.control_plane.is_empty() {
            let detail = "no address of the control plane is configured";
            return Err(failure(FailureKind::Precondition, stage, detail));
        }
        let nft = Nft::find(stage)?;
        let rules = rules(&host.control_plane, &self.params.allow);
        nft.check(&rules)?;
        nft.stands()?;
        if self.reach(host, self.confirm_within).is_none() {
            let detail = "no address of the control plane answers even without a quarantine";
            return Err(failure(FailureKind::Precondition, stage, detail));
        }
        let control: Vec<String> = host.control_plane.iter().map(ToString::to_string).collect();
        let allowed: Vec<String> = self.params.allow.iter().map(spell).collect();
        let steps = vec![
            format!("load table {} with policy drop, in one transaction", ruleset::TABLE),
            format!("keep {} reachable for the agent", control.join(", ")),
            format!("keep {} reachable for everybody", list(&allowed)),
            format!("go back if no control plane answers within {:?}", self.confirm_within),
        ];
        let facts = Evidence::new()
            .with("ruleset_sha256", sha256_hex(rules.as_bytes()))
            .with("control_plane", control)
            .with("allow", allowed);
        Ok(Plan { steps, facts })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let nft = Nft::find("apply")?;
        let previous = Standing::load(host, "apply")?.and_then(Standing::confirmed);
        let before = match &previous {
            Some(previous) => previous.others_before_sha256.clone(),
            None => others(&nft),
        };
        let standing = Standing {
            command_id: task.command_id,
            envelope: task.envelope.clone(),
            applied_at: task.started_at,
            control_plane: host.control_plane.clone(),
            allow: self.params.allow.clone(),
            confirmed: false,
            table_sha256: None,
            others_before_sha256: before,
            others_after_sha256: None,
            previous: previous.clone().map(Box::new),
        };
        standing.save(host, "apply")?;
        self.put_up(host, &nft, standing).map_err(|reason| {
            let detail = match roll_back(host, &nft, previous) {
                Ok(()) => format!("rolled back: {}", reason.detail),
                Err(worse) => format!("{}; not rolled back: {}", reason.detail, worse.detail),
            };
            Failure { detail, ..reason }
        })
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let nft = Nft::find("prove")?;
        let standing = Standing::load(host, "prove")?
            .filter(|standing| standing.command_id == task.command_id && standing.confirmed)
            .ok_or_else(|| not_proven("no confirmed quarantine of this command is recorded"))?;
        let table = nft.table_sha256()?;
        if standing.table_sha256.as_ref() != Some(&table) {
            return Err(not_proven("the table is not the one that was loaded"));
        }
        let policies = policies(&nft)?;
        let reachable = self
            .reach(host, PROVE_WITHIN)
            .ok_or_else(|| not_proven("no control plane answers through the quarantine"))?;
        let mut sinks = BTreeMap::new();
        for (name, sink) in probe::SINKS {
            sinks.insert(name, probe::refused(sink).map_err(not_proven)?.as_str());
        }
        let (before, after) = (standing.others_before_sha256, standing.others_after_sha256);
        Ok(Evidence::new()
            .with("table_sha256", table)
            .with("policies", json(&policies)?)
            .with("reachable", reachable.to_string())
            .with("sinks", json(&sinks)?)
            .merged(about_others(before, after)))
    }

    fn recover(&self, _host: &Host, _task: &Task) -> Recovery {
        Recovery::Apply
    }
}

impl Executor for Release {
    fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let stands = Nft::find("plan")?.stands()?;
        let recorded = Standing::load(host, "plan")?.map(|standing| standing.command_id);
        let steps = vec![if stands {
            format!("delete table {}, in one transaction", ruleset::TABLE)
        } else {
            "nothing: no quarantine stands".to_owned()
        }];
        let facts = Evidence::new()
            .with("table_present", stands)
            .with("lifts", recorded.map(|id| id.to_string()));
        Ok(Plan { steps, facts })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let nft = Nft::find("apply")?;
        // An unreadable record must not keep a device quarantined against a signed release.
        let lifted = Standing::load(host, "apply").ok().flatten().map(|s| s.command_id);
        let before = others(&nft);
        nft.delete()?;
        let released = Released {
            command_id: task.command_id,
            lifted,
            others_before_sha256: before,
            others_after_sha256: others(&nft),
        };
        released.save(host, "apply")?;
        Standing::remove(host, "apply")
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        if Nft::find("prove")?.stands()? {
            return Err(not_proven("the table still stands"));
        }
        if Standing::load(host, "prove")?.is_some() {
            return Err(not_proven("the quarantine is still recorded and would return at boot"));
        }
        let released = Released::load(host, "prove")?
            .filter(|released| released.command_id == task.command_id)
            .ok_or_else(|| not_proven("no release of this command is recorded"))?;
        let (before, after) = (released.others_before_sha256, released.others_after_sha256);
        Ok(Evidence::new()
            .with("table_present", false)
            .with("lifted", released.lifted.map(|id| id.to_string()))
            .merged(about_others(before, after)))
    }

    fn recover(&self, _host: &Host, _task: &Task) -> Recovery {
        Recovery::Apply
    }
}

/// The quarantine that is recorded on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// The command that ordered it.
    pub command_id: CommandId,
    /// Whether the control plane was reached through it: then it stands until a release.
    pub is_confirmed: bool,
}

/// The quarantine that this device is under, or tries; `None` when there is none. Looks at the
/// record, not at the kernel.
///
/// # Errors
/// `Io` when the record cannot be read or understood.
pub fn current(host: &Host) -> Result<Option<Recorded>, Failure> {
    let standing = Standing::load(host, "state")?;
    Ok(standing.map(|Standing { command_id, confirmed, .. }| Recorded {
        command_id,
        is_confirmed: confirmed,
    }))
}

/// Puts the recorded quarantine up again, for boot and for tampering. Answers whether one stands.
///
/// Addresses of the control plane are the host's of now, in case a signed configuration moved
/// them since; those of the record serve when the host knows none.
///
/// # Errors
/// `Precondition`, `Tool`, `Timeout` or `Io`; the caller tries again.
pub fn reassert(host: &Host) -> Result<bool, Failure> {
    let stage = "reassert";
    let Some(mut standing) = Standing::load(host, stage)? else { return Ok(false) };
    let nft = Nft::find(stage)?;
    if !host.control_plane.is_empty() {
        standing.control_plane.clone_from(&host.control_plane);
    }
    nft.load(&rules(&standing.control_plane, &standing.allow))?;
    if standing.confirmed {
        standing.table_sha256 = Some(nft.table_sha256()?);
    }
    standing.save(host, stage)?;
    Ok(true)
}

/// Looks whether the recorded quarantine stands as it was loaded, and puts it up again when it
/// does not. Answers whether it had to.
///
/// # Errors
/// As [`reassert`].
pub fn uphold(host: &Host) -> Result<bool, Failure> {
    let stage = "uphold";
    let Some(standing) = Standing::load(host, stage)? else { return Ok(false) };
    let nft = Nft::find(stage)?;
    if nft.stands()? {
        let is_as_loaded = match &standing.table_sha256 {
            Some(sha256) => nft.table_sha256()? == *sha256,
            None => true,
        };
        if is_as_loaded {
            return Ok(false);
        }
    }
    reassert(host)
}

/// Returns to what stood before: the confirmed quarantine that was to be replaced, or none.
fn roll_back(host: &Host, nft: &Nft, previous: Option<Standing>) -> Result<(), Failure> {
    match previous {
        Some(previous) => {
            nft.load(&rules(&previous.control_plane, &previous.allow))?;
            previous.save(host, "roll_back")
        }
        None => {
            nft.delete()?;
            Standing::remove(host, "roll_back")
        }
    }
}

fn rules(control_plane: &[SocketAddr], allow: &[AllowedPeer]) -> String {
    transaction(Peers { control_plane, allow, agent_uid: geteuid().as_raw() })
}

/// Digest of the machine's own tables. That they cannot be listed must not stop a quarantine.
fn others(nft: &Nft) -> Option<String> {
    nft.others_sha256()
        .inspect_err(|error| tracing::warn!(error = error.detail, "tables could not be listed"))
        .ok()
}

/// Other programs change their own tables at any time, so a difference is told, not judged.
fn about_others(before: Option<String>, after: Option<String>) -> Evidence {
    let unchanged = before.as_ref().zip(after.as_ref()).map(|(before, after)| before == after);
    Evidence::new()
        .with("others_before_sha256", before)
        .with("others_after_sha256", after)
        .with("others_unchanged", unchanged)
}

fn policies(nft: &Nft) -> Result<BTreeMap<String, String>, Failure> {
    let chains = nft.chains()?;
    let stands = |name: &&str| {
        chains.iter().any(|chain| {
            chain.name == **name
                && chain.hook == **name
                && chain.prio == -300
                && chain.policy == "drop"
        })
    };
    match CHAINS.iter().find(|name| !stands(name)) {
        Some(missing) => Err(not_proven(format!("chain {missing} does not drop by policy"))),
        None => Ok(chains.into_iter().map(|chain| (chain.name, chain.policy)).collect()),
    }
}

fn spell(peer: &AllowedPeer) -> String {
    SocketAddr::new(peer.address, peer.tcp_port).to_string()
}

fn list(peers: &[String]) -> String {
    if peers.is_empty() { "nobody else".to_owned() } else { peers.join(", ") }
}

fn json(value: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|error| failure(FailureKind::Internal, "prove", error))
}

fn not_proven(detail: impl std::fmt::Display) -> Failure {
    failure(FailureKind::NotProven, "prove", detail)
}
