//! One plot of one run or of several as a file of its own, for documents that are no reports.
//!
//! Owns which plots there are and what a file needs that a page has already. The drawing is that of the
//! page.

use std::fmt::Write as _;

use clap::ValueEnum;

use super::svg::{Curve, Plot, Scale};
use super::{curve, escape, hub_kib};
use crate::evaluate::float;
use crate::latency::Latency;
use crate::report::{Report, Stages};

/// Light and dark, as whoever looks at it has it.
const STYLE: &str = "svg{background:#fff}text{fill:#626a75;font:12px system-ui,sans-serif}\
.grid{stroke:#d5d9e0}@media(prefers-color-scheme:dark){svg{background:#16181c}text{fill:#9aa3ae}\
.grid{stroke:#3a404a}}";

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// Every stage of an order of one device, by percentile; of the first report
    Stages,
    /// Order to ack, by percentile
    Acked,
    /// Order to ack of orders that were meant to leave while something went on
    During,
    /// Order to ack of group orders
    Group,
    /// Connecting again after a cut
    Reconnect,
    /// Memory of the hubs for each session over time
    Memory,
    /// Acks per second over time
    Rate,
}

impl Picture {
    /// The drawing as a file; `None` when none of the reports has anything of it.
    pub fn svg(self, reports: &[Report]) -> Option<String> {
        let curves: Vec<_> = match self {
            Self::Stages => reports.iter().take(1).flat_map(stages).collect(),
            Self::Acked | Self::During | Self::Group | Self::Reconnect => reports
                .iter()
                .map(|report| (report, self.latency(report)))
                .filter(|(_, latency)| latency.count > 0)
                .map(|(report, latency)| curve(&report.label, latency))
                .collect(),
            Self::Memory | Self::Rate => reports.iter().map(|report| self.series(report)).collect(),
        };
        let has_any = curves.iter().flat_map(|curve| &curve.points).any(|(_, value)| *value > 0.0);
        let is_percentile = !matches!(self, Self::Memory | Self::Rate);
        let scale = if is_percentile { Scale::Log } else { Scale::Linear };
        let drawn = Plot { curves, scale, is_percentile }.svg();
        let rest = drawn.strip_prefix("<svg ")?;
        let (attributes, inside) = rest.split_once('>')?;
        let mut file = String::new();
        let _ = writeln!(
            file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" {attributes}><title>{}</title>\
             <style>{STYLE}</style>{inside}",
            escape(self.title())
        );
        has_any.then_some(file)
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Stages => "every stage of an order, ms by percentile",
            Self::Acked => "order to ack, ms by percentile",
            Self::During => "order to ack while something went on, ms by percentile",
            Self::Group => "group order to ack, ms by percentile",
            Self::Reconnect => "connecting again, ms by percentile",
            Self::Memory => "memory of the hubs for each session, KiB over seconds",
            Self::Rate => "acks per second over seconds",
        }
    }

    const fn latency(self, report: &Report) -> &Latency {
        let latencies = &report.latency_ms;
        match self {
            Self::During => &latencies.during.acked,
            Self::Group => &latencies.group.acked,
            Self::Reconnect => &latencies.reconnect,
            Self::Stages | Self::Acked | Self::Memory | Self::Rate => &latencies.unicast.acked,
        }
    }

    fn series(self, report: &Report) -> Curve {
        let points = report.series.iter().map(|sample| {
            let value = if self == Self::Rate {
                sample.acked_per_sec
            } else {
                hub_kib(sample) / float(sample.connected.max(1))
            };
            (sample.at_secs, value)
        });
        Curve { name: report.label.clone(), points: points.collect() }
    }
}

fn stages(report: &Report) -> Vec<Curve> {
    let stages = Stages::named(&report.latency_ms.unicast).into_iter();
    let stages = stages.filter(|(_, latency)| latency.count > 0);
    stages.map(|(name, latency)| curve(name, latency)).collect()
}
