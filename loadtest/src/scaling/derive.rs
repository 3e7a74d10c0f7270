//! What follows from measured sizes for a fleet that fits on no one machine.
//!
//! Pure arithmetic. Each line says how it was reckoned, and from which measurement of which size:
//! costs grow with sessions and commands as they did between the sizes that were measured, and a
//! line is worth no more than that.

use serde::{Deserialize, Serialize};

use super::point::{CheckIns, Most, Point};
use crate::evaluate::float;

const DAY_SECS: f64 = 86_400.0;
const KIB_PER_GIB: f64 = 1024.0 * 1024.0;
/// What quiet sessions of one size took in a second, all together.
const QUIET_HUB: &str = "connections × quiet_cpu_us.hub";
const QUIET_REDIS: &str = "connections × quiet_cpu_us.redis";
const QUIET_API: &str = "connections × quiet_cpu_us.api";
const QUIET_POSTGRES: &str = "connections × quiet_cpu_us.postgres";
/// What measurements are called that are of no size.
pub(super) const CHECK_INS: &str = "check-ins";
pub(super) const MOST: &str = "more orders than can be taken";

/// The fleet that is reckoned with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    /// Devices, all of which have a session.
    pub devices: u64,
    /// Sessions of a hub; left out: the most that were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hub: Option<u64>,
    /// Orders that each device has in a day.
    pub orders_per_day: f64,
    /// How often each device connects in a day.
    pub connects_per_day: f64,
    /// Within how many seconds all of them come back when all are cut at once.
    pub back_secs: f64,
    /// How often a device with a session checks in, in seconds.
    pub check_in_secs: f64,
    /// How busy a processor is to be at most, from 0 to 1.
    pub processor_share: f64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            devices: 1_000_000,
            per_hub: None,
            orders_per_day: 4.0,
            connects_per_day: 4.0,
            back_secs: 600.0,
            check_in_secs: protocol::limits::CHECK_IN_HEALTHY.as_secs_f64(),
            processor_share: 0.5,
        }
    }
}

/// One measured number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// Its name in the JSON form.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// The size that it is of.
    pub of: String,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The part of the platform.
    pub part: String,
    /// What is to be known.
    pub what: String,
    /// How much it is.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// How it was reckoned.
    pub how: String,
    /// From which measurements.
    pub from: Vec<Given>,
}

/// Everything that follows.
pub(super) fn lines(
    points: &[Point],
    (check_ins, most): (Option<CheckIns>, Option<Most>),
    fleet: &Fleet,
) -> Vec<Line> {
    let alone = points.iter().filter(|point| point.hubs == 1);
    let Some(largest) = alone.max_by_key(|point| point.connections) else { return Vec::new() };
    // What crosses the bus costs what it costs with the most hubs that there were.
    let Some(widest) = points.iter().max_by_key(|point| (point.hubs, point.connections)) else {
        return Vec::new();
    };
    let reckoning = Reckoning { points, largest, widest, check_ins, most, fleet };
    let has_postgres = widest.orders.cpu_us.postgres > 0.0;
    let postgres = has_postgres.then(|| reckoning.postgres());
    let parts = [reckoning.hubs(), reckoning.redis(), reckoning.control_plane(), reckoning.store()];
    parts.into_iter().chain(postgres).flat_map(|part| part.lines).collect()
}

fn given(name: &str, value: f64, of: &str) -> Given {
    Given { name: name.to_owned(), value, of: of.to_owned() }
}

/// Work that comes again and again.
struct Work<'a> {
    what: &'static str,
    per_sec: f64,
    /// Processor time of each, in microseconds, with its name and the size that it is of.
    cost: (&'static str, f64, &'a str),
}

impl Work<'_> {
    fn processors(&self) -> f64 {
        self.per_sec * self.cost.1 / 1e6
    }

    fn how(&self) -> String {
        format!("{:.0}/s × {:.2} µs", self.per_sec, self.cost.1)
    }

    fn from(&self) -> Given {
        given(self.cost.0, self.cost.1, self.cost.2)
    }
}

/// The lines of one part of the platform.
struct Part {
    name: &'static str,
    lines: Vec<Line>,
}

impl Part {
    const fn new(name: &'static str) -> Self {
        Self { name, lines: Vec::new() }
    }

    fn add(&mut self, what: &str, (value, unit): (f64, &str), how: String, from: Vec<Given>) {
        let (part, what, unit) = (self.name.to_owned(), what.to_owned(), unit.to_owned());
        self.lines.push(Line { part, what, value, unit, how, from });
    }

    /// Processors that each kind of work takes, and how many there must be for it and for quiet sessions.
    fn processors(&mut self, quiet: f64, work: &[Work<'_>], share: f64) {
        for own in work {
            let what = format!("processor time of {}", own.what);
            self.add(&what, (own.processors(), "processors"), own.how(), vec![own.from()]);
        }
        let sum = quiet + work.iter().map(Work::processors).sum::<f64>();
        let from = work.iter().map(Work::from).collect();
        let how = format!("{sum:.2} ÷ {share}, so that none is busier");
        self.add("processors to have", (sum / share.max(0.01), "processors"), how, from);
    }

    /// What it takes while all devices come back.
    fn storm(&mut self, work: &Work<'_>) {
        let what = "processor time while all come back";
        self.add(what, (work.processors(), "processors"), work.how(), vec![work.from()]);
    }
}

struct Reckoning<'a> {
    points: &'a [Point],
    largest: &'a Point,
    widest: &'a Point,
    check_ins: Option<CheckIns>,
    most: Option<Most>,
    fleet: &'a Fleet,
}

