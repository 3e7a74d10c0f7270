//! An installation of several processes, on free ports and in a folder that goes away with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use broker::fixture::RedisServer;
use clap::Parser as _;
use loadtest::cli::Cli;
use loadtest::live::Live;
use loadtest::report::Report;
use loadtest::run;
use runtime::Drain;
use tokio::sync::watch;

use crate::operator::{Device, Operator, eventually};
use crate::ports::Held;
use crate::program::Program;

/// Redis, one control plane and some hubs, with an operator who is signed in.
pub(crate) struct Site {
    // In the order in which they may go: the folder last.
    pub(crate) hubs: Vec<Program>,
    pub(crate) api: Program,
    pub(crate) redis: RedisServer,
    operator: Operator,
    _ports: Ports,
}

impl std::ops::Deref for Site {
    type Target = Operator;

    fn deref(&self) -> &Operator {
        &self.operator
    }
}

impl Site {
    /// As many hubs, all of them ready.
    pub(crate) fn new(hubs: usize) -> Self {
        Self::with(hubs, "")
    }

    /// The same, with lines for the table `[hub.admission]` of each hub.
    pub(crate) fn with(hubs: usize, admission: &str) -> Self {
        Self::with_lines(hubs, "", admission)
    }

    /// The same, with lines for the table `[hub]` of each hub as well.
    pub(crate) fn with_lines(hubs: usize, lines: &str, admission: &str) -> Self {
        let (operator, redis) = (Operator::new(), RedisServer::start());
        let ports = Ports::new(hubs);
        // It makes the authority, without which no hub has an identity.
        let api = Program::start("api", write_api(&operator, &redis, &ports));
        let lines = (lines, admission);
        let start = |(at, ports)| start_hub(&operator, &redis, (at + 1, ports), lines);
        let hubs: Vec<_> = ports.hubs.iter().enumerate().map(start).collect();
        let (authority, token) =
            (operator.path("data/authority.pem"), operator.path("data/owner.token"));
        operator.login(&api.said("operator_url"), &authority, &token);
        let site = Self { hubs, api, redis, operator, _ports: ports };
        site.hubs.iter().for_each(Program::is_ready);
        site
    }

    /// Runs a scenario of the load harness against it, on a thread of its own.
    pub(crate) fn load(&self, scenario: &str, options: &[(&str, &str)]) -> JoinHandle<Report> {
        let ca = self.path("data/authority.pem").display().to_string();
        let (api, token) = (self.api.said("operator_url"), self.token());
        let own = [("--platform", "given"), ("--api", &*api), ("--ca", &*ca), ("--token", &*token)];
        // Only against hanging: what the last orders come to is waited for.
        let own = [&own[..], &[("--patience", "240")]].concat();
        let words = own.iter().chain(options).flat_map(|(name, value)| [*name, *value]);
        let cli = Cli::parse_from(["tocsin-loadtest", scenario].into_iter().chain(words));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let plan = cli.run.plan().unwrap_or_else(|error| panic!("{error}"));
            let options = cli.run.options(&plan).unwrap_or_else(|error| panic!("{error}"));
            let (live, drain) = (watch::Sender::new(Live::default()), Drain::new());
            let report = runtime.block_on(Box::pin(run::run(&plan, &options, &live, &drain)));
            report.unwrap_or_else(|error| panic!("{error:?}"))
        })
    }

    /// The operator's token.
    fn token(&self) -> String {
        let profile = fs::read_to_string(self.path("profile.toml")).expect("a profile");
        let profile: toml::Table = profile.parse().expect("TOML");
        profile["token"].as_str().expect("a token").to_owned()
    }

    /// Where the device has its session: the place of the hub, and the session.
    pub(crate) fn session(&self, device: &Device) -> Option<(usize, String)> {
        let ladder = device.status()?["ladder"].take();
        let address = ladder["address"].as_str()?.to_owned();
        let place = self.hubs.iter().position(|hub| address.ends_with(&hub.said("hub_addr")))?;
        (ladder["rung"] == "push").then_some(())?;
        Some((place, ladder["session_id"].as_str()?.to_owned()))
    }

    /// Waits until the device has a session with one of those hubs, and says with which.
    pub(crate) fn on_one_of(&self, device: &Device, hubs: &[usize]) -> usize {
        eventually(&format!("{} is on one of {hubs:?}", device.name), || {
            self.session(device).map(|(hub, _)| hub).filter(|hub| hubs.contains(hub))
        })
    }

    /// An order takes effect on each of those devices, once.
    pub(crate) fn obey(&self, devices: &[Device]) {
        self.obey_by("lock", devices);
    }

    /// The same, where a session must stay: one in which an urgent order is not acked within seconds is given up,
    /// and on a busy machine it is not.
    pub(crate) fn obey_in_bulk(&self, devices: &[Device]) {
        self.obey_by("refresh", devices);
    }

    fn obey_by(&self, verb: &str, devices: &[Device]) {
        for device in devices {
            let command = self.order(verb, &device.name);
            assert_eq!(self.ended(&command)["state"], "succeeded", "{}", device.name);
            assert_eq!(device.effects(&command), 1, "{}", device.name);
        }
    }

    /// Starts a hub again on the port that agents know.
    pub(crate) fn start_again(&mut self, hub: usize) {
        self.hubs[hub].start_again();
        self.hubs[hub].is_ready();
    }

    /// The folder of a hub's identity.
    pub(crate) fn identity(&self, hub: usize) -> PathBuf {
        self.path(&format!("hub-{}", hub + 1))
    }

    /// Makes a further identity for a hub, of so many days, in a folder of that name.
    pub(crate) fn issue(&self, hub: usize, days: &str, folder: &str) -> PathBuf {
        issue(&self.operator, hub + 1, days, folder)
    }
}

