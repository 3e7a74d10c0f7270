//! The report as a person reads it in a terminal.

use std::fmt::{self, Write as _};

use super::{During, Hub, Report, Stages, Stalled};
use crate::latency::Latency;

/// What is to be known of the stages that hubs count.
pub(crate) const BY_HUBS: &str =
    "by the hubs' histograms, from the making of the command, to a millisecond";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, secs, .. } = self;
        writeln!(f, "{scenario}: {}, {secs:.1} s", self.plan.about)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))?;
        self.latencies(f)?;
        self.outcomes(f)?;
        self.costs(f)?;
        f.write_str("errors     ")?;
        if self.errors.is_empty() {
            f.write_str("  none")?;
        }
        for (kind, count) in &self.errors {
            write!(f, "  {count} × {kind}")?;
        }
        f.write_char('\n')?;
        self.missed.iter().try_for_each(|missed| writeln!(f, "MISSED       {missed}"))?;
        if self.interrupted { f.write_str("interrupted before its end\n") } else { Ok(()) }
    }
}

impl Report {
    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<18}{:>8}", "ms", "count")?;
        Latency::COLUMNS.into_iter().try_for_each(|title| write!(f, "{title:>10}"))?;
        f.write_char('\n')?;
        let latencies = &self.latency_ms;
        let group = |(name, latency)| (format!("group {name}"), latency);
        let named = |(name, latency): (&str, _)| (name.to_owned(), latency);
        let rows = Stages::named(&latencies.unicast).into_iter().map(named);
        let rows = rows.chain(Stages::named(&latencies.group).into_iter().map(group));
        let during = |(name, latency)| (format!("during {name}"), latency);
        let rows = rows.chain(Stages::named(&latencies.during).into_iter().map(during));
        let rows = rows.chain([
            ("connect".to_owned(), &latencies.connect),
            ("reconnect".to_owned(), &latencies.reconnect),
            ("hub broadcast".to_owned(), &latencies.hub_broadcast),
        ]);
        for (name, latency) in rows.filter(|(_, latency)| latency.count > 0) {
            write!(f, "{name:<18}{:>8}", latency.count)?;
            latency.columns().into_iter().try_for_each(|value| write!(f, "{value:>10.2}"))?;
            f.write_char('\n')?;
        }
        if latencies.unicast.routed.is_some() || latencies.group.routed.is_some() {
            writeln!(f, "routed, written: {BY_HUBS}")?;
        }
        for phase in &self.phases {
            if let Some(During { what, secs, latency_ms }) = &phase.during {
                let (name, count) = (&phase.name, latency_ms.sent.count);
                writeln!(f, "during       {secs:.1} s of {name}, {count} orders: {what}")?;
            }
        }
        Ok(())
    }

    fn outcomes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        if counts.ordered + counts.failed > 0 {
            writeln!(
                f,
                "commands     {} ordered, {} received, {} acked, {} confirmed",
                counts.ordered, counts.received, counts.acked, counts.confirmed
            )?;
            writeln!(
                f,
                "             {} lost, {} doubled, {} redelivered; orders: {} failed",
                counts.lost, counts.doubled, counts.redelivered, counts.failed
            )?;
        }
        let sessions = &self.sessions;
        writeln!(
            f,
            "sessions     {} in the end, {} dropped; {} mode frames, {} check-ins",
            sessions.connected, sessions.dropped, sessions.modes, sessions.check_ins
        )?;
        let rates = &self.rates;
        for (what, value, unit) in [
            ("orders meant to leave", rates.intended_per_sec, "/s"),
            ("orders answered", rates.stored_per_sec, "/s"),
            ("connected", rates.connects_per_sec, "/s"),
            ("all back after the cut", rates.back_secs, " s"),
            ("all told to push after Redis was back", rates.push_back_secs, " s"),
            ("all that never read were closed after", rates.closed_secs, " s"),
            ("last ack of a group", rates.last_ack_ms, " ms"),
        ] {
            if let Some(value) = value {
                writeln!(f, "rate         {what} {value:.1}{unit}")?;
            }
        }
        Ok(())
    }

    fn costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(hub) = &self.hub {
            hub.write(f)?;
        }
        let platform = self.platform.and_then(|cost| cost.cpu_us_per_command);
        let redis = self.redis.and_then(|cost| cost.cpu_us_per_command);
        let carried = self.hub_and_redis.and_then(|cost| cost.cpu_us_per_command);
        for (who, cost) in [("platform", platform), ("redis", redis), ("hub + redis", carried)] {
            if let Some(cost) = cost {
                writeln!(f, "{who:<13}{cost:.0} µs of processor time per command")?;
            }
        }
        if let Some(stalled) = self.stalled {
            stalled.write(f)?;
        }
        if let Some(kernel) = self.kernel {
            let (buffers, slabs) =
                (kernel.socket_kib_per_connection, kernel.slab_kib_per_connection);
            writeln!(
                f,
                "kernel       {buffers:.2} KiB of socket buffers and {slabs:.2} KiB of objects per \
                 connection, both ends"
            )?;
        }
        let harness = &self.harness;
        write!(f, "harness      {} messages", harness.messages)?;
        if let Some(cpu_ms) = harness.cpu_ms {
            write!(f, ", {cpu_ms} ms")?;
        }
        if let Some(each) = harness.cpu_us_per_message {
            write!(f, ", {each:.0} µs per message")?;
        }
        let machine = &self.machine;
        writeln!(
            f,
            "\nmachine      {} processors, load {:.1} before and {:.1} after",
            machine.processors, machine.load_before, machine.load_after
        )?;
        machine.steal_ms.map_or(Ok(()), |steal| writeln!(f, "             {steal} ms stolen"))
    }
}

impl Stalled {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (value, what) in [
            (self.hub_kib_each, "KiB of the hubs at most for each, beyond before the first order"),
            (self.kernel_kib_each, "KiB of socket buffers at most for each, both ends"),
            (self.others_p99_ms_more, "ms more of the others' p99 than with all reading"),
        ] {
            if let Some(value) = value {
                writeln!(f, "stalled      {value:.1} {what} ({} devices)", self.devices)?;
            }
        }
        Ok(())
    }
}

impl Hub {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (value, digits, what) in [
            (self.kib_per_connection, 1, "KiB per connection (PSS)"),
            (self.cpu_us_per_connection_second, 2, "µs per quiet connection and second"),
            (self.cpu_us_per_connect, 0, "µs per connection made"),
            (self.cpu_us_per_command, 0, "µs per command"),
        ] {
            if let Some(value) = value {
                writeln!(f, "hub          {value:.digits$} {what}")?;
            }
        }
        Ok(())
    }
}
