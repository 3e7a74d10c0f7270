//! Quarantine and its release: the device talks to hubs, control plane and allowed peers only.
//!
//! One atomic nf_tables transaction puts the tables up, one takes them down; the machine's own
//! tables are read and never written. The state file outlives a reboot, and [`reassert`] puts the
//! tables up again from it. When the control plane cannot be reached through a new quarantine, the
//! device returns to what stood before and says so; once it was reached, only a release lifts it.
//!
//! Where the kernel can, the tables belong to the agent's netlink socket: nobody else changes or
//! flushes them, and they outlive the agent. Where it cannot, [`Watch`] puts them up again.
//!
//! Limits: who may mark packets and runs as the agent's user passes for the agent, towards hubs
//! and control plane only. Of ICMP only path-MTU and neighbour messages come in. AF_XDP sends below
//! every hook. On a kernel without egress hooks raw and packet sockets do so as well.
//!
//! Evidence of `quarantine`: `table_sha256`, `policies` (chain to policy), `owned` (nobody but the
//! agent can change the tables), `egress` (`each_device` or `none`),
//! `agent_told_by` (`mark_and_uid`), `reachable` (an address of the control plane), `sinks` (`v4`
//! and `v6`: `filtered` or `no_route`; `raw`: `filtered`, `untried` or, without egress hook,
//! `passed`), `until` (milliseconds, where it ends by itself),
//! `other_namespaces` (`namespace` and `devices`, name to kind: `physical`, which is not cut, or such as `macvlan`, on a device that
//! is; null where nobody may look), `other_namespaces_unseen` (how many were not looked into, if any), `others_before_sha256`, `others_after_sha256`, `others_unchanged`. Evidence of
//! `release`: `table_present` (false), `lifted` (command id) and the same three about other tables.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use protocol::action::{self, AllowedPeer};
use protocol::receipt::{Evidence, Failure, FailureKind};
use protocol::time::Timestamp;
use runtime::Clock;

use self::elsewhere::Elsewhere;
use self::firewall::Turn;
pub use self::firewall::{Firewall, Lacks};
use self::kernel::Observed;
use self::probe::Raw;
use self::record::{Released, Standing};
use self::ruleset::{INET, NETDEV, Peers, TABLE};
pub use self::uphold::{
    Holder, Level, Recorded, Tampering, Upheld, current, expire, justification, left_open, level,
    reassert, uphold,
};
pub use self::watch::Watch;
use super::course::patience;
use super::state_file::StateFile as _;
use super::{Executor, Plan, Recovery, Task, failure, sha256_hex};
use crate::host::Host;
use crate::offline;

mod elsewhere;
mod firewall;
mod kernel;
mod links;
mod netlink;
mod probe;
mod record;
mod resolver;
mod rule;
mod ruleset;
#[cfg(test)]
mod tests;
mod uphold;
mod watch;

/// The base chains that must stand, each with policy drop.
const CHAINS: [&str; 3] = ["forward", "input", "output"];

/// The executor of `quarantine`.
#[derive(Debug)]
pub struct Quarantine {
    params: action::Quarantine,
    confirm_within: Option<Duration>,
    clock: Clock,
}

/// The executor of `release`.
#[derive(Debug, Default)]
pub struct Release;

impl Quarantine {
    /// Quarantines as that order says.
    pub fn new(params: action::Quarantine) -> Self {
        Self { params, confirm_within: None, clock: Clock::system() }
    }

    /// Gives the control plane that long to answer, instead of what the host says.
    #[must_use]
    pub fn confirm_within(mut self, within: Duration) -> Self {
        self.confirm_within = Some(within);
        self
    }

    fn patience(&self, host: &Host) -> Duration {
        self.confirm_within.unwrap_or(host.confirm_within)
    }

    fn reach(&self, host: &Host, within: Duration) -> Option<SocketAddr> {
        probe::first_recognised(host, &host.control_plane, within, &self.clock)
    }

