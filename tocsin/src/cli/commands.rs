//! `tocsin commands`, `orders` and `command`: what was ordered, and what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use api::commands::wire::{CommandView, OrderView, WaveState};
use clap::{Args, Subcommand};
use protocol::action::Verb;
use protocol::id::{CommandId, OrderId};
use protocol::state::CommandState;
use serde_json::json;

use super::{Context, Exit, Failure, proof, targets};
use crate::client::Client;
use crate::output::{Table, Tone, outcome, text, time};

/// Arguments of `tocsin commands` and `tocsin orders`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those that stand there, such as queued, running, failed
    #[arg(long, value_parser = state)]
    pub state: Option<CommandState>,
    /// Only those of this device, by name or id
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Only those of this order, whatever its age
    #[arg(long)]
    pub order: Option<OrderId>,
    /// Only those of this verb
    #[arg(long)]
    pub verb: Option<Verb>,
    /// Only those given since then
    #[arg(long, value_parser = super::order::duration, default_value = "7d", value_name = "DURATION")]
    pub since: Duration,
}

/// The verbs of `tocsin command`.
#[derive(Debug, Subcommand)]
pub enum CommandVerb {
    /// Show one command: when it was where, what its device observed, and whether that is proven
    Show {
        /// The command
        id: CommandId,
    },
}

fn state(text: &str) -> Result<CommandState, String> {
    CommandState::from_name(text).ok_or_else(|| {
        let names: Vec<_> = CommandState::ALL.iter().map(|state| state.as_str()).collect();
        format!("known are {}", names.join(", "))
    })
}

/// Lists commands.
pub async fn list(context: &Context, args: ListArgs) -> Result<Exit, Failure> {
    let client = context.client()?;
    let commands = find(context, &client, args).await?;
    let (out, now) = (context.out, context.now());
    out.object(&json!({ "items": commands }));
    if commands.is_empty() {
        out.note("no such command; see --since for older ones");
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["command", "device", "verb", "state", "given", "took", "order"]);
    for command in &commands {
        let took =
            command.finished_at.map(|at| time::duration(at.0.since(outcome::begin(command))));
        let overdue = if command.overdue { " (overdue)" } else { "" };
        table.row([
            (command.id.to_string(), Tone::Strong),
            (command.device_name.clone(), Tone::Plain),
            (command.verb.to_string(), outcome::tone_of_verb(command.verb)),
            (
                format!("{}{overdue}", outcome::state_words(command.state)),
                outcome::tone(command.state),
            ),
            (time::ago(command.created_at.0, now), Tone::Plain),
            (took.unwrap_or_default(), Tone::Plain),
            (command.order_id.to_string(), Tone::Faint),
        ]);
    }
    out.table(&table);
    Ok(Exit::Success)
}

/// Lists orders.
pub async fn orders(context: &Context, args: ListArgs) -> Result<Exit, Failure> {
    let client = context.client()?;
    let commands = find(context, &client, args).await?;
    let mut states: BTreeMap<OrderId, Vec<CommandState>> = BTreeMap::new();
    for command in &commands {
        states.entry(command.order_id).or_default().push(command.state);
    }
    let mut orders: Vec<OrderView> = Vec::with_capacity(states.len());
    for id in states.keys() {
        orders.push(client.get(&format!("/v1/orders/{id}")).await?);
    }
    let (out, now) = (context.out, context.now());
    out.object(&json!({ "items": orders }));
    if orders.is_empty() {
        out.note("no such order; see --since for older ones");
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["order", "what", "devices", "states", "by", "given", "why"]);
    for order in &orders {
        let mut counted: Vec<_> =
            order.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        if order.first_wave.as_ref().is_some_and(|wave| wave.state == WaveState::Stopped) {
            counted.push("first wave stopped".to_owned());
        }
        table.row([
            (order.id.to_string(), Tone::Strong),
            (outcome::action(&order.action), outcome::tone_of_verb(order.action.verb())),
            (order.device_count.to_string(), Tone::Plain),
            (counted.join(", "), Tone::Plain),
            (order.operator.to_string(), Tone::Plain),
            (time::ago(order.created_at.0, now), Tone::Plain),
            (order.reason.clone().unwrap_or_default(), Tone::Plain),
        ]);
    }
    out.table(&table);
    Ok(Exit::Success)
}

async fn find(
    context: &Context,
    client: &Client,
    args: ListArgs,
) -> Result<Vec<CommandView>, Failure> {
    let mut query = Vec::new();
    query.extend(args.state.map(|state| ("state", state.as_str().to_owned())));
    query.extend(args.verb.map(|verb| ("verb", verb.to_string())));
    query.extend(args.order.map(|order| ("order", order.to_string())));
    if let Some(device) = &args.device {
        query.push(("device", targets::one(client, device).await?.id.to_string()));
    }
    // Ids of commands sort by the time of their making, so that a moment is a cursor.
    let since = context.now().minus(args.since);
    let after = args.order.is_none().then(|| CommandId::new(since, [0; 10]).to_string());
    Ok(client.all("/v1/commands", &query, after).await?)
}

/// Carries out a verb on one command.
pub async fn run(context: &Context, verb: CommandVerb) -> Result<Exit, Failure> {
    match verb {
        CommandVerb::Show { id } => show(context, id).await,
    }
}

async fn show(context: &Context, id: CommandId) -> Result<Exit, Failure> {
    let client = context.client()?;
    let found = proof::fetch(&client, id).await?;
    let order: OrderView = client.get(&format!("/v1/orders/{}", found.command.order_id)).await?;
    let (out, now, command) = (context.out, context.now(), &found.command);
    out.object(command);
    let judged = found.verify();
    let (tone, sentence) = outcome::sentence(command, judged.as_ref().map(|_| ()), None, now);
    out.line(&out.paint(tone, &sentence));
    let id = |text: &str, at: &str| format!("{text} {at}");
    for (label, value) in [
        ("command", command.id.to_string()),
        ("order", id(&command.order_id.to_string(), &outcome::action(&order.action))),
        ("device", command.device_id.to_string()),
        ("asked by", order.operator.to_string()),
        ("why", text::clean(order.reason.as_deref().unwrap_or("no reason given"))),
        ("valid until", api::time::Time(command.expires_at.0).to_string()),
        ("sends", command.sends.to_string()),
    ] {
        out.line(&format!("  {label:<12} {value}"));
    }
    for approval in &order.approvals {
        let at = api::time::Time(approval.received_at.0);
        out.line(&format!("  {:<12} {} at {at}", "approved by", approval.person));
    }
    timeline(context, command);
    if let Some(told) = &command.outcome {
        proof::evidence(out, told);
    }
    if let (Some(_), Err(error)) = (&command.receipt, &judged) {
        return Err(Failure::new(format!("NOT PROVEN: {error}")));
    }
    Ok(Exit::Success)
}

/// When the command came where, and how long each step took.
fn timeline(context: &Context, command: &CommandView) {
    let out = context.out;
    out.line(&out.paint(Tone::Strong, "timeline"));
    let steps = [
        ("given", Some(command.created_at)),
        ("queued", command.queued_at),
        ("sent", command.sent_at),
        ("acked", command.acked_at),
        ("running", command.running_at),
        (outcome::state_words(command.state), command.finished_at),
    ];
    let mut before = command.created_at.0;
    for (name, at) in steps {
        let Some(at) = at else { continue };
        let step = time::duration(at.0.since(before));
        out.line(&format!("  {name:<18} {at}  +{step}"));
        before = at.0;
    }
}
