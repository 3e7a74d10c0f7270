//! The verbs that act on devices: what they take, and how an order is given.
//!
//! Owns the way from arguments to an order: dry run, confirmation, order, progress. What was
//! shown is what is ordered: the order names the devices of the dry run by their ids.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::commands::wire::{CreateOrder, CreatedOrder, DryRun, Targets};
use clap::{ArgGroup, Args, ValueEnum};
use protocol::action::{
    Action, AllowedPeer, CryptoLock, Lock, LockLevel, Quarantine, Reboot, Refresh, Release,
    SelectiveWipe, Unlock, Wipe, WipeLevel,
};
use protocol::id::{CommandId, DeviceId, GroupName};
use protocol::sealed::CaseKey;
use protocol::state::{CommandState, VerbClass};

use super::ask::{self, Demand};
use super::follow::{self, Waiting};
use super::offline::{Codes, OfflineArgs};
use super::{Context, Exit, Failure, approve, preview, targets};
use crate::client::{Client, ClientError};
use crate::output::text;

/// What every verb takes.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("target").required(true).args(["devices", "group"])))]
pub struct OrderArgs {
    /// Devices, by name or id
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<String>,
    /// All devices of this group, as it is now
    #[arg(long)]
    pub group: Option<GroupName>,
    /// Why; needed for everything but refresh, and shown to whoever approves
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// How long the order is valid, such as 1h [default: a day]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub expires: Option<Duration>,
    /// Also on devices whose identity two machines are known to hold: one of the two obeys
    #[arg(long)]
    pub accept_cloned: bool,
    /// On all devices at once, where some would go first
    #[arg(long)]
    pub all_at_once: bool,
    /// On simulated devices only, such as those of a load test; without it on no such device
    #[arg(long)]
    pub simulated: bool,
    /// Show what would happen, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// How the order is waited for.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// How an order is waited for.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Do not wait for the outcome
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for devices that are there
    #[arg(long, value_parser = duration, default_value = "10m", value_name = "DURATION")]
    pub timeout: Duration,
}

