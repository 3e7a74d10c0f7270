//! What becomes of a recorded quarantine outside its command: put up again at the start, mended
//! when somebody tampered with it, confirmed or rolled back when its command never ended.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::id::CommandId;
use protocol::manifest::Hash;
use protocol::receipt::Failure;
use protocol::time::Timestamp;
use runtime::Clock;
use serde::{Deserialize, Serialize};

use super::super::state_file::StateFile as _;
use super::firewall::Turn;
use super::kernel::{Observed, PERSISTENT};
use super::probe;
use super::record::Standing;
use super::ruleset::{CANARY, INET, NETDEV, TABLE};
use crate::host::Host;

/// How long one look waits for the control plane where a quarantine is not confirmed yet: urgent commands
/// wait as long, and the next look follows.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// The quarantine that is recorded on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// The command that ordered it.
    pub command_id: CommandId,
    /// Whether the control plane was reached through it: then it stands until a release.
    pub is_confirmed: bool,
    /// Until when it holds, if it ends by itself.
    pub until: Option<Timestamp>,
}

/// What somebody did to a quarantine that stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tampering {
    /// Its tables were removed.
    Removed,
    /// Its tables were altered.
    Altered,
    /// The whole ruleset was flushed, or the table that only shows that was.
    Flushed,
    /// A network device was moved to another network namespace. Nothing makes that good.
    DeviceLeft,
}

impl Tampering {
    /// The word for logs and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Altered => "altered",
            Self::Flushed => "flushed",
            Self::DeviceLeft => "device_left",
        }
    }
}

/// What looking at a recorded quarantine came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upheld {
    /// None is recorded.
    NotQuarantined,
    /// It stands as it was loaded.
    Stands,
    /// A device had come whose frames nothing judged; now they are.
    Covered,
    /// It was not as it was loaded, and is again.
    Mended(Tampering),
    /// Its command had never ended; the control plane answers, so it stands until a release.
    Confirmed,
    /// Its command had never ended and no control plane answered in time: what stood before stands.
    RolledBack,
}

/// The quarantine that this device is under, or tries; `None` when there is none. Looks at the
/// record, not at the kernel.
///
/// # Errors
/// `Io` when the record cannot be read or understood.
pub fn current(host: &Host) -> Result<Option<Recorded>, Failure> {
    let standing = Standing::load(host, "state")?;
    Ok(standing.map(|Standing { command_id, confirmed, until, .. }| Recorded {
        command_id,
        is_confirmed: confirmed,
        until,
    }))
}

/// How far the quarantine that stands could go on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// Who keeps others from changing its tables.
    pub held_by: Holder,
    /// Whether its tables outlive the agent that holds them.
    pub persist: bool,
    /// Whether frames of every device are judged.
    pub egress: bool,
}

/// Who keeps others from changing a quarantine's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// The kernel, for the agent that owns them.
    Owner,
    /// Nobody; the agent watches, and puts them up again.
    Watch,
}

/// The level of what stands; `None` when nothing does, or nobody may look.
pub fn level(host: &Host) -> Option<Level> {
    let observed = host.firewall.turn("status").look().ok()?;
    let table = observed.table(INET, TABLE)?;
    let held_by = if observed.is_owned() { Holder::Owner } else { Holder::Watch };
    let egress = observed.table(NETDEV, TABLE).is_some();
    Some(Level { held_by, persist: table.flags & PERSISTENT != 0, egress })
}

/// The command of the quarantine that stands, or is tried, its envelope, and by what the device
/// knows the code that ends it.
///
/// # Errors
/// As [`current`].
pub fn justification(host: &Host) -> Result<Option<(CommandId, String, Option<Hash>)>, Failure> {
    let standing = Standing::load(host, "state")?;
    Ok(standing.map(|standing| (standing.command_id, standing.envelope, standing.offline_code)))
}

/// Where the quarantine that is recorded, or the one that it goes back to, lets the agent go.
pub fn left_open(host: &Host) -> Vec<SocketAddr> {
    let standing = Standing::load(host, "state").ok().flatten();
    let mut open = Vec::new();
    if let Some(Standing { control_plane, previous, .. }) = standing {
        open = control_plane;
        open.extend(previous.map(|previous| previous.control_plane).unwrap_or_default());
    }
    open
}

/// Puts the recorded quarantine up again, for boot. Answers whether one stands.
///
/// Addresses of the control plane are the host's of now, in case a signed configuration moved
/// them since; those of the record serve when the host knows none.
///
/// # Errors
/// `Io` when there is a record that cannot be used: it is not known then what should stand. Else
/// what the kernel said.
pub fn reassert(host: &Host) -> Result<bool, Failure> {
    let stage = "reassert";
    let mut turn = host.firewall.turn(stage);
    let Some(mut standing) = Standing::load(host, stage)? else { return Ok(false) };
    if !host.control_plane.is_empty() {
        standing.control_plane.clone_from(&host.control_plane);
    }
    if !standing.confirmed {
        turn.unconfirmed_since().get_or_insert(Clock::system().now());
    }
    load(host, &mut turn, standing)?;
    Ok(true)
}

