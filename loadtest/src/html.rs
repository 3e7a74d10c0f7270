//! The report as one HTML file that needs nothing else: no script, no font, no address.
//!
//! Owns its layout and its words. The plots are made by `svg` from the numbers of the reports, of
//! one run or of several side by side.

use std::fmt::Write as _;

use crate::compare::{self, Row};
use crate::evaluate::float;
use crate::latency::Latency;
use crate::report::text::BY_HUBS;
use crate::report::{During, Report, Sample, Stages};

use self::svg::{Curve, Plot, Scale};

pub mod picture;
pub mod svg;
#[cfg(test)]
mod tests;

/// Pages keep to the colours of whoever reads them.
const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c1f24;--soft:#626a75;--line:#d5d9e0;--back:#fff;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#9aa3ae;--line:#3a404a;\
--back:#16181c;--bad:#ff8a80}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);\
max-width:1080px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}p.soft,figcaption{color:var(--soft)}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .8rem;border-bottom:1px solid var(--line);text-align:right}\
th:first-child,td:first-child{text-align:left}th{font-weight:600}\
.bad{color:var(--bad)}figure{margin:1rem 0}svg{width:100%;height:auto}\
svg text{fill:var(--soft);font:12px system-ui,sans-serif}svg .grid{stroke:var(--line)}\
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(460px,1fr));gap:0 2rem}";

/// The page of one run, or of several side by side.
pub fn page(reports: &[Report]) -> String {
    let labels: Vec<_> = reports.iter().map(|report| &*report.label).collect();
    let mut page = opened(&labels.join(", "), "Load test");
    for report in reports {
        head(&mut page, report);
    }
    if reports.len() > 1 {
        comparison(&mut page, reports);
    }
    plots(&mut page, reports);
    for report in reports {
        details(&mut page, report);
    }
    page.push_str("</body></html>\n");
    page
}

/// The beginning of a page, up to its heading.
pub(crate) fn opened(title: &str, heading: &str) -> String {
    let (title, heading) = (escape(title), escape(heading));
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body><h1>{heading}: {title}</h1>"
    )
}

/// Text that is safe anywhere in a page. Names and errors come from outside.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

fn head(page: &mut String, report: &Report) {
    let machine = &report.machine;
    let _ = write!(
        page,
        "<p><b>{}</b>: {}. {} devices, {:.1} s.</p><p class=\"soft\">{}. {} processors shared by \
         platform and harness, Linux {}, load {:.1} before and {:.1} after, {} stolen: compare only what ran \
         together. The harness used {} of processor time{}.</p>",
        escape(&report.label),
        escape(&report.plan.about),
        report.plan.population.total(),
        report.secs,
        escape(&report.notes.join("; ")),
        machine.processors,
        escape(&machine.kernel),
        machine.load_before,
        machine.load_after,
        whole(machine.steal_ms, " ms"),
        whole(report.harness.cpu_ms, " ms"),
        report
            .harness
            .cpu_us_per_message
            .map_or(String::new(), |each| format!(", {each:.0} µs for each message")),
    );
    for missed in &report.missed {
        let _ = write!(page, "<p class=\"bad\">missed: {}</p>", escape(missed));
    }
    if report.interrupted {
        page.push_str("<p class=\"bad\">interrupted before its end</p>");
    }
}

fn comparison(page: &mut String, reports: &[Report]) {
    page.push_str("<h2>Side by side</h2><table><tr><th>number</th>");
    for (at, report) in reports.iter().enumerate() {
        let _ = write!(page, "<th>{}</th>", escape(&report.label));
        if at > 0 {
            page.push_str("<th>ratio</th>");
        }
    }
    page.push_str("</tr>");
    for Row { path, values } in compare::rows(reports) {
        let _ = write!(page, "<tr><td>{}</td>", escape(&path));
        for (at, value) in values.iter().enumerate() {
            let _ = write!(page, "<td>{}</td>", number(*value));
            if at > 0 {
                let ratio = compare::ratio(values[0], *value);
                let ratio = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
                let _ = write!(page, "<td>{ratio}</td>");
            }
        }
        page.push_str("</tr>");
    }
    page.push_str("</table><p class=\"soft\">Ratios are to the first run.</p>");
}

fn number(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.3}"))
}

fn whole(value: Option<u64>, unit: &str) -> String {
    value.map_or("–".to_owned(), |value| format!("{value}{unit}"))
}

fn plots(page: &mut String, reports: &[Report]) {
    page.push_str("<h2>Latencies</h2><div class=\"grid2\">");
    let acked = |report: &Report| report.latency_ms.unicast.acked.clone();
    let group = |report: &Report| report.latency_ms.group.acked.clone();
    let told = |report: &Report| report.latency_ms.hub_broadcast.clone();
    let during = |report: &Report| report.latency_ms.during.acked.clone();
    let connect = |report: &Report| report.latency_ms.connect.clone();
    let reconnect = |report: &Report| report.latency_ms.reconnect.clone();
    percentiles(page, reports, ("order to ack", &acked));
    percentiles(page, reports, ("order to ack while something went on", &during));
    percentiles(page, reports, ("group order to ack", &group));
    percentiles(page, reports, ("connecting", &connect));
    percentiles(page, reports, ("connecting again", &reconnect));
    percentiles(page, reports, ("a frame of the hub alone to every session", &told));
    if let [report] = reports {
        let stages = Stages::named(&report.latency_ms.unicast);
        let curves = stages.into_iter().filter(|(_, latency)| latency.count > 0);
        let curves = curves.map(|(name, latency)| curve(name, latency)).collect();
        plot(page, "every stage of an order", curves, (Scale::Log, "ms"));
    }
    page.push_str("</div><h2>Over time</h2><div class=\"grid2\">");
    let memory = |sample: &Sample| hub_kib(sample) / float(sample.connected.max(1));
    let busy = |sample: &Sample| hub_cpu(sample) * 1e6 / float(sample.connected.max(1));
    over_time(page, reports, ("acks per second", "", &|sample| sample.acked_per_sec));
    over_time(page, reports, ("99th percentile of acks", "ms", &|sample| sample.acked_ms[1]));
    over_time(page, reports, ("sessions", "", &|sample| float(sample.connected)));
    over_time(page, reports, ("memory of the hubs for each session", "KiB", &memory));
    over_time(page, reports, ("processor time of the hubs, each session", "µs/s", &busy));
    over_time(
        page,
        reports,
        ("socket buffers of the kernel", "KiB", &|sample| float(sample.kernel.socket_kib)),
    );
    page.push_str("</div>");
    bars(page, reports);
}