/// Arguments of verbs without parameters.
#[derive(Debug, Clone, Args)]
pub struct PlainArgs {
    /// Targets and the rest.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// Arguments of `tocsin lock`.
#[derive(Debug, Clone, Args)]
pub struct LockArgs {
    /// How far: screens of graphical sessions only, every account and session, or the volumes
    /// themselves, which open with the recovery key alone from then on, and the power
    #[arg(long, value_enum, default_value_t = Level::Session)]
    pub level: Level,
    /// What the screen says: whom to call, the case number
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// For level crypto: who opens the volumes, as `tocsin escrow new-key` prints it
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    #[arg(required_if_eq("level", "crypto"))]
    pub recovery_key: Option<CaseKey>,
    /// Codes that end it.
    #[command(flatten)]
    pub offline: OfflineArgs,
    /// Targets and the rest.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// How far a lock goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Screens of graphical sessions only
    Screen,
    /// Every account but break-glass, every session ended
    Session,
    /// Every key of the managed volumes but a new one in escrow; then the device powers off
    Crypto,
}

/// Arguments of `tocsin quarantine`.
#[derive(Debug, Clone, Args)]
pub struct QuarantineArgs {
    /// A peer that stays reachable, such as a jump host; may be repeated
    #[arg(long, value_name = "IP:PORT", value_parser = peer)]
    pub allow: Vec<AllowedPeer>,
    /// Leave each device's own name servers open, to everybody on it.
    #[arg(long)]
    pub allow_resolver: bool,
    /// Until then only, such as 8h: each device releases itself. Without it a release is needed
    #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
    pub lasts: Option<Duration>,
    /// Codes that end it.
    #[command(flatten)]
    pub offline: OfflineArgs,
    /// Targets and the rest.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// Arguments of `tocsin wipe`.
#[derive(Debug, Clone, Args)]
pub struct WipeArgs {
    /// How far: the keys, which takes milliseconds, or the data as well
    #[arg(long, value_enum, default_value_t = Depth::Keys)]
    pub level: Depth,
    /// Only if the device would do exactly what it signed in this `plan`; one of each device
    #[arg(long, value_name = "COMMAND")]
    pub plan: Vec<CommandId>,
    /// Wait so long on the device before anything is destroyed, such as 10m; until then
    /// `tocsin cancel` calls it back. The trust root may ask for longer
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub undo: Option<Duration>,
    /// Leave the device on; a mounted volume stays readable until it is off
    #[arg(long)]
    pub no_power_off: bool,
    /// Targets and the rest.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// Arguments of `tocsin selective-wipe`.
#[derive(Debug, Clone, Args)]
pub struct SelectiveWipeArgs {
    /// Only if the device would do exactly what it signed in this `plan`; one of each device
    #[arg(long, value_name = "COMMAND")]
    pub plan: Vec<CommandId>,
    /// Wait so long on the device before anything is destroyed, such as 10m; until then
    /// `tocsin cancel` calls it back. The trust root may ask for longer
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub undo: Option<Duration>,
    /// Targets and the rest.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// How far a wipe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Depth {
    /// Headers and keyslots
    Keys,
    /// Keys first, then the data area
    Data,
}

/// Reads a duration such as `15m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    runtime::config::duration::parse(text)
        .ok_or_else(|| "a duration is a number and a unit, such as 90s, 15m, 2h, 7d".to_owned())
}

/// Reads an address and a port.
pub fn peer(text: &str) -> Result<AllowedPeer, String> {
    let address: std::net::SocketAddr = text
        .parse()
        .map_err(|_| "a peer is an address and a port, such as 10.0.0.5:22 or [fd00::5]:22")?;
    Ok(AllowedPeer { address: address.ip(), tcp_port: address.port() })
}

/// Locks devices.
pub async fn lock(context: &Context, args: LockArgs) -> Result<Exit, Failure> {
    let level = match (args.level, args.recovery_key) {
        (Level::Screen, None) => LockLevel::Screen,
        (Level::Session, None) => LockLevel::Session,
        (Level::Crypto, Some(recovery_key)) if args.message.is_none() => {
            let lock = Action::CryptoLock(CryptoLock { recovery_key });
            return give(context, lock, args.order).await;
        }
        (Level::Crypto, _) => return Err(Failure::usage("a device that is off shows no message")),
        (Level::Screen | Level::Session, Some(_)) => {
            return Err(Failure::usage("only level crypto has a recovery key"));
        }
    };
    let action = Action::Lock(Lock { level, message: args.message });
    give_all(context, Wish { offline: args.offline, ..Wish::of(action) }, args.order).await
}

/// Unlocks devices.
pub async fn unlock(context: &Context, args: PlainArgs) -> Result<Exit, Failure> {
    give(context, Action::Unlock(Unlock {}), args.order).await
}

/// Wipes devices.
pub async fn wipe(context: &Context, args: WipeArgs) -> Result<Exit, Failure> {
    let wipe = Wipe { level: args.level.into(), power_off: !args.no_power_off };
    give_bound(context, Action::Wipe(wipe), (args.plan, args.undo), args.order).await
}

impl From<Depth> for WipeLevel {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::Keys => Self::Keys,
            Depth::Data => Self::Data,
        }
    }
}

/// Wipes the company's part of devices.
pub async fn selective_wipe(context: &Context, args: SelectiveWipeArgs) -> Result<Exit, Failure> {
    let wipe = Action::SelectiveWipe(SelectiveWipe {});
    give_bound(context, wipe, (args.plan, args.undo), args.order).await
}