impl Reckoning<'_> {
    fn devices(&self) -> f64 {
        float(self.fleet.devices)
    }

    fn orders_per_sec(&self) -> f64 {
        self.devices() * self.fleet.orders_per_day / DAY_SECS
    }

    fn check_ins_per_sec(&self) -> f64 {
        self.devices() / self.fleet.check_in_secs.max(1.0)
    }

    /// Processor time of quiet sessions: what processes take anyhow does not grow with them.
    fn quiet(&self, part: &mut Part, processes: f64, cost: (&str, fn(&Point) -> f64)) -> f64 {
        let (name, each) = cost;
        let fit = Fit::of(self.points, name, &|point| each(point) * sessions(point), 0.0);
        let used = self.devices().mul_add(fit.each, processes * fit.base) / 1e6;
        let how = format!(
            "{} devices × {:.3} µs/s + {processes} processes × {:.0} µs/s",
            self.fleet.devices, fit.each, fit.base
        );
        part.add("processor time of quiet sessions", (used, "processors"), how, fit.from);
        used
    }

    fn connects<'a>(&self, cost: (&'static str, f64, &'a str)) -> Work<'a> {
        let per_sec = self.devices() * self.fleet.connects_per_day / DAY_SECS;
        Work { what: "connections", per_sec, cost }
    }

    fn orders<'a>(&self, cost: (&'static str, f64, &'a str)) -> Work<'a> {
        Work { what: "orders", per_sec: self.orders_per_sec(), cost }
    }

    fn all_back<'a>(&self, cost: (&'static str, f64, &'a str)) -> Work<'a> {
        let per_sec = self.devices() / self.fleet.back_secs.max(1.0);
        Work { what: "connections", per_sec, cost }
    }

    fn hubs(&self) -> Part {
        let (fleet, largest, mut part) = (self.fleet, self.largest, Part::new("hubs"));
        let (devices, of) = (fleet.devices, &*largest.label);
        let per_hub = fleet.per_hub.unwrap_or(largest.connections).max(1);
        let hubs = (self.devices() / float(per_hub)).ceil();
        let how = format!("{devices} devices ÷ {per_hub} sessions");
        let from = vec![given("connections", float(largest.connections), of)];
        part.add("processes", (hubs, "processes"), how, from);
        let memory =
            Fit::of(self.points, "hub_kib", &|point| point.hub_kib, largest.hub_before_kib);
        let kib = self.devices().mul_add(memory.each, hubs * memory.base);
        let how = format!(
            "{devices} devices × {:.2} KiB + {hubs} processes × {:.0} KiB",
            memory.each, memory.base
        );
        part.add("memory", (kib / KIB_PER_GIB, "GiB"), how, memory.from);
        let both = largest.kernel_kib_per_connection;
        let how = format!("{devices} devices × {:.2} KiB, one end of two", both / 2.0);
        let buffers = self.devices() * both / 2.0 / KIB_PER_GIB;
        let from = vec![given("kernel_kib_per_connection", both, of)];
        part.add("memory of their kernels for sockets", (buffers, "GiB"), how, from);
        let reconnect = ("reconnect_cpu_us.hub", largest.reconnect_cpu_us.hub, of);
        let quiet = self.quiet(&mut part, hubs, (QUIET_HUB, |point| point.quiet_cpu_us.hub));
        let work = [
            self.connects(reconnect),
            self.orders(("orders.cpu_us.hub", largest.orders.cpu_us.hub, of)),
        ];
        part.processors(quiet, &work, fleet.processor_share);
        part.storm(&self.all_back(reconnect));
        part
    }

    fn redis(&self) -> Part {
        let (largest, widest, mut part) = (self.largest, self.widest, Part::new("Redis"));
        let each = largest.redis_kib_per_connection.max(0.0);
        let how = format!("{} devices × {each:.3} KiB", self.fleet.devices);
        let from = vec![given("redis_kib_per_connection", each, &largest.label)];
        part.add("memory", (self.devices() * each / KIB_PER_GIB, "GiB"), how, from);
        let of = &*widest.label;
        let reconnect = ("reconnect_cpu_us.redis", widest.reconnect_cpu_us.redis, of);
        let quiet = self.quiet(&mut part, 1.0, (QUIET_REDIS, |point| point.quiet_cpu_us.redis));
        let work = [
            self.connects(reconnect),
            self.orders(("orders.cpu_us.redis", widest.orders.cpu_us.redis, of)),
        ];
        part.processors(quiet, &work, self.fleet.processor_share);
        part.storm(&self.all_back(reconnect));
        part
    }

    fn control_plane(&self) -> Part {
        let (widest, mut part) = (self.widest, Part::new("control plane"));
        let of = &*widest.label;
        let reconnect = ("reconnect_cpu_us.api", widest.reconnect_cpu_us.api, of);
        let quiet = self.quiet(&mut part, 1.0, (QUIET_API, |point| point.quiet_cpu_us.api));
        let mut work = vec![
            self.connects(reconnect),
            self.orders(("orders.cpu_us.api", widest.orders.cpu_us.api, of)),
        ];
        if let Some(check_ins) = self.check_ins {
            work.push(Work {
                what: "check-ins",
                per_sec: self.check_ins_per_sec(),
                cost: ("check_ins.cpu_us.api", check_ins.cpu_us.api, CHECK_INS),
            });
        }
        part.processors(quiet, &work, self.fleet.processor_share);
        part.storm(&self.all_back(reconnect));
        part
    }

    /// Its part of the same work that the control plane does.
    fn postgres(&self) -> Part {
        let (widest, mut part) = (self.widest, Part::new("PostgreSQL"));
        let of = &*widest.label;
        let reconnect = ("reconnect_cpu_us.postgres", widest.reconnect_cpu_us.postgres, of);
        let cost = (QUIET_POSTGRES, (|point| point.quiet_cpu_us.postgres) as fn(&Point) -> f64);
        let quiet = self.quiet(&mut part, 1.0, cost);
        let mut work = vec![
            self.connects(reconnect),
            self.orders(("orders.cpu_us.postgres", widest.orders.cpu_us.postgres, of)),
        ];
        if let Some(check_ins) = self.check_ins {
            work.push(Work {
                what: "check-ins",
                per_sec: self.check_ins_per_sec(),
                cost: ("check_ins.cpu_us.postgres", check_ins.cpu_us.postgres, CHECK_INS),
            });
        }
        part.processors(quiet, &work, self.fleet.processor_share);
        part.storm(&self.all_back(reconnect));
        part
    }

    fn store(&self) -> Part {
        let (widest, mut part) = (self.widest, Part::new("store"));
        let (orders, check_ins) = (self.orders_per_sec(), self.check_ins_per_sec());
        let order_kib = widest.orders.written_kib;
        let check_in_kib = self.check_ins.map_or(0.0, |own| own.written_kib);
        let how = format!(
            "{orders:.1} orders/s × {order_kib:.1} KiB + {check_ins:.0} check-ins/s × \
             {check_in_kib:.3} KiB"
        );
        let mut from = vec![given("orders.written_kib", order_kib, &widest.label)];
        if self.check_ins.is_some() {
            from.push(given("check_ins.written_kib", check_in_kib, CHECK_INS));
        }
        let written = orders.mul_add(order_kib, check_ins * check_in_kib) / 1024.0;
        part.add("written to disk", (written, "MiB/s"), how, from);
        if let Some(most) = self.most {
            let rate = most.stored_per_sec;
            let how = format!("{orders:.1} orders/s ÷ {rate:.0}/s");
            let from = vec![given("most.stored_per_sec", rate, MOST)];
            let what = "of the highest rate of orders of one writer";
            part.add(what, (100.0 * orders / rate.max(1e-9), "%"), how, from);
        }
        let by_rate =
            |one: &&Point, other: &&Point| one.bulk.per_sec.total_cmp(&other.bulk.per_sec);
        let fastest = self.points.iter().max_by(by_rate);
        if let Some(fastest) = fastest.filter(|fastest| fastest.bulk.per_sec > 0.0) {
            let rate = fastest.bulk.per_sec;
            let how = format!("{} devices ÷ {rate:.0} commands/s", self.fleet.devices);
            let from = vec![given("bulk.per_sec", rate, &fastest.label)];
            let mins = self.devices() / rate / 60.0;
            part.add("one order of everybody, until its last ack", (mins, "min"), how, from);
        }
        part
    }
}

