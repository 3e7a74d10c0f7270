//! The table of sizes and what follows from it, for people: as Markdown and as one HTML file.

use std::fmt::Write as _;

use super::{Given, Line, Micros, Point, Scaling};
use crate::evaluate::float;
use crate::html::svg::{Curve, Plot, Scale};
use crate::html::{self, escape};
use crate::plan::Store;

type Cell = fn(&Point) -> f64;

/// The rows of the table of sizes, with how many digits they have.
const ROWS: [(&str, usize, Cell); 28] = [
    ("hub KiB per session (PSS)", 2, |point| point.hub_kib_per_connection),
    ("Redis KiB per session (PSS)", 3, |point| point.redis_kib_per_connection),
    ("kernel KiB per session, both ends", 2, |point| point.kernel_kib_per_connection),
    ("hub µs per quiet session and second", 2, |point| point.quiet_cpu_us.hub),
    ("Redis µs per quiet session and second", 3, |point| point.quiet_cpu_us.redis),
    ("api µs per quiet session and second", 3, |point| point.quiet_cpu_us.api),
    ("PostgreSQL µs per quiet session and second", 3, |point| point.quiet_cpu_us.postgres),
    ("connections per second", 0, |point| point.connects_per_sec),
    ("hub µs per connection", 0, |point| point.connect_cpu_us.hub),
    ("PostgreSQL µs per connection", 0, |point| point.connect_cpu_us.postgres),
    ("hub µs per resumed connection", 0, |point| point.reconnect_cpu_us.hub),
    ("Redis µs per resumed connection", 0, |point| point.reconnect_cpu_us.redis),
    ("api µs per resumed connection", 0, |point| point.reconnect_cpu_us.api),
    ("PostgreSQL µs per resumed connection", 0, |point| point.reconnect_cpu_us.postgres),
    ("all back after a cut, s", 1, |point| point.back_secs),
    ("order to ack p50, ms", 1, |point| point.orders.p50_ms),
    ("order to ack p99, ms", 1, |point| point.orders.p99_ms),
    ("hub µs per order", 0, |point| point.orders.cpu_us.hub),
    ("Redis µs per order", 0, |point| point.orders.cpu_us.redis),
    ("api µs per order", 0, |point| point.orders.cpu_us.api),
    ("PostgreSQL µs per order", 0, |point| point.orders.cpu_us.postgres),
    ("KiB that the store wrote per order", 1, |point| point.orders.written_kib),
    ("order of everybody: last ack, s", 1, |point| point.bulk.last_ms / 1e3),
    ("order of everybody: hub µs per command", 0, |point| point.bulk.cpu_us.hub),
    ("order of everybody: api µs per command", 0, |point| point.bulk.cpu_us.api),
    ("order of everybody: PostgreSQL µs per command", 0, |point| point.bulk.cpu_us.postgres),
    ("harness µs per order", 0, |point| point.harness_us_per_order),
    ("harness µs per connection", 0, |point| point.harness_us_per_connect),
];

/// The rows that this document has numbers for.
fn rows(scaling: &Scaling) -> impl Iterator<Item = (&'static str, usize, Cell)> {
    let has_postgres = scaling.store == Store::Postgres;
    ROWS.into_iter().filter(move |(title, ..)| has_postgres || !title.contains("PostgreSQL"))
}

/// What PostgreSQL takes of something besides, if there is one.
fn and_postgres(scaling: &Scaling, micros: Micros) -> String {
    let each = format!(", {} µs of PostgreSQL", number(micros.postgres));
    if scaling.store == Store::Postgres { each } else { String::new() }
}

/// A number with three digits that count, or all of those before its point.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if !(0.0005..100.0).contains(&size) => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn source(given: &Given) -> String {
    format!("{} {} ({})", given.name, number(given.value), given.of)
}

fn about(scaling: &Scaling) -> String {
    let machine = &scaling.machine;
    format!(
        "The store is {}. {} processors shared by platform and harness, Linux {}, load {:.1} before and {:.1} after, \
         {} ms stolen by other machines, {:.0} s in all. Processor time of commands and resumed \
         connections is without what quiet sessions take anyhow, that of first connections, while \
         which there are none at first, with it; that of check-ins is without what Redis and api do \
         anyhow. The harness took its part of the same processors.",
        match scaling.store {
            Store::Sqlite => "SQLite, in the api's process",
            Store::Postgres => "a PostgreSQL on the same machine, as initdb makes it",
        },
        machine.processors,
        machine.kernel,
        machine.load_before,
        machine.load_after,
        machine.steal_ms.map_or("an unknown number of".to_owned(), |steal| steal.to_string()),
        scaling.secs
    )
}