    fn peers<'a>(&'a self, host: &'a Host, resolvers: &'a [IpAddr]) -> Peers<'a> {
        record::peers(&host.control_plane, &self.params.allow, resolvers)
    }

    /// The device's own resolvers, if the order leaves them open.
    fn resolvers(&self, host: &Host) -> Vec<IpAddr> {
        if self.params.resolver { resolver::configured(host) } else { Vec::new() }
    }

    /// Waits for the control plane to answer through the tables, and completes the record.
    fn confirm(&self, host: &Host, mut standing: Standing) -> Result<(), Failure> {
        let within = self.patience(host);
        if self.reach(host, within).is_none() {
            host.course.check("apply")?;
            let detail = format!("no control plane answered within {within:?}");
            return Err(failure(FailureKind::NotProven, "apply", detail));
        }
        let turn = host.firewall.turn("apply");
        standing.table_sha256 = turn.loaded_sha256().map(str::to_owned);
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
        let resolvers = self.resolvers(host);
        let peers = self.peers(host, &resolvers);
        host.firewall.turn(stage).check(peers)?;
        let within = self.patience(host);
        if self.reach(host, within.min(patience::CONTROL_PLANE)).is_none() {
            host.course.check(stage)?;
            let detail = "no address of the control plane answers even without a quarantine";
            return Err(failure(FailureKind::Precondition, stage, detail));
        }
        let control: Vec<String> = host.control_plane.iter().map(ToString::to_string).collect();
        let resolvers = resolvers.iter().map(|address| format!("resolver {address}"));
        let allowed: Vec<String> = self.params.allow.iter().map(spell).chain(resolvers).collect();
        let elsewhere = elsewhere::told(host);
        let mut steps = vec![
            format!("load tables inet and netdev {TABLE} with policy drop, in one transaction"),
            format!("keep {} reachable for the agent", control.join(", ")),
            format!("keep {} reachable for everybody", list(&allowed)),
            format!("go back if no control plane answers within {within:?}"),
        ];
        let namespaces = elsewhere.iter().flat_map(|told| &told.namespaces);
        steps.extend(namespaces.flat_map(Elsewhere::lines));
        steps.extend(elsewhere.and_then(|told| told.step()));
        // What an approval binds: neither what the name service says at this moment, nor who runs a container.
        let lasting = Peers { control_plane: &[], ..peers };
        let rules = format!("{:?}", ruleset::inet(lasting));
        let facts = Evidence::new()
            .with("ruleset_sha256", sha256_hex(rules.as_bytes()))
            .with("allow", allowed);
        Ok(Plan { steps, facts })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        offline::forbid(host, task)?;
        let mut turn = host.firewall.turn("apply");
        let previous = Standing::load(host, "apply")?.and_then(Standing::confirmed);
        let before = match &previous {
            Some(previous) => previous.others_before_sha256.clone(),
            None => turn.others_sha256(),
        };
        let mut standing = Standing {
            command_id: task.command_id,
            envelope: task.envelope.clone(),
            offline_code: offline::commitment(task),
            applied_at: task.started_at,
            control_plane: host.control_plane.clone(),
            allow: self.params.allow.clone(),
            resolvers: self.resolvers(host),
            until: self.params.until,
            confirmed: false,
            table_sha256: None,
            others_before_sha256: before,
            others_after_sha256: None,
            previous: previous.clone().map(Box::new),
        };
        // From here on a start of the agent confirms or goes back, whatever becomes of this one.
        standing.save(host, "apply")?;
        let loaded = turn.load(standing.peers());
        standing.others_after_sha256 = turn.others_sha256();
        drop(turn);
        loaded.and_then(|_| self.confirm(host, standing)).map_err(|reason| {
            let detail = match uphold::roll_back(host, "apply", previous) {
                Ok(()) => format!("rolled back: {}", reason.detail),
                Err(worse) => format!("{}; not rolled back: {}", reason.detail, worse.detail),
            };
            Failure { detail, ..reason }
        })
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let mut turn = host.firewall.turn("prove");
        let standing = Standing::load(host, "prove")?
            .filter(|standing| standing.command_id == task.command_id && standing.confirmed)
            .ok_or_else(|| not_proven("no confirmed quarantine of this command is recorded"))?;
        let observed = turn.look()?;
        if standing.table_sha256.as_ref() != Some(&observed.sha256) {
            return Err(not_proven("the table is not the one that was loaded"));
        }
        if !observed.are_devices_sound {
            return Err(not_proven("the chain of a device is not the one that was loaded"));
        }
        let egress = egress(&mut turn, &observed)?;
        drop(turn);
        let policies = policies(&observed)?;
        let Some(reachable) = self.reach(host, patience::CONTROL_PLANE) else {
            host.course.check("prove")?;
            return Err(not_proven("no control plane answers through the quarantine"));
        };
        let mut sinks = BTreeMap::new();
        for (name, sink) in probe::SINKS {
            sinks.insert(name, probe::refused(sink, &host.course).map_err(not_proven)?.as_str());
        }
        let raw = probe::raw_frames();
        if raw == Raw::Passed && egress != "none" {
            return Err(not_proven("a raw frame left the device"));
        }
        sinks.insert("raw", raw.as_str());
        let (before, after) = (standing.others_before_sha256, standing.others_after_sha256);
        let elsewhere = elsewhere::told(host);
        let unseen = elsewhere.as_ref().map_or(0, |told| told.unseen);
        let evidence = Evidence::new()
            .with("table_sha256", observed.sha256.clone())
            .with("policies", json(&policies)?)
            .with("owned", observed.is_owned())
            .with("egress", egress)
            .with("agent_told_by", "mark_and_uid")
            .with("reachable", reachable.to_string())
            .with("sinks", json(&sinks)?)
            .with("until", standing.until.map(Timestamp::as_millis))
            .with("other_namespaces", json(&elsewhere.map(|told| told.namespaces))?)
            .merged(about_others(before, after));
        Ok(if unseen > 0 { evidence.with("other_namespaces_unseen", unseen) } else { evidence })
    }

    fn recover(&self, _host: &Host, _task: &Task) -> Recovery {
        Recovery::Apply
    }
}

