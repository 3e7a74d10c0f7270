//! The comparison as one HTML file that needs nothing else, as the page of a run.

use std::fmt::Write as _;

use super::table::ROWS;
use super::{Comparison, Measured, Round};
use crate::html::svg::{self, Curve, Plot, Scale};
use crate::html::{self, escape};

/// Rows that are drawn as bars beside each other: by their place in the table.
const BARS: [usize; 6] = [0, 1, 2, 5, 7, 8];

/// The page.
pub fn page(comparison: &Comparison) -> String {
    let names: Vec<_> = comparison.servers.iter().map(|own| own.server.as_str()).collect();
    let mut page = html::opened(&names.join(", "), "Beside other servers");
    let machine = &comparison.machine;
    let _ = write!(
        page,
        "<p>{}.</p><p class=\"soft\">Mutual TLS 1.3 from one client, {} messages of 256 bytes in a \
         round. {} processors shared by server and client, Linux {}, load {:.1} before and {:.1} \
         after: only ratios count. Tocsin's message is an order of the bulk lane from the HTTPS \
         request to the frame at the device, its processor time is that of api, hub and Redis \
         together, and after a cut its devices resume TLS; the others' handshakes are full.</p>",
        escape(&comparison.about()),
        comparison.messages,
        machine.processors,
        escape(&machine.kernel),
        machine.load_before,
        machine.load_after,
    );
    for missed in &comparison.missed {
        let _ = write!(page, "<p class=\"bad\">missed: {}</p>", escape(missed));
    }
    table(&mut page, comparison);
    promises(&mut page, comparison);
    plots(&mut page, comparison);
    page.push_str("</body></html>\n");
    page
}

fn header(page: &mut String, first: &str, comparison: &Comparison) {
    let _ = write!(page, "<table><tr><th>{first}</th>");
    for Measured { server, .. } in &comparison.servers {
        let _ = write!(page, "<th>{}</th>", server.as_str());
    }
    page.push_str("</tr>");
}

fn table(page: &mut String, comparison: &Comparison) {
    page.push_str("<h2>Ratios</h2>");
    header(page, "median (ratio)", comparison);
    for row in ROWS {
        let _ = write!(page, "<tr><td>{}</td>", escape(row.title));
        for server in &comparison.servers {
            let _ = write!(page, "<td>{}</td>", comparison.cell(server, &row));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
}

/// What the numbers do not say: what else was done for each message.
fn promises(page: &mut String, comparison: &Comparison) {
    page.push_str("<h2>What each does with a message</h2>");
    header(page, "promise", comparison);
    let promise = |page: &mut String, what: &str, holds: fn(&Measured) -> bool| {
        let _ = write!(page, "<tr><td>{what}</td>");
        for server in &comparison.servers {
            let _ = write!(page, "<td>{}</td>", if holds(server) { "yes" } else { "no" });
        }
        page.push_str("</tr>");
    };
    promise(page, "durable write", |server| server.promises.durable);
    promise(page, "signature", |server| server.promises.signed);
    promise(page, "ack", |server| server.promises.acked);
    page.push_str("</table><dl>");
    for Measured { server, promises, .. } in &comparison.servers {
        let (name, sentence) = (server.as_str(), escape(&promises.sentence));
        let _ = write!(page, "<dt><b>{name}</b></dt><dd>{sentence}</dd>");
    }
    page.push_str("</dl>");
}

fn plots(page: &mut String, comparison: &Comparison) {
    page.push_str("<h2>Side by side</h2><div class=\"grid2\">");
    let curve = |measured: &Measured| {
        let latency = &middle(&measured.rounds)?.unicast_ms;
        Some(html::curve(measured.server.as_str(), latency))
    };
    let curves: Vec<Curve> = comparison.servers.iter().filter_map(curve).collect();
    let plot = Plot { curves, scale: Scale::Log, is_percentile: true };
    let caption =
        "one message to one client, ms, by percentile: of each the round with the median p99";
    figure(page, &plot.svg(), caption);
    for row in BARS.map(|place| &ROWS[place]) {
        let of = |measured: &Measured| {
            let value = comparison.median.get(&measured.server)?.get(row.name)?;
            Some((measured.server.as_str().to_owned(), *value))
        };
        let values: Vec<_> = comparison.servers.iter().filter_map(of).collect();
        figure(page, &svg::bars(&values), row.title);
    }
    page.push_str("</div>");
}

fn figure(page: &mut String, svg: &str, caption: &str) {
    let _ = write!(page, "<figure>{svg}<figcaption>{}</figcaption></figure>", escape(caption));
}

/// The round whose 99th percentile is the median of the rounds.
fn middle(rounds: &[Round]) -> Option<&Round> {
    let mut sorted: Vec<_> = rounds.iter().collect();
    sorted.sort_by(|one, other| one.unicast_ms.p99.total_cmp(&other.unicast_ms.p99));
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}
