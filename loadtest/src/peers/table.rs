//! The comparison as a table: medians over the rounds, and their ratios to the first server.

use std::fmt::{self, Write as _};

use super::{Comparison, Round, Server};

type Number = fn(&Round) -> f64;

/// The rows, with their units.
const ROWS: [(&str, Number); 9] = [
    ("memory of a quiet session, KiB", |round| round.kib_per_connection),
    ("connections per second", |round| round.connects_per_sec),
    ("server µs per connection", |round| round.cpu_us_per_connect),
    ("one message p50, ms", |round| round.unicast_p50_ms),
    ("one message p99, ms", |round| round.unicast_p99_ms),
    ("server µs per message", |round| round.cpu_us_per_message),
    ("client µs per message", |round| round.client_cpu_us_per_message),
    ("broadcast, last one, ms", |round| round.broadcast_last_ms),
    ("all back after a cut, s", |round| round.storm_secs),
];

/// The median of a number over the rounds.
pub(super) fn median(rounds: &[Round], number: Number) -> Option<f64> {
    let mut values: Vec<f64> = rounds.iter().map(number).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) {
        f64::midpoint(upper, values[middle - 1])
    } else {
        upper
    })
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.servers.first().map_or(0, |(_, rounds)| rounds.len());
        writeln!(
            f,
            "{} sessions, {} messages, medians of {rounds} interleaved rounds, load {:.1} before; \
             in brackets the ratio to {}",
            self.connections,
            self.rate,
            self.load_before,
            self.servers.first().map_or("", |(server, _)| server.as_str())
        )?;
        write!(f, "{:<32}", "")?;
        for (server, _) in &self.servers {
            write!(f, "{:>20}", server.as_str())?;
        }
        f.write_char('\n')?;
        for (title, number) in ROWS {
            write!(f, "{title:<32}")?;
            let first = self.servers.first().and_then(|(_, rounds)| median(rounds, number));
            for (_, rounds) in &self.servers {
                let value = median(rounds, number);
                let ratio = crate::compare::ratio(first, value);
                let ratio = ratio.map_or(String::new(), |ratio| format!(" ({ratio:.2})"));
                let value = value.map_or("–".to_owned(), |value| format!("{value:.2}"));
                write!(f, "{:>20}", format!("{value}{ratio}"))?;
            }
            f.write_char('\n')?;
        }
        for (server, _) in &self.servers {
            writeln!(f, "{:<10}{}", server.as_str(), Server::promises(*server))?;
        }
        Ok(())
    }
}