/// Quarantines devices.
pub async fn quarantine(context: &Context, args: QuarantineArgs) -> Result<Exit, Failure> {
    let until = args.lasts.map(|lasts| context.now().plus(lasts).whole_secs());
    let quarantine = Quarantine { allow: args.allow, resolver: args.allow_resolver, until };
    let action = Action::Quarantine(quarantine);
    give_all(context, Wish { offline: args.offline, ..Wish::of(action) }, args.order).await
}

/// Releases devices from quarantine.
pub async fn release(context: &Context, args: PlainArgs) -> Result<Exit, Failure> {
    give(context, Action::Release(Release {}), args.order).await
}

/// Has devices start again.
pub async fn reboot(context: &Context, args: PlainArgs) -> Result<Exit, Failure> {
    give(context, Action::Reboot(Reboot {}), args.order).await
}

/// Has devices report.
pub async fn refresh(context: &Context, args: PlainArgs) -> Result<Exit, Failure> {
    give(context, Action::Refresh(Refresh {}), args.order).await
}

/// Gives an order that is bound to no plan.
pub(super) async fn give(
    context: &Context,
    action: Action,
    args: OrderArgs,
) -> Result<Exit, Failure> {
    give_all(context, Wish::of(action), args).await
}

/// Gives an order that may be bound to plans.
async fn give_bound(
    context: &Context,
    action: Action,
    (plans, undo): (Vec<CommandId>, Option<Duration>),
    args: OrderArgs,
) -> Result<Exit, Failure> {
    give_all(context, Wish { plans, undo, ..Wish::of(action) }, args).await
}

/// What is ordered, and what belongs to it.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) action: Action,
    pub(super) plans: Vec<CommandId>,
    pub(super) undo: Option<Duration>,
    pub(super) script: Option<String>,
    pub(super) offline: OfflineArgs,
}

impl Wish {
    /// An action with nothing beside it.
    pub(super) fn of(action: Action) -> Self {
        let offline = OfflineArgs::default();
        Self { action, plans: Vec::new(), undo: None, script: None, offline }
    }
}

/// Shows, asks, orders, and follows.
pub(super) async fn give_all(
    context: &Context,
    wish: Wish,
    args: OrderArgs,
) -> Result<Exit, Failure> {
    let Wish { action, plans, undo, script, offline } = wish;
    action.check().map_err(|error| Failure::usage(error.to_string()))?;
    let (out, client) = (context.out, context.client()?);
    let targets = targets::parse(&client, &args.devices, args.group.clone()).await?;
    let undo_secs = undo.map(|undo| u32::try_from(undo.as_secs()).unwrap_or(u32::MAX));
    let mut order = CreateOrder {
        action,
        targets,
        reason: reason(context, &args).await?,
        expires_in_secs: args.expires.map(|expires| expires.as_secs()),
        plans,
        undo_secs,
        script,
        offline_codes: BTreeMap::new(),
        all_at_once: args.all_at_once,
        accept_cloned: args.accept_cloned,
        simulated: args.simulated,
        dry_run: true,
    };
    if order.reason.is_none() && args.dry_run {
        // Nothing is ordered, but the control plane judges the request as a whole.
        order.reason = Some("dry run".to_owned());
    }
    let mut plan: DryRun = match client.post("/v1/orders", &order).await {
        Ok(plan) => plan,
        Err(error) => return Err(targets::explain(&client, &order.targets, error).await),
    };
    let codes = Codes::draw(context, offline, &mut order, &plan)?;
    if codes.is_some() {
        // Codes may take more approvals, and not every agent knows them.
        plan = client.post("/v1/orders", &order).await?;
    }
    let lines = preview::lines(context, &client, &order, &plan).await;
    if args.dry_run {
        out.object(&plan);
        lines.iter().for_each(|line| out.line(line));
        return Ok(Exit::Success);
    }
    match order.action.verb().class() {
        VerbClass::Routine => {}
        VerbClass::Disruptive | VerbClass::Destructive | VerbClass::Stop => {
            if !args.yes || out.is_live() {
                lines.iter().for_each(|line| out.note(line));
            }
            if !args.yes {
                let (question, demand) = question(&order.action, &plan);
                ask::confirm(out, &question, &demand).await?;
            }
        }
    }
    order.targets = Targets::Devices(plan.devices.iter().map(|device| device.id).collect());
    order.dry_run = false;
    let kept = codes.map(|codes| codes.keep(context, &order)).transpose()?;
    let created: CreatedOrder = match (client.create("/v1/orders", &order).await, kept) {
        (Ok(created), None) => created,
        (Ok(created), Some(kept)) => {
            kept.accepted(context, &client, &created).await?;
            created
        }
        (Err(error), kept) => {
            let failure = perhaps_given(error);
            return Err(kept.iter().fold(failure, |failure, kept| kept.stays(failure)));
        }
    };
    after(context, &client, &created, &plan, &args.wait).await
}

