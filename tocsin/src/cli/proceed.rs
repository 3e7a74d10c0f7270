//! `tocsin continue`: the devices behind a first wave follow, whatever became of that.

use std::collections::BTreeSet;

use api::commands::wire::{OrderView, Withdraw};
use clap::Args;
use protocol::id::OrderId;

use super::follow::{self, Waiting};
use super::order::WaitArgs;
use super::{Context, Exit, Failure, approve};
use crate::output::Tone;

/// Arguments of `tocsin continue`.
#[derive(Debug, Args)]
pub struct ContinueArgs {
    /// The order
    #[arg(value_name = "ORDER")]
    pub order: OrderId,
    /// Why, although its first wave did not succeed (yet)
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// How the devices are waited for.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Has the others follow, and follows them.
pub async fn run(context: &Context, args: ContinueArgs) -> Result<Exit, Failure> {
    let (out, client) = (context.out, context.client()?);
    let body = Withdraw { reason: Some(args.reason) };
    let path = format!("/v1/orders/{}/continue", args.order);
    let order: OrderView = client.post(&path, &body).await?;
    out.note(&out.paint_note(Tone::Waiting, &format!("order {} goes on", order.id)));
    if args.wait.no_wait {
        out.object(&order);
        return Ok(Exit::Success);
    }
    let online = approve::presence(&client, order.id).await?;
    let waiting =
        Waiting { order: order.id, online, spared: BTreeSet::new(), timeout: args.wait.timeout };
    follow::to_the_end(context, &client, waiting).await
}
