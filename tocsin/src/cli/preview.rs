//! What an order will hit, for a person to look at before it is given.

use std::collections::BTreeMap;

use api::commands::wire::{CreateOrder, DryRun, DryRunDevice};
use api::devices::DeviceView;
use protocol::id::DeviceId;
use protocol::state::VerbClass;

use super::{Context, devices};
use crate::client::Client;
use crate::output::{Table, Tone, outcome, text, time};

/// Devices that are looked up one by one; more are shown with what the dry run says.
const LOOKED_UP: usize = 20;
/// Warnings that are shown one by one.
const WARNINGS: usize = 20;

/// The lines that say what will happen.
pub async fn lines(
    context: &Context,
    client: &Client,
    order: &CreateOrder,
    plan: &DryRun,
) -> Vec<String> {
    let known = look_up(client, &plan.devices).await;
    let out = context.out;
    let verb = order.action.verb();
    let tone = match verb.class() {
        VerbClass::Destructive => Tone::Bad,
        VerbClass::Disruptive => Tone::Strong,
        VerbClass::Routine | VerbClass::Stop => Tone::Plain,
    };
    let count = text::count(plan.devices.len(), "device");
    let head = format!("{} on {count}: {}", outcome::action(&order.action), outcome::class(verb));
    let mut lines = vec![out.paint_note(tone, &head), String::new()];
    let mut table = Table::new(&["device", "seen", "approvals", "id"]);
    for device in &plan.devices {
        let (seen_tone, seen) = match known.get(&device.id) {
            Some(view) => devices::seen(view, context.now()),
            None => presence(device.online),
        };
        table.row([
            (device.name.clone(), Tone::Strong),
            (seen, seen_tone),
            (needed(device.approvals_needed), Tone::Plain),
            (device.id.to_string(), Tone::Faint),
        ]);
    }
    lines.extend(table.render(false).lines().map(|line| format!("  {line}")));
    lines.push(String::new());
    if plan.skipped > 0 {
        let skipped = text::count(usize::try_from(plan.skipped).unwrap_or(usize::MAX), "device");
        let kind = if order.simulated { "not simulated" } else { "simulated" };
        let line = format!("! passes by {skipped} of the group: {kind}");
        lines.push(out.paint_note(Tone::Waiting, &line));
    }
    for warning in plan.warnings.iter().take(WARNINGS) {
        let detail = format!("! {}", text::clean(&warning.detail));
        lines.push(out.paint_note(Tone::Waiting, &detail));
    }
    if plan.warnings.len() > WARNINGS {
        let more = plan.warnings.len() - WARNINGS;
        lines.push(format!("! and {}", text::count(more, "warning more").replace("mores", "more")));
    }
    let until = time::clock(plan.expires_at.0, context.now());
    let approvals = match plan.approvals_needed {
        0 => "no approval needed".to_owned(),
        many => format!("{} must approve", text::count(many.into(), "person")),
    };
    if let Some(size) = plan.first_wave {
        let first = text::count(usize::try_from(size).unwrap_or(usize::MAX), "device");
        lines.push(format!("{first} first; the others follow when all of these succeeded"));
    }
    lines.push(format!("{approvals}; valid until {until}"));
    lines
}

fn needed(approvals: u8) -> String {
    if approvals == 0 { "none".to_owned() } else { approvals.to_string() }
}

fn presence(online: Option<bool>) -> (Tone, String) {
    match online {
        Some(true) => (Tone::Good, "online".to_owned()),
        Some(false) => (Tone::Waiting, "offline".to_owned()),
        None => (Tone::Faint, "unknown".to_owned()),
    }
}

/// When each device was last seen. A nicety: without it the order can still be judged.
async fn look_up(client: &Client, plan: &[DryRunDevice]) -> BTreeMap<DeviceId, DeviceView> {
    let mut known = BTreeMap::new();
    if plan.len() > LOOKED_UP {
        return known;
    }
    for device in plan {
        if let Ok(view) = devices::get(client, device.id).await {
            known.insert(device.id, view);
        }
    }
    known
}
