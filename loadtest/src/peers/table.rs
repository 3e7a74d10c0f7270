//! The comparison as a table: medians over the rounds, and their ratios to the first server.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::{ByServer, Comparison, Measured, Round};

type Number = fn(&Round) -> Option<f64>;

/// One row: its name in the JSON form, its title for people, and where it is in a round.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    number: Number,
}

const fn row(name: &'static str, title: &'static str, number: Number) -> Row {
    Row { name, title, number }
}

/// The rows, with their units.
pub(super) const ROWS: [Row; 10] = [
    row("kib_per_connection", "memory of a quiet session, KiB", |round| round.kib_per_connection),
    row("connects_per_sec", "connections per second", |round| Some(round.connects_per_sec)),
    row("cpu_us_per_connect", "server µs per connection", |round| round.cpu_us_per_connect),
    row("unicast_p50_ms", "one message p50, ms", |round| Some(round.unicast_ms.p50)),
    row("unicast_p99_ms", "one message p99, ms", |round| Some(round.unicast_ms.p99)),
    row("cpu_us_per_message", "server µs per message", |round| round.cpu_us_per_message),
    row("client_cpu_us_per_message", "client µs per message", |round| {
        round.client_cpu_us_per_message
    }),
    row("broadcast_last_ms", "broadcast, last one, ms", |round| Some(round.broadcast_last_ms)),
    row("storm_secs", "all back after a cut, s", |round| Some(round.storm_secs)),
    row("quiet_cpu_us", "server µs per quiet session, second", |round| round.quiet_cpu_us),
];

/// Medians of every server, and their ratios to those of the first.
pub(super) fn numbers(servers: &[Measured]) -> (ByServer, ByServer) {
    let (mut medians, mut ratios) = (ByServer::new(), ByServer::new());
    let first = servers.first().map(|first| &*first.rounds).unwrap_or_default();
    for Measured { server, rounds, .. } in servers {
        let (mut own, mut to_first) = (BTreeMap::new(), BTreeMap::new());
        for Row { name, number, .. } in ROWS {
            let Some(value) = median(rounds, number) else { continue };
            own.insert(name.to_owned(), value);
            if let Some(ratio) = crate::compare::ratio(median(first, number), Some(value)) {
                to_first.insert(name.to_owned(), ratio);
            }
        }
        medians.insert(*server, own);
        ratios.insert(*server, to_first);
    }
    (medians, ratios)
}

/// The median of a number over the rounds that have it.
pub(super) fn median(rounds: &[Round], number: Number) -> Option<f64> {
    let mut values: Vec<f64> = rounds.iter().filter_map(number).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) {
        f64::midpoint(upper, values[middle - 1])
    } else {
        upper
    })
}

impl Comparison {
    /// The median of a row with its ratio to the first server, for people.
    pub(super) fn cell(&self, server: &Measured, row: &Row) -> String {
        let of = |numbers: &ByServer| numbers.get(&server.server)?.get(row.name).copied();
        let Some(value) = of(&self.median) else { return "–".to_owned() };
        of(&self.ratio).map_or(format!("{value:.2}"), |ratio| format!("{value:.2} ({ratio:.2})"))
    }

    /// What the numbers are of, in a sentence.
    pub(super) fn about(&self) -> String {
        let first = self.servers.first();
        format!(
            "{} sessions, {} messages, medians of {} interleaved rounds, load {:.1} before; in \
             brackets the ratio to {}",
            self.connections,
            self.rate,
            first.map_or(0, |first| first.rounds.len()),
            self.machine.load_before,
            first.map_or("", |first| first.server.as_str())
        )
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.about())?;
        write!(f, "{:<36}", "")?;
        for Measured { server, .. } in &self.servers {
            write!(f, "{:>20}", server.as_str())?;
        }
        f.write_char('\n')?;
        for row in ROWS {
            write!(f, "{:<36}", row.title)?;
            for server in &self.servers {
                write!(f, "{:>20}", self.cell(server, &row))?;
            }
            f.write_char('\n')?;
        }
        for Measured { server, promises, .. } in &self.servers {
            writeln!(f, "{:<10}{}", server.as_str(), promises.sentence)?;
        }
        self.missed.iter().try_for_each(|missed| writeln!(f, "MISSED    {missed}"))
    }
}
