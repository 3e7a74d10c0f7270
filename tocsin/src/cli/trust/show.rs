//! `tocsin trust show`: the version in force, and what to think of it.

use std::collections::BTreeSet;
use std::time::Duration;

use api::trust::TrustView;
use protocol::action::Verb;
use protocol::trust::{Approver, Quorum, TrustRoot};

use super::draft::fingerprint;
use crate::cli::{Context, Exit, Failure};
use crate::client::Client;
use crate::output::{Out, Tone, text, time};

/// Shows the version in force.
pub async fn run(context: &Context) -> Result<Exit, Failure> {
    let (out, client) = (context.out, context.client()?);
    let root = verified_chain(&client).await?;
    let view: TrustView = client.get("/v1/trust").await?;
    if view.root != root {
        return Err(Failure::new("the version in force is not the end of the chain of signatures")
            .next("treat the control plane as broken into"));
    }
    out.object(&view);
    let issued = api::time::Time(root.issued_at);
    let head = format!("trust root, version {}", root.version);
    out.line(&format!("{}, {issued}; its chain is verified", out.paint(Tone::Strong, &head)));
    out.line(&format!("  fingerprint {}", fingerprint(&root)));
    let must =
        format!("{} of {} root keys sign the next", root.root.threshold, root.root.keys.len());
    out.line(&format!("  {must}"));
    for key in &root.root.keys {
        out.line(&format!("    {key}"));
    }
    print(out, &root);
    warn(out, &root);
    Ok(Exit::Success)
}

fn print(out: Out, root: &TrustRoot) {
    out.line("  approvers");
    approvers(out, &root.approvers);
    quorum(out, "mass: destroys on more than 10 devices", root.mass.as_ref());
    quorum(out, "break-glass: stands in for approvers", root.break_glass.as_ref());
    out.line("  command keys");
    for command in &root.command_keys {
        let verbs: Vec<_> = command.verbs.iter().map(|verb| text::clean(verb)).collect();
        out.line(&format!("    {} for {}", command.key, verbs.join(", ")));
    }
    out.line("  persons who must approve");
    for verb in Verb::ALL {
        out.line(&format!("    {:<14} {}", verb.as_str(), root.threshold_anywhere(verb)));
    }
    for (verb, secs) in &root.undo_secs {
        let (verb, least) = (text::clean(verb), Duration::from_secs((*secs).into()));
        let least = time::duration(least);
        out.line(&format!("  {verb} waits {least} on devices at least, and can be called back"));
    }
    if let Some(thawed_at) = root.thawed_at {
        out.line(&format!("  freezes ordered before {} are over", api::time::Time(thawed_at)));
    }
    for (name, group) in &root.groups {
        let devices = text::count(group.devices.len(), "device");
        let persons = group.approvals.iter();
        let persons = persons.map(|(verb, persons)| format!("{} {persons}", text::clean(verb)));
        let persons: Vec<_> = persons.collect();
        out.line(&format!("  group {name}, {devices}: at least {}", persons.join(", ")));
    }
    if !root.authority_pins.is_empty() {
        out.line("  authorities that hubs and control plane may have");
        for pin in &root.authority_pins {
            out.line(&format!("    {pin}"));
        }
    }
    if !root.protected_devices.is_empty() {
        out.line("  protected: refuse what destroys, and need one person more for what disrupts");
        for device in &root.protected_devices {
            out.line(&format!("    {device}"));
        }
    }
}

fn approvers(out: Out, approvers: &[Approver]) {
    for approver in approvers {
        out.line(&format!("    {:<24} {}", approver.person.to_string(), approver.key));
        if !approver.operators.is_empty() {
            let names: Vec<_> = approver.operators.iter().map(ToString::to_string).collect();
            out.line(&format!("    {:<24} approves nothing of {}", "", names.join(", ")));
        }
    }
}

fn quorum(out: Out, what: &str, quorum: Option<&Quorum>) {
    if let Some(quorum) = quorum {
        let persons = text::count(quorum.threshold.into(), "person");
        out.line(&format!("  {what}, {persons} together"));
        approvers(out, &quorum.approvers);
    }
}

/// Every version from the first, each believed because the one before says so.
async fn verified_chain(client: &Client) -> Result<TrustRoot, Failure> {
    let chain: Vec<TrustView> = client.get("/v1/trust/chain").await?;
    let mut versions = chain.iter();
    let first = versions.next().ok_or_else(|| Failure::new("there is no trust root"))?;
    let mut root = first.signed.pin().map_err(Failure::of)?;
    for view in versions {
        root = view.signed.succeed(&root).map_err(Failure::of)?;
    }
    Ok(root)
}

/// Says what cannot work, or should not.
pub fn warn(out: Out, root: &TrustRoot) {
    let persons: BTreeSet<_> = root.approvers.iter().map(|approver| &approver.person).collect();
    for verb in Verb::ALL {
        let needed = root.threshold_anywhere(verb);
        if persons.len() < usize::from(needed) {
            let have = text::count(persons.len(), "person");
            let text = format!("! {verb} needs {needed} approvals, and {have} can approve");
            out.note(&out.paint_note(Tone::Waiting, &text));
        }
    }
    if root.threshold_anywhere(Verb::Wipe) == 0 {
        let text = "! wipe needs no approval: one stolen token could wipe every device";
        out.note(&out.paint_note(Tone::Bad, text));
    }
}
