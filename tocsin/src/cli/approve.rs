//! `tocsin approve`, `reject` and `approvals`: what other people have to agree to.
//!
//! Owns what is signed. The approver's machine computes the Merkle root over the devices it shows
//! and signs only when it is the manifest's: the control plane cannot have one thing shown and
//! another signed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use api::commands::wire::{
    CommandView, ManifestView, OrderView, SubmitApproval, Withdraw, WithdrawApproval,
};
use api::trust::TrustView;
use clap::Args;
use protocol::envelope::{self, Approval};
use protocol::id::OrderId;
use protocol::manifest::{DeviceTree, Manifest};
use protocol::time::Timestamp;
use protocol::trust::Role;
use serde_json::json;

use super::ask::{self, Demand};
use super::follow::{self, Waiting};
use super::order::WaitArgs;
use super::{Context, Exit, Failure, offline};
use crate::client::Client;
use crate::keyfile;
use crate::output::{Table, Tone, outcome, text, time};

/// Devices that are shown by name; more are counted, and `--json` shows all.
const SHOWN: usize = 50;

/// Arguments of `tocsin approve`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The order
    pub order: OrderId,
    /// Your key, as `tocsin key new` made it
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// File with the key's passphrase, in place of the prompt
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Take your approval back, as long as no device has the command
    #[arg(long)]
    pub withdraw: bool,
    /// Why you take it back
    #[arg(long, value_name = "TEXT", requires = "withdraw")]
    pub reason: Option<String>,
    /// How the order is waited for.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Arguments of `tocsin reject`.
#[derive(Debug, Args)]
pub struct RejectArgs {
    /// The order
    pub order: OrderId,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Why a manifest is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is of another order.
    #[error("the manifest is of another order")]
    OtherOrder,
    /// Its devices are not those that are shown.
    #[error("the manifest's devices are not those that the control plane shows")]
    OtherDevices,
    /// What it orders is not what is shown.
    #[error("the manifest orders something else than the control plane shows")]
    OtherAction,
    /// Who asked for it is not who is shown.
    #[error("the manifest was asked for by somebody else than the control plane shows")]
    OtherRequester,
    /// The script beside it is not the one that it names, or hides something.
    #[error("the script is not the one that the manifest names by its hash")]
    OtherScript,
    /// It is past its end.
    #[error("the order is past its end")]
    Expired,
    /// A device in it could not be told from another by what is shown.
    #[error("the control plane shows the device {0} twice")]
    Doubled(String),
}

