//! `tocsin rotate-credentials` and `tocsin escrow`: credentials that devices replace, and whoever may
//! need them.
//!
//! Owns the recovery key's file and the opening. What is sealed is asked for with a reason, opened
//! only after the device's signature was verified, and goes into a file: a terminal remembers.

use std::path::{Path, PathBuf};

use api::escrows::{EscrowState, EscrowView, OpenEscrow, ReadEscrow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use clap::{Args, Subcommand};
use protocol::action::{Action, Credential, RotateCredentials};
use protocol::escrow::{self, Escrow, Subject};
use protocol::id::CommandId;
use protocol::key::DevicePublicKey;
use protocol::sealed::CaseKey;
use runtime::files::{PRIVATE, write_atomic};
use serde_json::json;

use super::evidence::KeyArgs;
use super::order::{OrderArgs, give};
use super::{Context, Exit, Failure, devices, evidence, targets};
use crate::client::Client;
use crate::output::{Table, Tone, text};

/// Arguments of `tocsin rotate-credentials`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// The recovery keys of the volumes that the device manages
    #[arg(long, conflicts_with = "account", required_unless_present = "account")]
    pub volumes: bool,
    /// The password of that local account
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// The public half of the recovery key, as `tocsin escrow new-key` prints it
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub recovery_key: CaseKey,
    /// Targets and the rest.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// The verbs of `tocsin escrow`.
#[derive(Debug, Subcommand)]
pub enum EscrowVerb {
    /// Make a recovery key, sealed with a passphrase; whoever has both opens what devices escrow for it
    NewKey {
        /// Where to
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// File with the passphrase, in place of the prompt
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// List what is in escrow
    List {
        /// Only of this device, by name or id
        #[arg(value_name = "DEVICE")]
        device: Option<String>,
    },
    /// Read one, which the audit log tells, verify it and open it into a file
    Open {
        /// The command by which the device made the credential
        #[arg(value_name = "COMMAND")]
        command: CommandId,
        /// The recovery key.
        #[command(flatten)]
        key: KeyArgs,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Where to, as JSON
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// Has devices replace a credential.
pub async fn rotate(context: &Context, args: RotateArgs) -> Result<Exit, Failure> {
    let credential = args.account.map_or(Credential::Volumes, Credential::Account);
    let rotate = RotateCredentials { credential, recovery_key: args.recovery_key };
    give(context, Action::RotateCredentials(rotate), args.order).await
}

/// Carries out a verb on escrows.
pub async fn run(context: &Context, verb: EscrowVerb) -> Result<Exit, Failure> {
    match verb {
        EscrowVerb::NewKey { out, passphrase_file } => {
            evidence::new_key(context, (&out, passphrase_file.as_deref()), "recovery_key")
        }
        EscrowVerb::List { device } => list(context, device).await,
        EscrowVerb::Open { command, key, reason, out } => {
            open(context, command, (&key, reason), &out).await
        }
    }
}

async fn list(context: &Context, device: Option<String>) -> Result<Exit, Failure> {
    let (out, client) = (context.out, context.client()?);
    let mut filter = Vec::new();
    if let Some(device) = device {
        filter.push(("device", targets::one(&client, &device).await?.id.to_string()));
    }
    let escrows: Vec<EscrowView> = client.all("/v1/escrows", &filter, None).await?;
    out.object(&escrows);
    let mut table = Table::new(&["device", "opens", "state", "since", "command"]);
    for escrow in &escrows {
        table.row([
            (escrow.device_name.clone(), Tone::Strong),
            (escrow.subjects.iter().map(subject).collect::<Vec<_>>().join(", "), Tone::Plain),
            state(escrow.state),
            (escrow.received_at.to_string(), Tone::Faint),
            (escrow.command_id.to_string(), Tone::Faint),
        ]);
    }
    out.table(&table);
    Ok(Exit::Success)
}

fn subject(subject: &Subject) -> String {
    match subject {
        Subject::Volume { path, .. } => format!("volume {}", text::clean(path)),
        Subject::Account { name } => format!("account {}", text::clean(name)),
    }
}

fn state(state: EscrowState) -> (String, Tone) {
    let (words, tone) = match state {
        EscrowState::Held => ("may be in force", Tone::Waiting),
        EscrowState::InForce => ("in force", Tone::Good),
        EscrowState::Superseded => ("superseded", Tone::Faint),
        EscrowState::Withdrawn => ("withdrawn", Tone::Faint),
    };
    (words.to_owned(), tone)
}

async fn open(
    context: &Context,
    command: CommandId,
    (key, reason): (&KeyArgs, String),
    file: &Path,
) -> Result<Exit, Failure> {
    let secret = evidence::secret(key)?;
    let client = context.client()?;
    let of_command = [("command", command.to_string())];
    let found: Vec<EscrowView> = client.all("/v1/escrows", &of_command, None).await?;
    let newest = found.last().ok_or_else(|| {
        Failure::new("nothing of this command is in escrow").next("see `tocsin escrow list`")
    })?;
    let path = format!("/v1/escrows/{}/read", newest.id);
    let read: OpenEscrow = client.post(&path, &ReadEscrow { reason }).await?;
    let escrow = verified(&client, &read, command).await?;
    let opened = escrow::open(&escrow, &secret)
        .map_err(|error| Failure::new(format!("the escrow does not open: {error}")))?;
    let bytes = serde_json::to_vec_pretty(&opened).map_err(Failure::of)?;
    write_atomic(file, &bytes, PRIVATE).map_err(Failure::of)?;
    context.out.object(&json!({ "command_id": command, "credentials": opened.len() }));
    let what = text::count(opened.len(), "credential");
    context.out.line(&format!("{what} in {}: signed by the device", file.display()));
    Ok(Exit::Success)
}

/// The escrow, if the device signed it: anybody can seal something to a public key.
async fn verified(
    client: &Client,
    read: &OpenEscrow,
    command: CommandId,
) -> Result<Escrow, Failure> {
    let not_proven = |error: &dyn std::fmt::Display| Failure::new(format!("NOT PROVEN: {error}"));
    let device = devices::get(client, read.escrow.device_id).await?;
    let point = BASE64.decode(&device.public_key).map_err(|error| not_proven(&error))?;
    let key = DevicePublicKey::from_point(&point).map_err(|error| not_proven(&error))?;
    let escrow = escrow::verify(&read.jws, &key).map_err(|error| {
        not_proven(&error).next("a device that was enrolled again has another key than it had then")
    })?;
    if (escrow.iss, escrow.command_id) != (device.id, command) {
        return Err(not_proven(&"the escrow is genuine but names another device or command"));
    }
    Ok(escrow)
}
