//! `tocsin cluster`: how hubs, broker and deliveries fare.

use api::cluster::ClusterView;

use super::{Context, Exit, Failure};
use crate::output::{Table, Tone};

/// Shows the cluster.
pub async fn run(context: &Context) -> Result<Exit, Failure> {
    let view: ClusterView = context.client()?.get("/v1/cluster").await?;
    let out = context.out;
    out.object(&view);
    let (tone, state) = match view.broker.delivers {
        true => (Tone::Good, "delivers"),
        false => (Tone::Bad, "does not deliver: devices get their orders by check-in"),
    };
    out.line(&format!("broker   {}", out.paint(tone, state)));
    if let Some(waiting) = view.broker.upstream_waiting {
        out.line(&format!("upstream {waiting} messages of hubs wait"));
    }
    let online = view.online.map_or("unknown".to_owned(), |online| online.to_string());
    out.line(&format!("devices  {} enrolled, {online} online", view.devices));
    let unacked: Vec<_> = view
        .unacked
        .iter()
        .filter(|class| class.commands > 0)
        .map(|class| format!("{} ({})", class.commands, class.age))
        .collect();
    let unacked = if unacked.is_empty() { "none".to_owned() } else { unacked.join(", ") };
    out.line(&format!("un-acked {unacked}"));
    if let Some(hubs) = &view.hubs {
        let mut table = Table::new(&["hub", "sessions", "incarnation"]);
        for hub in hubs {
            table.row([
                (hub.hub.to_string(), Tone::Strong),
                (hub.sessions.to_string(), Tone::Plain),
                (hub.incarnation.to_string(), Tone::Faint),
            ]);
        }
        out.line("");
        out.table(&table);
    }
    Ok(Exit::Success)
}