/// Loads the tables of a record, and keeps in it what they look like.
fn load(host: &Host, turn: &mut Turn<'_>, mut standing: Standing) -> Result<(), Failure> {
    let observed = turn.load(standing.peers())?;
    if standing.confirmed {
        standing.table_sha256 = Some(observed.sha256);
    }
    // A full disk must not stand in the way of what it holds already.
    let is_kept = Standing::load(host, "reassert")?.as_ref() == Some(&standing);
    if is_kept { Ok(()) } else { standing.save(host, "reassert") }
}

/// Looks whether the recorded quarantine stands as it was loaded, and puts it up again when it
/// does not. One whose command never ended is confirmed or, when its time is up, rolled back. Must
/// not run beside a command of the urgent lane.
///
/// # Errors
/// As [`reassert`].
pub fn uphold(host: &Host) -> Result<Upheld, Failure> {
    let upheld = mend(host)?;
    match Standing::load(host, "uphold")? {
        Some(standing) if !standing.confirmed => settle(host, standing, upheld),
        Some(_) | None => Ok(upheld),
    }
}

/// Releases a quarantine whose signed end has come, and answers whose it was. `now` is the later of the
/// clock and the lower bound of time: a clock that is set back does not make it longer. Must not
/// run beside a command of the urgent lane.
///
/// # Errors
/// As [`reassert`].
pub fn expire(host: &Host, now: Timestamp) -> Result<Option<CommandId>, Failure> {
    let stage = "expire";
    let Some(standing) = Standing::load(host, stage)? else { return Ok(None) };
    if standing.until.is_none_or(|until| now < until) {
        return Ok(None);
    }
    // One that was being replaced when it ended goes back to what stood before.
    let previous = standing.previous.filter(|_| !standing.confirmed).map(|previous| *previous);
    roll_back(host, stage, previous)?;
    Ok(Some(standing.command_id))
}

/// The part of [`uphold`] that may run at any time.
pub(super) fn mend(host: &Host) -> Result<Upheld, Failure> {
    let stage = "uphold";
    let mut turn = host.firewall.turn(stage);
    let Some(standing) = Standing::load(host, stage)? else { return Ok(Upheld::NotQuarantined) };
    let observed = turn.look()?;
    let expected = turn.loaded_sha256().or(standing.table_sha256.as_deref());
    let tampering = tampering(&observed, expected);
    if tampering.is_none() && turn.uncovered(&observed)?.is_empty() {
        return Ok(Upheld::Stands);
    }
    load(host, &mut turn, standing)?;
    Ok(tampering.map_or(Upheld::Covered, Upheld::Mended))
}

fn tampering(observed: &Observed, expected_sha256: Option<&str>) -> Option<Tampering> {
    if observed.table(INET, TABLE).is_none() {
        Some(Tampering::Removed)
    } else if expected_sha256.is_some_and(|expected| expected != observed.sha256)
        || !observed.are_devices_sound
    {
        Some(Tampering::Altered)
    } else {
        observed.table(INET, CANARY).is_none().then_some(Tampering::Flushed)
    }
}

/// The dead man's switch: a quarantine without its command's end.
fn settle(host: &Host, mut standing: Standing, upheld: Upheld) -> Result<Upheld, Failure> {
    let (stage, clock) = ("uphold", Clock::system());
    let addresses = &standing.control_plane;
    let is_reached = probe::first_recognised(host, addresses, within(host), &clock).is_some();
    let mut turn = host.firewall.turn(stage);
    if is_reached {
        standing.table_sha256 = turn.loaded_sha256().map(str::to_owned);
        standing.confirmed = true;
        standing.previous = None;
        standing.save(host, stage)?;
        return Ok(Upheld::Confirmed);
    }
    let now = clock.now();
    let since = *turn.unconfirmed_since().get_or_insert(now);
    if now.saturating_duration_since(since) < host.confirm_within {
        return Ok(upheld);
    }
    drop(turn);
    roll_back(host, stage, standing.previous.map(|previous| *previous))?;
    Ok(Upheld::RolledBack)
}

fn within(host: &Host) -> Duration {
    SETTLE_WITHIN.min(host.confirm_within)
}

/// Returns to what stood before: the confirmed quarantine that was to be replaced, or none.
pub(super) fn roll_back(
    host: &Host,
    stage: &'static str,
    previous: Option<Standing>,
) -> Result<(), Failure> {
    let mut turn = host.firewall.turn(stage);
    *turn.unconfirmed_since() = None;
    match previous {
        Some(previous) => {
            turn.load(previous.peers())?;
            previous.save(host, "roll_back")
        }
        None => {
            turn.delete()?;
            Standing::remove(host, "roll_back")
        }
    }
}
