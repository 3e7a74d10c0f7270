//! `tocsin cancel`: an order is withdrawn where no device has it, and called back where one does.
//!
//! Owns the two ways and what they come to. What a device has on disk only that device ends: what
//! calls it back is an order of its own, and its receipt says whether it came in time.

use api::commands::wire::{CancelledCommand, CancelledOrder, CreatedOrder, Withdraw};
use clap::Args;
use protocol::id::CommandId;
use protocol::state::CommandState;

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
        return called_back(context, &client, cancel, &args.wait).await;
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
        return called_back(context, client, cancel, &args.wait).await;
    }
    out.object(&cancelled);
    out.line(&stands);
    Ok(Exit::Success)
}

/// Waits for what the devices say that had it already.
async fn called_back(
    context: &Context,
    client: &Client,
    cancel: &CreatedOrder,
    wait: &WaitArgs,
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
    let waiting = Waiting { order: order.id, online, timeout: wait.timeout };
    follow::to_the_end(context, client, waiting).await
}