/// The two that are of no size, in sentences.
fn besides(scaling: &Scaling) -> Vec<String> {
    let check_ins = scaling.check_ins.map(|own| {
        format!(
            "A check-in costs {} µs of the api, {} µs of Redis{}, and {} KiB written ({} of {} devices).",
            number(own.cpu_us.api),
            number(own.cpu_us.redis),
            and_postgres(scaling, own.cpu_us),
            number(own.written_kib),
            own.count,
            own.devices
        )
    });
    let most = scaling.most.map(|own| {
        format!(
            "Of {:.0} orders a second, {:.0} were taken; each took {} µs of the api, {} µs of the \
             hub, {} µs of Redis{}, and {} KiB written.",
            own.intended_per_sec,
            own.stored_per_sec,
            number(own.orders.cpu_us.api),
            number(own.orders.cpu_us.hub),
            number(own.orders.cpu_us.redis),
            and_postgres(scaling, own.orders.cpu_us),
            number(own.orders.written_kib)
        )
    });
    let notes = scaling.notes.iter().map(|note| format!("Note: {note}."));
    check_ins.into_iter().chain(most).chain(notes).collect()
}

/// What is reckoned with, in a sentence.
fn fleet(scaling: &Scaling) -> String {
    let fleet = &scaling.fleet;
    format!(
        "{} devices with a session each, {} orders and {} connections of each in a day, a check-in \
         every {} s; all come back within {} s after a cut; processors at most {} busy. Costs are \
         taken to grow as they did between the sizes above.",
        fleet.devices,
        fleet.orders_per_day,
        fleet.connects_per_day,
        fleet.check_in_secs,
        fleet.back_secs,
        fleet.processor_share
    )
}

/// The document as Markdown.
pub fn markdown(scaling: &Scaling) -> String {
    let mut text = format!("{}\n\n| |", about(scaling));
    for point in &scaling.points {
        let _ = write!(text, " {} |", point.label);
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(scaling.points.len()));
    for (title, digits, cell) in rows(scaling) {
        let _ = write!(text, "| {title} |");
        for point in &scaling.points {
            let _ = write!(text, " {:.digits$} |", cell(point));
        }
        text.push('\n');
    }
    for sentence in besides(scaling) {
        let _ = write!(text, "\n{sentence}\n");
    }
    let _ = write!(
        text,
        "\nWhat follows for a fleet: {}\n\n| part | what | | how | from |\n|---|---|---|---|---|\n",
        fleet(scaling)
    );
    for Line { part, what, value, unit, how, from } in &scaling.derivation {
        let value = number(*value);
        let from: Vec<_> = from.iter().map(source).collect();
        let from = from.join("; ");
        let _ = writeln!(text, "| {part} | {what} | {value} {unit} | {how} | {from} |");
    }
    text
}

/// The document as a page.
pub fn page(scaling: &Scaling) -> String {
    let mut page = html::opened("cost by size", "Load test");
    let _ = write!(page, "<p class=\"soft\">{}</p><table><tr><th></th>", escape(&about(scaling)));
    for point in &scaling.points {
        let _ = write!(page, "<th>{}</th>", escape(&point.label));
    }
    page.push_str("</tr>");
    for (title, digits, cell) in rows(scaling) {
        let _ = write!(page, "<tr><td>{title}</td>");
        for point in &scaling.points {
            let _ = write!(page, "<td>{:.digits$}</td>", cell(point));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
    for sentence in besides(scaling) {
        let _ = write!(page, "<p>{}</p>", escape(&sentence));
    }
    plots(&mut page, scaling);
    let _ = write!(
        page,
        "<h2>What follows for a fleet</h2><p>{}</p><table><tr><th>part</th><th>what</th><th></th>\
         <th>how</th><th>from</th></tr>",
        escape(&fleet(scaling))
    );
    for Line { part, what, value, unit, how, from } in &scaling.derivation {
        let from: Vec<_> = from.iter().map(source).collect();
        let cells = [part.clone(), what.clone(), format!("{} {unit}", number(*value)), how.clone()];
        page.push_str("<tr>");
        for cell in cells.iter().chain([&from.join("; ")]) {
            let _ = write!(page, "<td>{}</td>", escape(cell));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></body></html>\n");
    page
}

/// One hub with more and more sessions, and more and more hubs.
fn plots(page: &mut String, scaling: &Scaling) {
    page.push_str("<div class=\"grid2\">");
    let drawn: [(&str, Cell); 4] = [
        ("memory of the hubs for each session, KiB", |point| point.hub_kib_per_connection),
        ("processor time of a quiet session, hub, µs/s", |point| point.quiet_cpu_us.hub),
        ("order to ack, 99th percentile, ms", |point| point.orders.p99_ms),
        ("all back after a cut, s", |point| point.back_secs),
    ];
    for (caption, cell) in drawn {
        let curve = |name: &str, is_meant: fn(&Point) -> bool| {
            let mut points: Vec<_> =
                scaling.points.iter().filter(|point| is_meant(point)).collect();
            points.sort_by_key(|point| point.connections);
            let points = points.into_iter().map(|point| (float(point.connections), cell(point)));
            Curve { name: name.to_owned(), points: points.collect() }
        };
        let curves = vec![
            curve("one hub", |point| point.hubs == 1),
            curve("several hubs", |point| point.hubs > 1),
        ];
        let plot = Plot { curves, scale: Scale::Linear, is_percentile: false };
        let _ = write!(
            page,
            "<figure>{}<figcaption>{}, by sessions</figcaption></figure>",
            plot.svg(),
            escape(caption)
        );
    }
    page.push_str("</div>");
}