/// Checks that what is shown is what would be signed.
pub fn check_manifest(
    order: &OrderView,
    shown: &ManifestView,
    wanted: OrderId,
    now: Timestamp,
) -> Result<(), ManifestError> {
    let manifest = &shown.manifest;
    if manifest.order_id != wanted || order.id != wanted {
        return Err(ManifestError::OtherOrder);
    }
    if manifest.action != order.action {
        return Err(ManifestError::OtherAction);
    }
    if manifest.requested_by.as_ref().is_some_and(|requester| *requester != order.operator) {
        return Err(ManifestError::OtherRequester);
    }
    if !manifest.action.goes_with(shown.script.as_deref()) {
        return Err(ManifestError::OtherScript);
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = shown.devices.iter().find(|device| !ids.insert(device.id)) {
        return Err(ManifestError::Doubled(twice.id.to_string()));
    }
    let tree = DeviceTree::new(ids).ok_or(ManifestError::OtherDevices)?;
    let is_same = tree.root() == manifest.device_root
        && u32::try_from(tree.devices().len()) == Ok(manifest.device_count);
    if !is_same {
        return Err(ManifestError::OtherDevices);
    }
    if manifest.expires_at <= now {
        return Err(ManifestError::Expired);
    }
    Ok(())
}

/// Shows an order, signs it, and hands the approval in.
pub async fn run(context: &Context, args: ApproveArgs) -> Result<Exit, Failure> {
    if args.withdraw {
        return withdraw(context, args).await;
    }
    let (out, client) = (context.out, context.client()?);
    let order: OrderView = client.get(&format!("/v1/orders/{}", args.order)).await?;
    let shown: ManifestView = client.get(&format!("/v1/orders/{}/manifest", args.order)).await?;
    check_manifest(&order, &shown, args.order, context.now()).map_err(|error| {
        let next = match error {
            ManifestError::Expired => "the order has to be given again",
            ManifestError::OtherOrder
            | ManifestError::OtherDevices
            | ManifestError::OtherAction
            | ManifestError::OtherRequester
            | ManifestError::OtherScript
            | ManifestError::Doubled(_) => {
                "do not approve; treat the control plane as broken into, and look at its audit log"
            }
        };
        Failure::new(format!("NOT SIGNED: {error}")).next(next)
    })?;
    let public = keyfile::public(&args.key)?;
    let trust: TrustView = client.get("/v1/trust").await?;
    let person = trust.root.signer(public.id()).map(|(role, approver)| match role {
        Role::Approver => approver.person.to_string(),
        Role::Mass | Role::BreakGlass => format!("{} ({})", approver.person, role.as_str()),
    });
    let person = person.ok_or_else(|| {
        Failure::new(format!("{public} is no approver's key in version {}", trust.version)).next(
            format!("whoever holds the root key runs: tocsin trust add-approver {public} --person NAME --root-key FILE"),
        )
    })?;
    let own = trust.root.signer(public.id()).filter(|(role, approver)| {
        *role != Role::BreakGlass && trust.root.asked_for(&approver.person, &shown.manifest)
    });
    if let Some((_, approver)) = own {
        let text = format!("NOT SIGNED: {} asked for this order", approver.person);
        return Err(Failure::new(text).next("somebody else has to approve it"));
    }
    show(context, &order, &shown);
    if !args.yes {
        let question = format!("\nSign this as {person}?");
        ask::confirm(out, &question, &Demand::Yes).await?;
    }
    let variable = std::env::var("TOCSIN_PASSPHRASE").ok();
    let passphrase = ask::passphrase(args.passphrase_file.as_deref(), variable.as_deref(), false)?;
    let key = keyfile::open(&args.key, &passphrase)?;
    let approval = Approval { manifest: shown.manifest.clone(), approved_at: context.now() };
    let jws = envelope::approve(&approval, &key).map_err(Failure::of)?;
    let path = format!("/v1/orders/{}/approvals", args.order);
    let order: OrderView = client.post(&path, &SubmitApproval { jws }).await?;
    after(context, &client, &order, &args.wait).await
}

fn show(context: &Context, order: &OrderView, shown: &ManifestView) {
    let out = context.out;
    let verb = order.action.verb();
    let strong = |text: &str| out.paint_note(Tone::Strong, text);
    out.note(&strong("You are about to sign:"));
    let manifest: &Manifest = &shown.manifest;
    let rows = [
        ("what", format!("{} — {}", outcome::action(&manifest.action), outcome::class(verb))),
        ("asked by", manifest.requested_by.as_ref().unwrap_or(&order.operator).to_string()),
        ("why", text::clean(order.reason.as_deref().unwrap_or("no reason given"))),
        ("until", time::clock(manifest.expires_at, context.now())),
        ("approved by", people(order)),
        ("devices", text::count(shown.devices.len(), "device")),
    ];
    for (label, value) in rows {
        out.note(&format!("  {label:<12} {value}"));
    }
    for device in shown.devices.iter().take(SHOWN) {
        out.note(&format!("    {:<24} {}", text::clean_to(&device.name, 63), device.id));
    }
    if manifest.simulated {
        out.note(&format!("  {:<12} simulated devices; whoever acts refuses it", "only for"));
    }
    if let Some(undo_secs) = manifest.undo_secs {
        let undo = time::duration(Duration::from_secs(undo_secs.into()));
        out.note(&format!("  {:<12} {undo} on each device, where it can be called back", "waits"));
    }
    if !manifest.offline_codes.is_empty() {
        let codes = text::count(manifest.offline_codes.len(), "device");
        out.note(&format!("  {:<12} by codes of whoever gave it, on {codes};", "can be ended"));
        let fingerprint = offline::fingerprint(&manifest.offline_codes);
        out.note(&format!("  {:<12} fingerprint {fingerprint}", ""));
    }
    for (device, plan) in &manifest.plans {
        out.note(&format!("  {:<12} {plan} of {device}", "only by plan"));
    }
    if shown.devices.len() > SHOWN {
        out.note(&format!("    and {} more", shown.devices.len() - SHOWN));
    }
    // The whole of it: its hash is what is signed.
    for line in shown.script.iter().flat_map(|script| script.lines()) {
        let line = line.replace('\t', "    ");
        out.note(&format!("    | {}", text::clean_to(&line, usize::MAX)));
    }
}

/// Who approved, of how many.
fn people(order: &OrderView) -> String {
    let names: Vec<_> = order.approvals.iter().map(|a| a.person.to_string()).collect();
    let names = if names.is_empty() { "nobody yet".to_owned() } else { names.join(", ") };
    format!("{names} ({} of {})", order.approvals.len(), order.approvals_needed)
}

async fn after(
    context: &Context,
    client: &Client,
    order: &OrderView,
    wait: &WaitArgs,
) -> Result<Exit, Failure> {
    let out = context.out;
    let approved = out.paint(Tone::Good, "approved");
    out.line(&format!("{approved}: order {} by {}", order.id, people(order)));
    if order.states.contains_key("awaiting_approval") {
        out.object(order);
        out.line("another person runs:");
        out.line(&format!("  tocsin approve {} --key FILE", order.id));
        return Ok(Exit::AwaitingApproval);
    }
    if wait.no_wait {
        out.object(order);
        return Ok(Exit::Success);
    }
    let online = presence(client, order.id).await?;
    let waiting =
        Waiting { order: order.id, online, spared: BTreeSet::new(), timeout: wait.timeout };
    follow::to_the_end(context, client, waiting).await
}

/// Which devices of an order have a session now.
pub(super) async fn presence(
    client: &Client,
    order: OrderId,
) -> Result<BTreeMap<protocol::id::DeviceId, bool>, Failure> {
    let shown: ManifestView = client.get(&format!("/v1/orders/{order}/manifest")).await?;
    let mut online = BTreeMap::new();
    for device in shown.devices.iter().take(SHOWN) {
        let view = super::devices::get(client, device.id).await?;
        online.extend(view.online.map(|is_online| (view.id, is_online)));
    }
    Ok(online)
}

/// Takes back the approval of the key's owner.
async fn withdraw(context: &Context, args: ApproveArgs) -> Result<Exit, Failure> {
    let (out, client) = (context.out, context.client()?);
    let public = keyfile::public(&args.key)?;
    let trust: TrustView = client.get("/v1/trust").await?;
    let owner = trust.root.signer(public.id()).map(|(_, approver)| approver.person.clone());
    let person = owner.ok_or_else(|| {
        Failure::new(format!("{public} is no approver's key in version {}", trust.version))
    })?;
    let path = format!("/v1/orders/{}/withdraw", args.order);
    let body = WithdrawApproval { person, reason: args.reason };
    let order: OrderView = client.post(&path, &body).await?;
    out.object(&order);
    let withdrawn = out.paint(Tone::Waiting, "withdrawn");
    out.line(&format!(
        "{withdrawn}: the approval of {}; order {} has {}",
        body.person,
        order.id,
        people(&order)
    ));
    Ok(Exit::Success)
}

/// Refuses an order that awaits approval.
pub async fn reject(context: &Context, args: RejectArgs) -> Result<Exit, Failure> {
    let path = format!("/v1/orders/{}/reject", args.order);
    let order: OrderView = context.client()?.post(&path, &Withdraw { reason: args.reason }).await?;
    context.out.object(&order);
    context.out.line(&format!("order {} rejected: nothing is sent", order.id));
    Ok(Exit::Success)
}

/// Lists the orders that await approval.
pub async fn inbox(context: &Context) -> Result<Exit, Failure> {
    let (out, client) = (context.out, context.client()?);
    let query = [("state", "awaiting_approval".to_owned())];
    let waiting: Vec<CommandView> = client.all("/v1/commands", &query, None).await?;
    let ids: BTreeSet<OrderId> = waiting.iter().map(|command| command.order_id).collect();
    let mut orders: Vec<OrderView> = Vec::with_capacity(ids.len());
    for id in ids {
        orders.push(client.get(&format!("/v1/orders/{id}")).await?);
    }
    out.object(&json!({ "items": orders }));
    if orders.is_empty() {
        out.note("nothing awaits approval");
        return Ok(Exit::Success);
    }
    let mut table =
        Table::new(&["order", "what", "devices", "asked by", "approved", "until", "why"]);
    for order in &orders {
        table.row([
            (order.id.to_string(), Tone::Strong),
            (outcome::action(&order.action), outcome::tone_of_verb(order.action.verb())),
            (order.device_count.to_string(), Tone::Plain),
            (order.operator.to_string(), Tone::Plain),
            (format!("{} of {}", order.approvals.len(), order.approvals_needed), Tone::Waiting),
            (time::clock(order.expires_at.0, context.now()), Tone::Plain),
            (order.reason.clone().unwrap_or_default(), Tone::Plain),
        ]);
    }
    out.table(&table);
    out.note("\nto look at one and approve it:  tocsin approve ORDER --key FILE");
    out.note("to refuse one:                  tocsin reject ORDER --reason TEXT");
    Ok(Exit::Success)
}

/// What has to happen before an order goes on.
pub fn how_to_approve(order: &OrderView, now: Timestamp) -> Vec<String> {
    let (have, needed) = (order.approvals.len(), order.approvals_needed);
    let until = time::clock(order.expires_at.0, now);
    vec![
        format!("order {} awaits approval: {have} of {needed} persons, until {until}", order.id),
        "each of them runs:".to_owned(),
        format!("  tocsin approve {} --key FILE", order.id),
    ]
}