impl Executor for Release {
    fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let stands = !host.firewall.turn("plan").look()?.tables.is_empty();
        // An unreadable record must not keep a device quarantined against a signed release.
        let recorded = Standing::load(host, "plan").ok().flatten().map(|s| s.command_id);
        let steps = vec![if stands {
            format!("delete tables inet and netdev {TABLE}, in one transaction")
        } else {
            "nothing: no quarantine stands".to_owned()
        }];
        let facts = Evidence::new()
            .with("table_present", stands)
            .with("lifts", recorded.map(|id| id.to_string()));
        Ok(Plan { steps, facts })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let mut turn = host.firewall.turn("apply");
        // As in `plan`.
        let lifted = Standing::load(host, "apply").ok().flatten().map(|s| s.command_id);
        let before = turn.others_sha256();
        turn.delete()?;
        let released = Released {
            command_id: task.command_id,
            lifted,
            others_before_sha256: before,
            others_after_sha256: turn.others_sha256(),
        };
        released.save(host, "apply")?;
        Standing::remove(host, "apply")
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        if !host.firewall.turn("prove").look()?.tables.is_empty() {
            return Err(not_proven("a table still stands"));
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

/// Other programs change their own tables at any time, so a difference is told, not judged.
fn about_others(before: Option<String>, after: Option<String>) -> Evidence {
    let unchanged = before.as_ref().zip(after.as_ref()).map(|(before, after)| before == after);
    Evidence::new()
        .with("others_before_sha256", before)
        .with("others_after_sha256", after)
        .with("others_unchanged", unchanged)
}

/// How frames of devices are judged; an error when they should be and one's are not.
fn egress(turn: &mut Turn<'_>, observed: &Observed) -> Result<&'static str, Failure> {
    if observed.table(NETDEV, TABLE).is_none() {
        return Ok("none");
    }
    let uncovered = turn.uncovered(observed)?;
    if !uncovered.is_empty() {
        let detail = format!("frames of {} are not judged", uncovered.join(", "));
        return Err(not_proven(detail));
    }
    Ok("each_device")
}

fn policies(observed: &Observed) -> Result<BTreeMap<&str, &'static str>, Failure> {
    let inet = observed.chains.iter().filter(|chain| chain.family == INET);
    let policies: BTreeMap<_, _> =
        inet.filter_map(|chain| Some((&*chain.name, chain.policy()?))).collect();
    match CHAINS.iter().find(|name| policies.get(**name) != Some(&"drop")) {
        Some(missing) => Err(not_proven(format!("chain {missing} does not drop by policy"))),
        None => Ok(policies),
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