/// A cost that has a part that is there anyhow and one that grows with sessions.
struct Fit {
    base: f64,
    each: f64,
    from: Vec<Given>,
}

impl Fit {
    /// The line that lies closest to the sizes of one hub (least squares). With one size alone there is
    /// none, and `alone` says how much is there anyhow.
    fn of(points: &[Point], name: &str, total: &dyn Fn(&Point) -> f64, alone: f64) -> Self {
        let own: Vec<_> = points.iter().filter(|point| point.hubs == 1).collect();
        let from = own.iter().map(|point| given(name, total(point), &point.label)).collect();
        let count = float(u64::try_from(own.len()).unwrap_or(0)).max(1.0);
        let mean = |value: &dyn Fn(&Point) -> f64| {
            own.iter().map(|point| value(point)).sum::<f64>() / count
        };
        let (x, y) = (mean(&sessions), mean(total));
        let across = mean(&|point| (sessions(point) - x).powi(2));
        if across < 1.0 {
            return Self { base: alone, each: (y - alone) / x.max(1.0), from };
        }
        let each = mean(&|point| (sessions(point) - x) * (total(point) - y)) / across;
        Self { base: each.mul_add(-x, y).max(0.0), each: each.max(0.0), from }
    }
}

fn sessions(point: &Point) -> f64 {
    float(point.connections)
}