/// An order whose answer was lost may stand all the same.
fn perhaps_given(error: ClientError) -> Failure {
    let is_open = error.is_transient();
    let failure = Failure::from(error);
    if is_open {
        failure.next("the order may have been accepted: see `tocsin orders` before giving it again")
    } else {
        failure
    }
}

/// The reason given, or asked for where somebody can be asked.
async fn reason(context: &Context, args: &OrderArgs) -> Result<Option<String>, Failure> {
    let given = args.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    Ok(match given {
        Some(reason) => Some(reason.to_owned()),
        None if !args.yes && !args.dry_run && ask::is_possible() => {
            let line = ask::line(context.out, "Reason (shown to whoever approves): ").await?;
            Some(line.trim().to_owned()).filter(|line| !line.is_empty())
        }
        None => None,
    })
}

/// What a person is asked, and the answer that goes ahead. What cannot be undone takes more than
/// a `y` that comes by habit.
pub fn question(action: &Action, plan: &DryRun) -> (String, Demand) {
    let verb = action.verb();
    let demand = match (verb.class(), plan.devices.as_slice()) {
        // A name with characters that nobody can type is no question.
        (VerbClass::Destructive, [only]) if is_typable(&only.name) => {
            Demand::Exactly(only.name.clone())
        }
        (VerbClass::Destructive, devices) => Demand::Exactly(devices.len().to_string()),
        (VerbClass::Disruptive | VerbClass::Routine | VerbClass::Stop, _) => Demand::Yes,
    };
    let what = text::count(plan.devices.len(), "device");
    (format!("\nGo ahead and {verb} {what}?"), demand)
}

fn is_typable(name: &str) -> bool {
    !name.is_empty() && name.trim() == name && text::clean(name) == name
}

/// What follows an order: progress, or who else is needed.
async fn after(
    context: &Context,
    client: &Client,
    created: &CreatedOrder,
    plan: &DryRun,
    wait: &WaitArgs,
) -> Result<Exit, Failure> {
    let out = context.out;
    let order = &created.order;
    let waits = |state: CommandState| state == CommandState::AwaitingApproval;
    let is_free = created.commands.iter().any(|command| !waits(command.state));
    if created.commands.iter().any(|command| waits(command.state)) {
        for line in approve::how_to_approve(order, context.now()) {
            out.line(&line);
        }
    }
    if wait.no_wait || !is_free {
        out.object(created);
        if is_free {
            out.line(&format!("order {} accepted: it is on disk", order.id));
            out.line(&format!("  follow it:   tocsin orders --order {}", order.id));
            out.line(&format!("  withdraw it: tocsin cancel {}", order.id));
        }
        return Ok(if is_free { Exit::Success } else { Exit::AwaitingApproval });
    }
    let online: BTreeMap<DeviceId, bool> =
        plan.devices.iter().filter_map(|d| Some((d.id, d.online?))).collect();
    let waiting =
        Waiting { order: order.id, online, spared: BTreeSet::new(), timeout: wait.timeout };
    follow::to_the_end(context, client, waiting).await
}
