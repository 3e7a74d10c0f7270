//! `tocsin offline-code`, and the codes that an order may bring: what ends it where nobody reaches
//! the device.
//!
//! Owns who draws the secret: this machine, and no server ever has it. The file is on disk before the
//! order is given, so that no device is locked by an order whose codes are lost.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::commands::wire::{CreateOrder, CreatedOrder, DryRun, ManifestView, Targets};
use clap::Args;
use protocol::action::Verb;
use protocol::id::{DeviceId, OrderId};
use protocol::limits;
use protocol::manifest::Hash;
use protocol::offline::OfflineSecret;
use serde_json::json;

use super::{Context, Exit, Failure, ask};
use crate::client::Client;
use crate::codefile::{CodeFile, CodeFileError, Subject};
use crate::output::{Tone, text};
use crate::sealing::Cost;

/// What verbs take that leave something which a code may end.
#[derive(Debug, Clone, Default, Args)]
pub struct OfflineArgs {
    /// Draw a code for each device that ends this where nobody reaches the device, and keep what they
    /// are made of in this new file, sealed with a passphrase
    #[arg(long, value_name = "FILE")]
    pub offline_codes: Option<PathBuf>,
    /// File with the passphrase for that, in place of the prompt
    #[arg(long, value_name = "FILE", requires = "offline_codes")]
    pub passphrase_file: Option<PathBuf>,
}

/// Arguments of `tocsin offline-code`.
#[derive(Debug, Args)]
pub struct OfflineCodeArgs {
    /// The file that the order was given with
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The device, by name or id
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// File with the passphrase, in place of the prompt
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// Prints the code of one device. Asks no server.
pub fn run(context: &Context, args: &OfflineCodeArgs) -> Result<Exit, Failure> {
    let file = CodeFile::read(&args.file)?;
    let (id, name) = file.device(&args.device)?;
    let variable = std::env::var("TOCSIN_PASSPHRASE").ok();
    let passphrase = ask::passphrase(args.passphrase_file.as_deref(), variable.as_deref(), false)?;
    let code = file.open(&passphrase)?.code(&id).reveal();
    let word = if file.verb() == Verb::Lock { "unlock" } else { "release" };
    context.out.object(&json!({
        "device_id": id, "device_name": name, "order_id": file.order(), "code": code,
    }));
    context.out.line(&code);
    let name = text::clean(name);
    context.out.note(&format!(
        "\nends the {} of {name}, once. On the device, as root: tocsin-agent {word} --code -\n\
         A locked device asks for it on its console.",
        file.verb()
    ));
    Ok(Exit::Success)
}

/// What two persons compare to know that they mean the same codes.
pub fn fingerprint(codes: &BTreeMap<DeviceId, Hash>) -> String {
    Hash::sha256(&serde_json::to_vec(codes).unwrap_or_default()).to_string()
}

/// The codes of an order that is not given yet.
#[derive(Debug)]
pub(super) struct Codes {
    secret: OfflineSecret,
    path: PathBuf,
    passphrase_file: Option<PathBuf>,
    subject: Subject,
}

/// The codes of an order, on disk.
#[derive(Debug)]
pub(super) struct Kept {
    file: CodeFile,
    path: PathBuf,
    commitments: BTreeMap<DeviceId, Hash>,
}

impl Codes {
    /// Draws codes for the devices of a dry run, and has the order be about exactly these.
    pub(super) fn draw(
        context: &Context,
        args: OfflineArgs,
        order: &mut CreateOrder,
        plan: &DryRun,
    ) -> Result<Option<Self>, Failure> {
        let Some(path) = args.offline_codes else { return Ok(None) };
        if path.exists() {
            return Err(CodeFileError::Exists(path).into());
        }
        let verb = order.action.verb();
        if order.action.ended_by().is_none() {
            return Err(Failure::usage("a lock of screens only has no offline codes"));
        }
        if plan.devices.len() > limits::OFFLINE_CODES {
            let most = limits::OFFLINE_CODES;
            return Err(Failure::usage(format!("one order has {most} offline codes at most"))
                .next("give several orders, each with a file of its own"));
        }
        let secret = OfflineSecret::new(context.entropy.bytes());
        let devices = plan.devices.iter().map(|device| (device.id, device.name.clone())).collect();
        let subject = Subject { verb, devices };
        let commit = |id: &DeviceId| (*id, secret.code(id).commitment(id));
        order.offline_codes = subject.devices.keys().map(commit).collect();
        order.targets = Targets::Devices(subject.devices.keys().copied().collect());
        Ok(Some(Self { secret, path, passphrase_file: args.passphrase_file, subject }))
    }

    /// Writes the file. From here on the order may be given.
    pub(super) fn keep(self, context: &Context, order: &CreateOrder) -> Result<Kept, Failure> {
        let variable = std::env::var("TOCSIN_PASSPHRASE").ok();
        let passphrase =
            ask::passphrase(self.passphrase_file.as_deref(), variable.as_deref(), true)?;
        let how = (passphrase.as_str(), Cost::DEFAULT);
        let entropy = &context.entropy;
        let file = CodeFile::create(&self.path, &self.secret, self.subject, how, entropy)?;
        Ok(Kept { file, path: self.path, commitments: order.offline_codes.clone() })
    }
}

impl Kept {
    /// Nobody knows for certain that an order was not accepted whose answer was an error: its codes
    /// stay, and whoever gave it is told where.
    pub(super) fn stays(&self, failure: Failure) -> Failure {
        failure.next(format!(
            "its offline codes stay in {}, in case it stands; once `tocsin orders` shows that it \
             does not, delete that file",
            self.path.display()
        ))
    }

    /// The order was accepted. Looks whether it carries these codes: a control plane that left them
    /// out, or put others in, is found out before anybody relies on them.
    pub(super) async fn accepted(
        mut self,
        context: &Context,
        client: &Client,
        created: &CreatedOrder,
    ) -> Result<(), Failure> {
        let (out, order): (_, OrderId) = (context.out, created.order.id);
        self.file.accepted(order)?;
        let shown: ManifestView = client.get(&format!("/v1/orders/{order}/manifest")).await?;
        if shown.manifest.offline_codes != self.commitments {
            let text = format!("order {order} does not carry the offline codes that it was given");
            return Err(Failure::new(text).next(
                "the order stands, and no code ends it; treat the control plane as broken into",
            ));
        }
        out.note(&format!(
            "offline codes: {}, fingerprint {}",
            text::clean(&self.path.display().to_string()),
            out.paint_note(Tone::Strong, &fingerprint(&self.commitments))
        ));
        out.note(&format!(
            "  to read one out: tocsin offline-code {} DEVICE",
            text::clean(&self.path.display().to_string())
        ));
        Ok(())
    }
}
