//! `tocsin cancel`: an order is withdrawn where no device has it, and called back where one does.
//!
//! Owns the two ways and what they come to. What a device has on disk only that device ends: what
//! calls it back is an order of its own, and its receipt says whether it came in time. What is withdrawn has
//! ended, and a device that is away needs not confirm that.

use std::collections::BTreeSet;

use api::commands::wire::{CancelledCommand, CancelledOrder, CommandView, CreatedOrder, Withdraw};
use clap::Args;
use protocol::id::{CommandId, DeviceId};
use protocol::state::CommandState;
use serde::Serialize;

use super::follow::{self, Waiting};
use super::order::WaitArgs;
use super::{Context, Exit, Failure, approve};
use crate::client::Client;
use crate::output::text;

/// Arguments of `tocsin cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// A command or a whole order
    #[arg(value_name = "COMMAND|ORDER")]
    pub id: CommandId,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// How the devices are waited for that have it already.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Withdraws a command or an order, or calls it back.
pub async fn run(context: &Context, args: CancelArgs) -> Result<Exit, Failure> {
    let client = context.client()?;
    let body = Withdraw { reason: args.reason.clone() };
    let as_command = client.post(&format!("/v1/commands/{}/cancel", args.id), &body).await;
    let cancelled: CancelledCommand = match as_command {
        Ok(cancelled) => cancelled,
        Err(error) if error.problem_kind() == Some("not-found") => {
            return whole_order(context, &client, &args, &body).await;
        }
        Err(error) => return Err(error.into()),
    };
    let (out, command) = (context.out, &cancelled.command);
    let name = text::clean(&command.device_name);
    if let Some(cancel) = &cancelled.cancel {
        if command.state == CommandState::Cancelled {
            out.note(&format!(
                "command {} on {name} cancelled; it may have left before",
                command.id
            ));
        }
        let withdrawn = withdrawn(std::slice::from_ref(command));
        let called = Called { whole: &cancelled, cancel, withdrawn, wait: &args.wait };
        return called_back(context, &client, called).await;
    }
    out.object(&cancelled);
    out.line(&format!("command {} on {name} cancelled", command.id));
    if command.sent_at.is_some() {
        out.note("it was sent before: if the device acts all the same, its receipt says so");
    }
    Ok(Exit::Success)
}

async fn whole_order(
    context: &Context,
    client: &Client,
    args: &CancelArgs,
    body: &Withdraw,
) -> Result<Exit, Failure> {
    let id = args.id;
    let cancelled: Result<CancelledOrder, _> =
        client.post(&format!("/v1/orders/{id}/cancel"), body).await;
    let cancelled = match cancelled {
        Err(error) if error.problem_kind() == Some("not-found") => {
            return Err(Failure::new(format!("neither a command nor an order has the id {id}"))
                .next("see `tocsin commands` and `tocsin orders`"));
        }
        outcome => outcome?,
    };
    let (out, order) = (context.out, &cancelled.order);
    let states: Vec<_> =
        order.states.iter().map(|(state, many)| format!("{many} {state}")).collect();
    let stands =
        format!("order {} cancelled as far as it could be: {}", order.id, states.join(", "));
    if let Some(cancel) = &cancelled.cancel {
        out.note(&stands);
        let query = [("order", id.to_string())];
        let views: Vec<CommandView> = client.all("/v1/commands", &query, None).await?;
        let withdrawn = withdrawn(&views);
        let called = Called { whole: &cancelled, cancel, withdrawn, wait: &args.wait };
        return called_back(context, client, called).await;
    }
    out.object(&cancelled);
    out.line(&stands);
    Ok(Exit::Success)
}

/// The devices whose commands have ended without them.
fn withdrawn(commands: &[CommandView]) -> BTreeSet<DeviceId> {
    let ended = commands.iter().filter(|command| command.state == CommandState::Cancelled);
    ended.map(|command| command.device_id).collect()
}

/// What was cancelled, and the order that calls it back.
struct Called<'a, T> {
    whole: &'a T,
    cancel: &'a CreatedOrder,
    withdrawn: BTreeSet<DeviceId>,
    wait: &'a WaitArgs,
}

/// Waits for what the devices say that had it already, and those that are there.
async fn called_back<T: Serialize>(
    context: &Context,
    client: &Client,
    Called { whole, cancel, withdrawn, wait }: Called<'_, T>,
) -> Result<Exit, Failure> {
    let (out, order) = (context.out, &cancel.order);
    let devices = text::count(cancel.commands.len(), "device");
    out.note(&format!("{devices} may have it: order {} calls it back", order.id));
    let waits = |state: CommandState| state == CommandState::AwaitingApproval;
    if cancel.commands.iter().any(|command| waits(command.state)) {
        approve::how_to_approve(order, context.now()).iter().for_each(|line| out.line(line));
        out.object(cancel);
        return Ok(Exit::AwaitingApproval);
    }
    if wait.no_wait {
        out.object(cancel);
        out.line(&format!("  follow it: tocsin orders --order {}", order.id));
        return Ok(Exit::Success);
    }
    let online = approve::presence(client, order.id).await?;
    let is_away =
        |device: &DeviceId| withdrawn.contains(device) && online.get(device) == Some(&false);
    let spared: BTreeSet<_> =
        cancel.commands.iter().map(|command| command.device_id).filter(is_away).collect();
    if cancel.commands.iter().all(|command| spared.contains(&command.device_id)) {
        out.object(whole);
        out.line("cancelled; should it have left before, it is called back at the next contact");
        return Ok(Exit::Success);
    }
    let waiting = Waiting { order: order.id, online, spared, timeout: wait.timeout };
    follow::to_the_end(context, client, waiting).await
}
