//! `tocsin enroll-token`: a token for one device, and the line to run there.

use std::time::Duration;

use api::enrollment::{CreateEnrollmentToken, CreatedEnrollmentToken, Network};
use clap::Args;
use protocol::id::GroupName;

use super::{Context, Exit, Failure};
use crate::output::{Tone, time};

/// Arguments of `tocsin enroll-token`.
#[derive(Debug, Args)]
pub struct EnrollTokenArgs {
    /// Group that the device will be in
    #[arg(long)]
    pub group: Option<GroupName>,
    /// How long the token lasts, such as 15m or 2h; a day at most
    #[arg(long, value_parser = super::order::duration, default_value = "15m")]
    pub ttl: Duration,
    /// Networks from which alone it may be used, such as 192.0.2.0/24,2001:db8::/32
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub from: Vec<Network>,
    /// For a device that acts on nothing, such as those of a load test: only orders with
    /// --simulated reach it, and these reach no other
    #[arg(long)]
    pub simulated: bool,
}

/// Makes a token.
pub async fn run(context: &Context, args: EnrollTokenArgs) -> Result<Exit, Failure> {
    let client = context.client()?;
    let body = CreateEnrollmentToken {
        group: args.group,
        ttl_secs: Some(args.ttl.as_secs()),
        from: args.from,
        simulated: args.simulated,
    };
    let made: CreatedEnrollmentToken = client.create("/v1/enrollment-tokens", &body).await?;
    let out = context.out;
    out.object(&made);
    let Some(token) = &made.token else {
        // The first answer was lost, and a secret is never told twice.
        return Err(Failure::new("the token was made, but the answer with it was lost")
            .next("run the same command again: the lost token expires by itself"));
    };
    let until = time::clock(made.expires_at.0, context.now());
    let group = made.group.map(|group| format!(" in group {group}")).unwrap_or_default();
    let networks: Vec<_> = made.from.iter().map(ToString::to_string).collect();
    let from = match networks.is_empty() {
        true => String::new(),
        false => format!(" from {}", networks.join(" or ")),
    };
    let kind = if made.simulated { "simulated device" } else { "device" };
    out.line(token);
    out.note(&format!(
        "\nEnrolls one {kind}{group}{from}, until {until}. On the device, as root:\n"
    ));
    let line = format!("tocsin-agent enroll {token}");
    out.note(&format!("  {}", out.paint_note(Tone::Strong, &line)));
    Ok(Exit::Success)
}