fn hub_kib(sample: &Sample) -> f64 {
    let of_hubs = sample.pss_kib.iter().filter(|(role, _)| crate::meters::is_hub(role));
    of_hubs.map(|(_, kib)| float(*kib)).sum()
}

fn hub_cpu(sample: &Sample) -> f64 {
    let of_hubs = sample.cpu.iter().filter(|(role, _)| crate::meters::is_hub(role));
    of_hubs.map(|(_, cpu)| *cpu).sum()
}

/// A latency by percentile.
pub(crate) fn curve(name: &str, latency: &Latency) -> Curve {
    // Percentiles are spread as they are spoken of: 90, 99, 99.9 at equal distances.
    let nines = |percentile: f64| -(1.0 - (percentile / 100.0).min(0.99999)).log10();
    let points = latency.curve.iter().map(|&(percentile, ms)| (nines(percentile), ms)).collect();
    Curve { name: name.to_owned(), points }
}

type Chosen<'a> = (&'a str, &'a dyn Fn(&Report) -> Latency);

fn percentiles(page: &mut String, reports: &[Report], (title, choose): Chosen<'_>) {
    let with_some = reports.iter().map(|report| (report, choose(report)));
    let with_some = with_some.filter(|(_, latency)| latency.count > 0);
    let curves: Vec<_> =
        with_some.map(|(report, latency)| curve(&report.label, &latency)).collect();
    plot(page, title, curves, (Scale::Log, "ms"));
}

type Series<'a> = (&'a str, &'a str, &'a dyn Fn(&Sample) -> f64);

fn over_time(page: &mut String, reports: &[Report], (title, unit, value): Series<'_>) {
    let curves = reports.iter().map(|report| Curve {
        name: report.label.clone(),
        points: report.series.iter().map(|sample| (sample.at_secs, value(sample))).collect(),
    });
    plot(page, title, curves.collect(), (Scale::Linear, unit));
}

fn plot(page: &mut String, title: &str, curves: Vec<Curve>, (scale, unit): (Scale, &str)) {
    let has_any = curves.iter().flat_map(|curve| &curve.points).any(|(_, value)| *value > 0.0);
    if has_any {
        let plot = Plot { curves, scale, is_percentile: scale == Scale::Log };
        let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
        let _ = write!(
            page,
            "<figure>{}<figcaption>{}{unit}</figcaption></figure>",
            plot.svg(),
            escape(title)
        );
    }
}

fn bars(page: &mut String, reports: &[Report]) {
    let memory = reports.iter().filter_map(|report| {
        let hub = report.hub.as_ref()?;
        Some((report.label.clone(), hub.kib_per_connection?))
    });
    let memory: Vec<_> = memory.collect();
    if !memory.is_empty() {
        let _ = write!(
            page,
            "<h2>Memory of a quiet session</h2><figure>{}<figcaption>KiB of the hub's process \
             (PSS)</figcaption></figure>",
            svg::bars(&memory)
        );
    }
}

fn details(page: &mut String, report: &Report) {
    let _ = write!(
        page,
        "<h2>{} in numbers</h2><table><tr><th>ms</th><th>count</th>",
        escape(&report.label)
    );
    for column in Latency::COLUMNS {
        let _ = write!(page, "<th>{column}</th>");
    }
    page.push_str("</tr>");
    let latencies = compare::latencies(report).into_iter().chain(compare::phase_latencies(report));
    for (name, latency) in latencies.filter(|(_, latency)| latency.count > 0) {
        let _ = write!(page, "<tr><td>{}</td><td>{}</td>", escape(&name), latency.count);
        for value in latency.columns() {
            let _ = write!(page, "<td>{value:.2}</td>");
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
    let latencies = &report.latency_ms;
    if latencies.unicast.routed.is_some() || latencies.group.routed.is_some() {
        let _ = write!(page, "<p class=\"soft\">Routed and written: {BY_HUBS}.</p>");
    }
    for phase in &report.phases {
        let Some(During { what, secs, .. }) = &phase.during else { continue };
        let (name, what) = (escape(&phase.name), escape(what));
        let _ = write!(page, "<p class=\"soft\">During: {secs:.1} s of {name}, {what}.</p>");
    }
    page.push_str("<table><tr><th>process</th><th>processor ms</th>");
    page.push_str("<th>KiB before</th><th>KiB at most</th></tr>");
    for (role, process) in &report.processes {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(role),
            whole(process.cpu_ms, ""),
            whole(process.pss_before_kib, ""),
            whole(process.pss_max_kib, "")
        );
    }
    page.push_str("</table>");
    for (kind, count) in &report.errors {
        let _ = write!(page, "<p>{count} × {}</p>", escape(kind));
    }
}
