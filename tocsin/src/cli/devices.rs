//! `tocsin devices` and `tocsin device`: what is known of the fleet.

use api::devices::{DeviceView, Finding};
use clap::{Args, Subcommand};
use protocol::id::{DeviceId, GroupName};
use protocol::time::Timestamp;
use serde_json::json;

use super::ask::{self, Demand};
use super::{Context, Exit, Failure, targets};
use crate::output::{Table, Tone, text, time};

/// Arguments of `tocsin devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Only of this group
    #[arg(long)]
    pub group: Option<GroupName>,
    /// Only with a session
    #[arg(long, conflicts_with = "offline")]
    pub online: bool,
    /// Only without a session
    #[arg(long)]
    pub offline: bool,
}

/// The verbs of `tocsin device`.
#[derive(Debug, Subcommand)]
pub enum DeviceVerb {
    /// Show one device
    Show {
        /// Its name or id
        device: String,
    },
    /// End a device's enrollment: its session closes, and it is believed no more
    Revoke {
        /// Its name or id
        device: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Lists devices.
pub async fn list(context: &Context, args: DevicesArgs) -> Result<Exit, Failure> {
    let mut query = Vec::new();
    query.extend(args.group.map(|group| ("group", group.to_string())));
    if args.online || args.offline {
        query.push(("online", args.online.to_string()));
    }
    let devices: Vec<DeviceView> = context.client()?.all("/v1/devices", &query, None).await?;
    let out = context.out;
    out.object(&json!({ "items": devices }));
    if devices.is_empty() {
        out.note("no such device; `tocsin enroll-token` brings one in");
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["name", "seen", "groups", "agent", "id"]);
    for device in &devices {
        let (tone, mut seen) = seen(device, context.now());
        if device.simulated {
            seen.push_str(", simulated");
        }
        let groups: Vec<_> = device.groups.iter().map(ToString::to_string).collect();
        table.row([
            (device.name.clone(), Tone::Strong),
            (seen, tone),
            (groups.join(","), Tone::Plain),
            (device.agent_version.clone().unwrap_or_default(), Tone::Faint),
            (device.id.to_string(), Tone::Faint),
        ]);
    }
    out.table(&table);
    Ok(Exit::Success)
}

/// Whether a device is there, in words.
pub fn seen(device: &DeviceView, now: Timestamp) -> (Tone, String) {
    if device.revoked_at.is_some() {
        return (Tone::Faint, "revoked".to_owned());
    }
    if device.cloned_at.is_some() {
        return (Tone::Bad, "cloned: two machines hold its identity".to_owned());
    }
    let last = device.last_seen_at.map(|at| time::ago(at.0, now));
    match (device.online, last) {
        (Some(true), _) => (Tone::Good, "online".to_owned()),
        (Some(false), Some(last)) => (Tone::Waiting, format!("offline, seen {last}")),
        (Some(false), None) => (Tone::Waiting, "offline, never seen".to_owned()),
        (None, Some(last)) => (Tone::Faint, format!("unknown, seen {last}")),
        (None, None) => (Tone::Faint, "unknown, never seen".to_owned()),
    }
}

/// Carries out a verb on one device.
pub async fn run(context: &Context, verb: DeviceVerb) -> Result<Exit, Failure> {
    match verb {
        DeviceVerb::Show { device } => show(context, &device).await,
        DeviceVerb::Revoke { device, yes } => revoke(context, &device, yes).await,
    }
}

async fn show(context: &Context, device: &str) -> Result<Exit, Failure> {
    let device = targets::one(&context.client()?, device).await?;
    let (now, out) = (context.now(), context.out);
    out.object(&device);
    let (tone, seen) = seen(&device, now);
    let groups: Vec<_> = device.groups.iter().map(ToString::to_string).collect();
    let day = |at: Timestamp| api::time::Time(at).to_string();
    let mut rows = vec![
        ("id", device.id.to_string()),
        ("seen", out.paint(tone, &seen)),
        ("groups", groups.join(", ")),
        ("enrolled", format!("{} (generation {})", day(device.enrolled_at.0), device.generation)),
        ("certificate", format!("until {}", day(device.certificate_expires_at.0))),
        ("trust root", format!("version {}", device.trust_version)),
        ("agent", text::clean(device.agent_version.as_deref().unwrap_or("unknown"))),
        ("can", text::clean(&device.capabilities.join(", "))),
        ("key", device.public_key.clone()),
    ];
    rows.extend(device.findings.iter().map(|finding| {
        let said = match finding {
            Finding::WipeNotProvable => "wipe cannot be proven fast: not all of it is encrypted",
            Finding::Unknown => "one that this version has no words for",
        };
        ("finding", out.paint(Tone::Bad, said))
    }));
    if device.simulated {
        rows.push((
            "simulated",
            "acts on nothing; only orders with --simulated reach it".to_owned(),
        ));
    }
    rows.extend(device.hub.as_ref().map(|hub| ("hub", hub.to_string())));
    rows.extend(device.degraded_since.map(|at| {
        let since = time::ago(at.0, now);
        ("degraded", out.paint(Tone::Waiting, &format!("no push session since {since}")))
    }));
    rows.extend(device.revoked_at.map(|at| ("revoked", out.paint(Tone::Bad, &day(at.0)))));
    out.line(&out.paint(Tone::Strong, &text::clean(&device.name)));
    for (name, value) in rows {
        out.line(&format!("  {name:<12} {value}"));
    }
    Ok(Exit::Success)
}

async fn revoke(context: &Context, device: &str, is_sure: bool) -> Result<Exit, Failure> {
    let client = context.client()?;
    let device = targets::one(&client, device).await?;
    let (out, name) = (context.out, text::clean(&device.name));
    if !is_sure {
        out.note(&format!(
            "{name} ({}) loses its identity: its session closes, what is ordered for it ends, and \
             only a new enrollment brings it back. It is neither locked nor wiped by this.",
            device.id
        ));
        let question = format!("Revoke {name}?");
        ask::confirm(out, &question, &Demand::Yes).await?;
    }
    client.post_empty(&format!("/v1/devices/{}/revoke", device.id)).await?;
    let after: DeviceView = get(&client, device.id).await?;
    out.object(&after);
    out.line(&format!("{name} revoked"));
    Ok(Exit::Success)
}

/// Reads one device.
pub async fn get(client: &crate::client::Client, id: DeviceId) -> Result<DeviceView, Failure> {
    Ok(client.get(&format!("/v1/devices/{id}")).await?)
}
