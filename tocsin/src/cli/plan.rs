//! `tocsin plan`: has devices sign what they would do, and do nothing.

use clap::{Args, ValueEnum};
use protocol::action::{
    Action, AllowedPeer, Lock, LockLevel, Plan, Quarantine, Reboot, Release, SelectiveWipe, Unlock,
    Wipe,
};

use super::order::{self, Depth, OrderArgs};
use super::{Context, Exit, Failure};

/// Arguments of `tocsin plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Of what
    #[arg(long, value_enum, default_value_t = Planned::Wipe, conflicts_with = "selective")]
    pub of: Planned,
    /// Of a wipe that goes how far
    #[arg(long, value_enum, default_value_t = Depth::Keys, conflicts_with = "selective")]
    pub level: Depth,
    /// Of a selective wipe
    #[arg(long)]
    pub selective: bool,
    /// Of a quarantine that leaves this address and port open: what `quarantine --allow` would say
    #[arg(long, value_parser = order::peer, value_name = "ADDRESS:PORT")]
    pub allow: Vec<AllowedPeer>,
    /// Of a quarantine that leaves each device's own name servers open
    #[arg(long)]
    pub allow_resolver: bool,
    /// Targets and the rest.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// What a device signs a plan of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Planned {
    /// Destroying volumes
    Wipe,
    /// Destroying what belongs to the company
    SelectiveWipe,
    /// Locking every account but break-glass
    Lock,
    /// Undoing a lock
    Unlock,
    /// Cutting the network
    Quarantine,
    /// Ending a quarantine
    Release,
    /// Booting anew
    Reboot,
}

/// Has devices sign what they would do.
pub async fn plan(context: &Context, args: PlanArgs) -> Result<Exit, Failure> {
    let of = planned(&args)?;
    order::give(context, Action::Plan(Plan { of: Box::new(of) }), args.order).await
}

pub(super) fn planned(args: &PlanArgs) -> Result<Action, Failure> {
    let is_of_quarantine = args.of == Planned::Quarantine;
    if !is_of_quarantine && (args.allow_resolver || !args.allow.is_empty()) {
        return Err(Failure::usage(
            "only a quarantine leaves something open: say `--of quarantine`",
        ));
    }
    if args.of != Planned::Wipe && args.level != Depth::Keys {
        return Err(Failure::usage("only a wipe has a level of this kind: leave `--of` out"));
    }
    Ok(match args.of {
        Planned::Wipe if args.selective => Action::SelectiveWipe(SelectiveWipe {}),
        Planned::Wipe => Action::Wipe(Wipe { level: args.level.into(), power_off: true }),
        Planned::SelectiveWipe => Action::SelectiveWipe(SelectiveWipe {}),
        Planned::Lock => Action::Lock(Lock { level: LockLevel::Session, message: None }),
        Planned::Unlock => Action::Unlock(Unlock {}),
        Planned::Quarantine => Action::Quarantine(Quarantine {
            allow: args.allow.clone(),
            resolver: args.allow_resolver,
            until: None,
        }),
        Planned::Release => Action::Release(Release {}),
        Planned::Reboot => Action::Reboot(Reboot {}),
    })
}
