//! `tocsin freeze` and `tocsin thaw`: nothing that destroys begins, for a time.
//!
//! Owns what "all devices" means here: those that are enrolled now, in as many orders as it takes.

use std::time::Duration;

use api::devices::DeviceView;
use clap::Args;
use protocol::action::{Action, Freeze, Thaw};
use protocol::id::GroupName;
use protocol::limits;

use super::order::{self, OrderArgs, WaitArgs, duration};
use super::{Context, Exit, Failure};

/// Devices of one order; the control plane takes no more.
const ORDER_DEVICES: usize = 10_000;

/// Arguments of `tocsin freeze`.
#[derive(Debug, Clone, Args)]
pub struct FreezeArgs {
    /// For how long; just below a day at most [default: just below a day]
    #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
    pub lasts: Option<Duration>,
    /// Targets and the rest.
    #[command(flatten)]
    pub scope: ScopeArgs,
}

/// Arguments of `tocsin thaw`.
#[derive(Debug, Clone, Args)]
pub struct ThawArgs {
    /// Targets and the rest.
    #[command(flatten)]
    pub scope: ScopeArgs,
}

/// What both take.
#[derive(Debug, Clone, Args)]
pub struct ScopeArgs {
    /// Devices, by name or id; all that are enrolled, if none is named
    #[arg(value_name = "DEVICE", conflicts_with = "group")]
    pub devices: Vec<String>,
    /// All devices of this group, as it is now
    #[arg(long)]
    pub group: Option<GroupName>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
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

/// Has devices begin nothing that destroys.
pub async fn freeze(context: &Context, args: FreezeArgs) -> Result<Exit, Failure> {
    // Two clocks may differ by so much, and devices take no longer freeze than a day.
    let longest = limits::FREEZE.saturating_sub(limits::CLOCK_SKEW);
    let lasts = args.lasts.unwrap_or(longest);
    if lasts > longest {
        let most = crate::output::time::duration(longest);
        return Err(Failure::usage(format!(
            "a freeze lasts {most} at most; give another one then"
        )));
    }
    let until = context.now().plus(lasts).whole_secs();
    give(context, &Action::Freeze(Freeze { until }), args.scope, Some(lasts)).await
}

/// Lets it go on before its time.
pub async fn thaw(context: &Context, args: ThawArgs) -> Result<Exit, Failure> {
    give(context, &Action::Thaw(Thaw {}), args.scope, None).await
}

async fn give(
    context: &Context,
    action: &Action,
    args: ScopeArgs,
    expires: Option<Duration>,
) -> Result<Exit, Failure> {
    let named = !args.devices.is_empty() || args.group.is_some();
    let devices = if named { args.devices.clone() } else { everybody(context).await? };
    let mut orders = vec![devices.as_slice()];
    if !named {
        orders = devices.chunks(ORDER_DEVICES).collect();
    }
    let mut worst = Exit::Success;
    for devices in orders {
        let order = OrderArgs {
            devices: devices.to_vec(),
            group: args.group.clone(),
            reason: args.reason.clone(),
            expires,
            accept_cloned: false,
            all_at_once: false,
            simulated: false,
            dry_run: args.dry_run,
            yes: args.yes,
            wait: args.wait.clone(),
        };
        let exit = order::give(context, action.clone(), order).await?;
        if exit != Exit::Success {
            worst = exit;
        }
    }
    Ok(worst)
}

/// Every device that is enrolled, and not a simulated one.
async fn everybody(context: &Context) -> Result<Vec<String>, Failure> {
    let devices: Vec<DeviceView> = context.client()?.all("/v1/devices", &[], None).await?;
    let is_meant = |device: &DeviceView| device.revoked_at.is_none() && !device.simulated;
    let enrolled = devices.into_iter().filter(is_meant);
    let ids: Vec<_> = enrolled.map(|device| device.id.to_string()).collect();
    if ids.is_empty() {
        return Err(Failure::new("there is no device"));
    }
    Ok(ids)
}
