//! `tocsin proof`: what a device signed, verified on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::commands::wire::CommandView;
use api::devices::DeviceView;
use clap::Args;
use protocol::grade::Grade;
use protocol::id::{CommandId, DeviceId};
use protocol::receipt::{Outcome, Receipt};

use super::{Context, Exit, Failure, devices};
use crate::client::Client;
use crate::output::{Out, Tone, outcome, text};
use crate::proof::{Proof, ProofError};

/// Bytes of the largest proof that is read.
const MAX_BYTES: usize = 1024 * 1024;
/// Devices that are asked for one by one.
const ONE_BY_ONE: usize = 20;

/// Arguments of `tocsin proof`.
#[derive(Debug, Args)]
pub struct ProofArgs {
    /// A command's id, or a file that `tocsin proof ID --json` wrote: then nothing is asked of
    /// any server
    #[arg(value_name = "COMMAND|FILE")]
    pub what: String,
}

/// Verifies a command's receipt, and shows what it says.
pub async fn run(context: &Context, args: ProofArgs) -> Result<Exit, Failure> {
    let proof = match args.what.parse::<CommandId>() {
        Ok(id) => fetch(&context.client()?, id).await?,
        Err(_) => read(&PathBuf::from(&args.what))?,
    };
    let out = context.out;
    out.object(&proof);
    match proof.verify() {
        Ok(receipt) => {
            show(out, &proof, &receipt);
            Ok(Exit::of_state(proof.command.state))
        }
        Err(ProofError::NoReceipt) if proof.command.proof.is_some() => first(out, &proof),
        Err(ProofError::NoReceipt) if !proof.command.state.is_terminal() => {
            Err(Failure::new("the device has not answered yet")
                .next(format!("follow it: tocsin watch {}", proof.command.id)))
        }
        Err(error) => Err(Failure::new(format!("NOT PROVEN: {error}"))),
    }
}

/// Verifies and shows what the device proved before the end of a command.
fn first(out: Out, proof: &Proof) -> Result<Exit, Failure> {
    let first =
        proof.verify_first().map_err(|error| Failure::new(format!("NOT PROVEN: {error}")))?;
    let name = text::clean(&proof.command.device_name);
    let words = |grade| outcome::grade_words(grade, Some(&first.evidence));
    let grade = Grade::claimed(&first.evidence).map_or("no grade".to_owned(), words);
    out.line(&format!("{name} goes on: the proof is signed by the device's key"));
    out.line(&format!("  {:<10} {grade}", "so far"));
    let at = api::time::Time(first.proved_at);
    out.line(&format!("  {:<10} {at} by the device's clock", "proved"));
    out.line(&format!("  {:<10} {}", "envelope", text::clean(&first.envelope_sha256)));
    evidence(out, &Outcome::Succeeded { evidence: first.evidence });
    Ok(Exit::of_state(proof.command.state))
}

/// A command with the key of its device.
pub async fn fetch(client: &Client, id: CommandId) -> Result<Proof, Failure> {
    let command: CommandView = client.get(&format!("/v1/commands/{id}")).await?;
    let device = devices::get(client, command.device_id).await?;
    Ok(Proof { command, public_key: device.public_key })
}

/// A proof that was written to a file.
pub fn read(path: &Path) -> Result<Proof, Failure> {
    let bytes = runtime::files::read_bounded(path, MAX_BYTES).map_err(|error| {
        Failure::of(error).next("give a command's id, or a file of `tocsin proof ID --json`")
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(format!("{} is no proof: {error}", path.display())))
}

/// Verifies what each command's device signed, in the order of the commands.
pub async fn judge_all(client: &Client, views: &[CommandView]) -> Vec<Result<Receipt, ProofError>> {
    let signed = || views.iter().filter(|view| view.receipt.is_some());
    let mut keys: BTreeMap<DeviceId, String> = BTreeMap::new();
    if signed().count() <= ONE_BY_ONE {
        for view in signed() {
            if let Ok(device) = devices::get(client, view.device_id).await {
                keys.insert(device.id, device.public_key);
            }
        }
    } else {
        let all: Vec<DeviceView> = client.all("/v1/devices", &[], None).await.unwrap_or_default();
        keys.extend(all.into_iter().map(|device| (device.id, device.public_key)));
    }
    let judge = |view: &CommandView| {
        let public_key = keys.get(&view.device_id).cloned().unwrap_or_default();
        Proof { command: view.clone(), public_key }.verify()
    };
    views.iter().map(judge).collect()
}

fn show(out: Out, proof: &Proof, receipt: &Receipt) {
    let command = &proof.command;
    let verdict = match &receipt.outcome {
        Outcome::Succeeded { .. } => outcome::past(command.verb),
        Outcome::Failed { .. } => "failed",
        Outcome::Refused { .. } => "refused",
        Outcome::InDoubt { .. } => "in doubt",
    };
    let name = text::clean(&command.device_name);
    let head = out.paint(outcome::tone(command.state), &format!("{name} {verdict}"));
    out.line(&format!("{head}: the receipt is signed by the device's key"));
    let time = |at| api::time::Time(at).to_string();
    for (label, value) in [
        ("command", command.id.to_string()),
        ("order", command.order_id.to_string()),
        ("device", format!("{} (generation {})", receipt.iss, receipt.generation)),
        ("key", proof.public_key.clone()),
        ("began", format!("{} by the device's clock", time(receipt.started_at))),
        ("ended", format!("{} by the device's clock", time(receipt.finished_at))),
        ("boot", receipt.boot_id.to_string()),
        ("agent", text::clean(&receipt.agent_version)),
        ("envelope", text::clean(&receipt.envelope_sha256)),
        ("receipt", command.receipt.as_ref().map(|jws| jws.sha256()).unwrap_or_default()),
    ] {
        out.line(&format!("  {label:<10} {value}"));
    }
    if let Some(grade) = outcome::grade_of(command) {
        let grade = outcome::grade_words(grade, outcome::evidence_of(command));
        out.line(&format!("  {:<10} {grade}", "grade"));
    }
    evidence(out, &receipt.outcome);
}

/// Everything that the device observed.
pub fn evidence(out: Out, found: &Outcome) {
    let evidence = match found {
        Outcome::Succeeded { evidence } => evidence,
        Outcome::Failed { failure, evidence } => {
            let kind = outcome::failure_kind(failure.kind);
            let (detail, stage) = (text::clean(&failure.detail), text::clean(&failure.stage));
            out.line(&format!("  {:<10} {kind}: {detail} (at {stage})", "failure"));
            evidence
        }
        Outcome::Refused { reason, detail } => {
            out.line(&format!("  {:<10} {}: {}", "refusal", reason.as_str(), text::clean(detail)));
            return;
        }
        Outcome::InDoubt { stage } => {
            out.line(&format!("  {:<10} {}", "last stage", text::clean(stage)));
            return;
        }
    };
    if evidence.iter().next().is_some() {
        out.line(&out.paint(Tone::Strong, "evidence"));
    }
    for (name, value) in evidence.iter() {
        let value = serde_json::to_string(value).unwrap_or_default();
        out.line(&format!("  {}: {}", text::clean_to(name, 60), text::clean(&value)));
    }
}
