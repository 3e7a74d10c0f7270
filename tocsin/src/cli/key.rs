//! `tocsin key`: an operator's approval key.

use std::path::PathBuf;

use clap::Subcommand;
use protocol::key::PublicKey;
use serde_json::json;

use super::{Context, Exit, Failure, ask};
use crate::keyfile::{self, Cost};
use crate::output::Out;

/// The verbs of `tocsin key`.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Make a key, sealed with a passphrase
    New {
        /// Where to
        #[arg(long, value_name = "FILE", default_value = "tocsin.key")]
        out: PathBuf,
        /// File with the passphrase, in place of the prompt
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Print the public half of a key; takes no passphrase
    Show {
        /// The key
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Carries out a verb on a key.
pub fn run(context: &Context, verb: KeyVerb) -> Result<Exit, Failure> {
    match verb {
        KeyVerb::New { out, passphrase_file } => {
            if out.exists() {
                return Err(keyfile::KeyFileError::Exists(out).into());
            }
            let variable = std::env::var("TOCSIN_PASSPHRASE").ok();
            let passphrase =
                ask::passphrase(passphrase_file.as_deref(), variable.as_deref(), true)?;
            let public = keyfile::create(&out, &passphrase, Cost::DEFAULT, &context.entropy)?;
            print(context.out, &public);
            context.out.note(&format!(
                "\nsealed in {}; keep it and its passphrase to yourself. Hand the line above to \
                 whoever holds the root key, who runs:\n\n  tocsin trust add-approver {public} \
                 --person YOUR.NAME --root-key FILE",
                out.display()
            ));
        }
        KeyVerb::Show { file } => print(context.out, &keyfile::public(&file)?),
    }
    Ok(Exit::Success)
}

fn print(out: Out, public: &PublicKey) {
    out.object(&json!({ "public_key": public, "key_id": public.id() }));
    out.line(&public.to_string());
}
