//! `tocsin issue-hub`: the identity of a hub, made by whoever holds the authority.
//!
//! Owns what is written and what is never overwritten. Works offline: it needs the authority's files
//! and no control plane that runs.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::pki::{Authority, PkiError, issue_hub_identity};
use clap::Args;
use protocol::id::HubId;
use runtime::tls::{PemError, write_certificates, write_key};
use serde_json::json;

use crate::cli::{Context, Exit, Failure};

const DAY: Duration = Duration::from_secs(86_400);

/// Arguments of `tocsin issue-hub`.
#[derive(Debug, Clone, Args)]
pub struct IssueHubArgs {
    /// Folder with the authority's files, that of `tocsin api`
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Name of the hub, as `hub.name` in its configuration
    #[arg(long, value_name = "NAME")]
    pub name: HubId,
    /// Name or address by which agents reach it; may be repeated
    #[arg(long = "server-name", value_name = "NAME", required = true)]
    pub server_names: Vec<String>,
    /// How many days the certificate lasts
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=397))]
    pub days: u32,
    /// Folder for NAME.crt, NAME.key and authority.pem; made with mode 0700
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// The files of one hub.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    authorities: PathBuf,
}

impl Files {
    fn of(hub: &HubId, folder: &Path) -> Self {
        Self {
            certificate: folder.join(format!("{hub}.crt")),
            key: folder.join(format!("{hub}.key")),
            authorities: folder.join("authority.pem"),
        }
    }
}

/// Makes the identity.
///
/// # Errors
/// When the authority is not there, a file is, or a name is not usable.
pub fn run(context: &Context, args: &IssueHubArgs) -> Result<Exit, Failure> {
    let files = Files::of(&args.name, &args.out);
    for path in [&files.certificate, &files.key] {
        if path.exists() {
            return Err(Failure::new(format!("{} is there already", path.display())).next(
                "an identity is never overwritten: choose another --out, and move it later",
            ));
        }
    }
    let authority = Authority::load(&args.data, context.entropy.clone()).map_err(|error| {
        Failure::of(error).next("--data is the folder that has ca.crt and ca.key")
    })?;
    let now = context.now();
    let identity =
        issue_hub_identity(&authority, &args.name, &args.server_names, (now, DAY * args.days))?;
    DirBuilder::new().recursive(true).mode(0o700).create(&args.out)?;
    write_key(&files.key, &identity.key)?;
    write_certificates(&files.authorities, &authority.trusted())?;
    write_certificates(&files.certificate, &identity.chain)?;
    let out = context.out;
    out.object(&json!({
        "hub": args.name,
        "certificate": files.certificate,
        "key": files.key,
        "authorities": files.authorities,
        "ends_at": now.plus(DAY * args.days),
    }));
    out.line(&format!("certificate  {} ({} days)", files.certificate.display(), args.days));
    out.line(&format!("key          {}", files.key.display()));
    out.line(&format!("authorities  {}", files.authorities.display()));
    out.note(
        "\nGive them to the hub alone, under the names of its [tls], readable for its user only.",
    );
    Ok(Exit::Success)
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        Self::of(error)
    }
}

impl From<PemError> for Failure {
    fn from(error: PemError) -> Self {
        Self::of(error)
    }
}