/// What everybody listens on, however often they are started.
struct Ports {
    /// The control plane's: for observation, operators, agents.
    api: [Held; 3],
    /// Each hub's: for observation, agents.
    hubs: Vec<[Held; 2]>,
}

impl Ports {
    fn new(hubs: usize) -> Self {
        let hubs = (0..hubs).map(|_| std::array::from_fn(|_| Held::new())).collect();
        Self { api: std::array::from_fn(|_| Held::new()), hubs }
    }
}

fn write_api(operator: &Operator, redis: &RedisServer, ports: &Ports) -> PathBuf {
    let [admin, operators, agents] = ports.api.each_ref().map(|port| port.addr().to_string());
    let hubs: Vec<_> =
        ports.hubs.iter().map(|[_, hub]| format!("https://{}", hub.addr())).collect();
    let text = format!(
        "admin_listen = {admin:?}\n[log]\nfilter = \"warn\"\n\
         [broker.redis]\nurls = [{:?}]\n\
         [api]\ndata_dir = {:?}\noperator_listen = {operators:?}\nagent_listen = {agents:?}\n\
         server_names = [\"127.0.0.1\"]\nhub_urls = {hubs:?}\ncheck_ins_per_min = 0\n",
        redis.url(),
        operator.path("data"),
    );
    let file = operator.path("api.toml");
    fs::write(&file, text).expect("the configuration is written");
    file
}

fn issue(operator: &Operator, number: usize, days: &str, folder: &str) -> PathBuf {
    let (data, out) = (operator.path("data"), operator.path(folder));
    let text = |path: &Path| path.display().to_string();
    let name = format!("hub-{number}");
    let made = ["issue-hub", "--name", &name, "--server-name", "127.0.0.1", "--days", days];
    operator.succeed(&[&made[..], &["--data", &text(&data), "--out", &text(&out)]].concat());
    out
}

fn start_hub(
    operator: &Operator,
    redis: &RedisServer,
    (number, ports): (usize, &[Held; 2]),
    (lines, admission): (&str, &str),
) -> Program {
    let name = format!("hub-{number}");
    let folder = issue(operator, number, "30", &name);
    let file = operator.path(&format!("{name}.toml"));
    let [admin, listen] = ports.each_ref().map(|port| port.addr().to_string());
    let text = format!(
        "admin_listen = {admin:?}\n[log]\nfilter = \"warn\"\n\
         [broker.redis]\nurls = [{:?}]\n\
         [tls]\ncertificate = {:?}\nkey = {:?}\nauthorities = {:?}\nreload_every = \"100ms\"\n\
         [hub]\nname = {name:?}\nlisten = {listen:?}\nprobe_every = \"200ms\"\n{lines}\
         [hub.admission]\nsource_per_sec = 0\ndevice_per_min = 0\n{admission}",
        redis.url(),
        folder.join(format!("{name}.crt")),
        folder.join(format!("{name}.key")),
        folder.join("authority.pem"),
    );
    fs::write(&file, text).expect("the configuration is written");
    Program::start("hub", file)
}
