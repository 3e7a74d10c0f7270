//! The authority of an installation is replaced while everything runs: a real control plane, a hub in
//! a process of its own, and devices whose sessions stay.
//!
//! The control plane's clock is so far behind that certificates are due for renewal when they are
//! issued, and valid still.

#[path = "support/operator.rs"]
#[expect(dead_code, reason = "shared with the tests of the whole path, which use the rest")]
mod operator;
#[path = "../../agent/tests/support/ports.rs"]
mod ports;
#[path = "support/program.rs"]
#[expect(dead_code, reason = "shared with the tests of many processes, which use the rest")]
mod program;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::{Api, Config, Deps};
use broker::RedisConfig;
use broker::fixture::RedisServer;
use nix::sys::signal::Signal;
use runtime::clock::ManualClock;
use runtime::{Clock, Drain, Entropy};

use crate::operator::{Device, Operator, eventually};
use crate::ports::Held;
use crate::program::Program;

const HOUR: Duration = Duration::from_secs(3600);

/// Everything of an installation; the folder goes last.
struct Site {
    runtime: tokio::runtime::Runtime,
    api: Option<Api>,
    config: Config,
    hand: ManualClock,
    hub: Option<Program>,
    redis: RedisServer,
    operator: Operator,
    ports: Ports,
}

/// What control plane and hub listen on, however often they are started.
struct Ports {
    operator: Held,
    agent: Held,
    hub: Held,
    hub_admin: Held,
}

impl Ports {
    fn new() -> Self {
        let [operator, agent, hub, hub_admin] = std::array::from_fn(|_| Held::new());
        Self { operator, agent, hub, hub_admin }
    }
}

impl std::ops::Deref for Site {
    type Target = Operator;

    fn deref(&self) -> &Operator {
        &self.operator
    }
}

impl Site {
    fn new() -> Self {
        let (operator, redis) = (Operator::new(), RedisServer::start());
        let ports = Ports::new();
        let config = Config {
            data_dir: operator.path("data"),
            operator_listen: ports.operator.addr(),
            agent_listen: ports.agent.addr(),
            server_names: vec!["127.0.0.1".to_owned()],
            hub_urls: vec![format!("https://{}", ports.hub.addr())],
            check_ins_per_min: 0,
            device_certificate: HOUR,
            ..Config::default()
        };
        let hand = ManualClock::new();
        let ago = u64::try_from((HOUR * 3 / 4).as_millis()).expect("a time");
        hand.set_unix_millis(Clock::system().unix_millis() - ago);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let mut site = Self { runtime, api: None, config, hand, hub: None, redis, operator, ports };
        site.start_api();
        let api = site.api.as_mut().expect("it runs");
        let first = api.first_start.take().expect("a first start");
        let token = site.operator.path("owner.token");
        fs::write(&token, first.token.expose()).expect("the folder is ours");
        site.login();
        site.issue_hub("hub");
        site.start_hub();
        site
    }

    fn start_api(&mut self) {
        let broker = RedisConfig { urls: vec![self.redis.url()], ..RedisConfig::default() };
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let config = self.config.clone();
        let deps = Deps {
            broker: {
                let _inside = self.runtime.enter();
                let broker = broker::RedisBroker::connect(broker, clock, entropy.clone());
                Arc::new(broker.expect("sound settings"))
            },
            clock: self.hand.clock(),
            entropy,
            drain: Drain::new(),
        };
        let api = self.runtime.block_on(Api::start(config, deps)).expect("it starts");
        let trusted = api.authority().trusted_pem();
        fs::write(self.operator.path("data/authority.pem"), trusted).expect("the folder is ours");
        self.api = Some(api);
    }

    fn restart_api(&mut self) {
        let api = self.api.take().expect("it runs");
        self.runtime.block_on(api.drain(Duration::from_secs(5))).expect("it ends well");
        self.start_api();
    }

    /// Makes an identity for the hub in that folder.
    fn issue_hub(&self, folder: &str) -> PathBuf {
        let (data, out) = (self.path("data"), self.path(folder));
        let (data, path) = (data.display().to_string(), out.display().to_string());
        let name = ["--name", "hub-1", "--server-name", "127.0.0.1"];
        self.succeed(&[&["issue-hub", "--data", &data, "--out", &path], &name[..]].concat());
        out
    }

    /// Writes the hub's settings, with these among its own.
    fn configure_hub(&self, settings: &str) -> PathBuf {
        let (file, folder) = (self.path("hub.toml"), self.path("hub"));
        let text = format!(
            "admin_listen = \"{}\"\n[log]\nfilter = \"warn\"\n\
             [broker.redis]\nurls = [{:?}]\n\
             [tls]\ncertificate = {:?}\nkey = {:?}\nauthorities = {:?}\nreload_every = \"100ms\"\n\
             [hub]\nname = \"hub-1\"\nlisten = \"{}\"\n{settings}\
             [hub.admission]\nsource_per_sec = 0\ndevice_per_min = 0\n",
            self.ports.hub_admin.addr(),
            self.redis.url(),
            folder.join("hub-1.crt"),
            folder.join("hub-1.key"),
            folder.join("authority.pem"),
            self.ports.hub.addr(),
        );
        fs::write(&file, text).expect("the configuration is written");
        file
    }

    fn start_hub(&mut self) {
        let hub = Program::start("hub", self.configure_hub(""));
        hub.is_ready();
        self.hub = Some(hub);
    }

    fn hub(&self) -> &Program {
        self.hub.as_ref().expect("it runs")
    }

    /// Takes a step, and restarts the control plane.
    fn step(&mut self, verb: &str) {
        let data = self.path("data").display().to_string();
        self.succeed(&["authority", verb, "--data", &data]);
        self.restart_api();
        self.login();
    }

    fn login(&self) {
        let url = format!("https://127.0.0.1:{}", self.config.operator_listen.port());
        let (authority, token) = (self.path("data/authority.pem"), self.path("owner.token"));
        self.operator.login(&url, &authority, &token);
    }

    /// Moves files over the hub's own, and waits until it has taken them.
    fn give_hub(&self, names: &[(PathBuf, &str)]) {
        let taken = || self.hub().metric("tocsin_push_hub_identities_total", "\"taken\"");
        let before = taken();
        for (from, name) in names {
            let fresh = self.path("hub").join("fresh");
            fs::copy(from, &fresh).expect("it can be read");
            fs::rename(&fresh, self.path("hub").join(name)).expect("one file system");
        }
        eventually("the hub takes it", || (taken() > before).then_some(()));
    }

    fn order_ends(&self, device: &Device) {
        let command = self.order("lock", &device.name);
        assert_eq!(self.ended(&command)["state"], "succeeded");
        assert_eq!(device.effects(&command), 1);
    }
}

/// How many authorities the device trusts, and the last certificate of its own chain.
fn trust(device: &Device) -> (usize, String) {
    let enrollment = device.enrollment();
    let text = |key: &str| enrollment[key].as_str().expect("PEM").to_owned();
    let count = text("ca").matches("BEGIN").count();
    let chain = text("certificate");
    let last = chain.rfind("-----BEGIN").expect("a certificate");
    (count, chain[last..].trim().to_owned())
}

fn session(device: &Device) -> String {
    eventually("a session", || {
        let status = device.status()?;
        (status["ladder"]["rung"] == "push").then_some(())?;
        status["ladder"]["session_id"].as_str().map(str::to_owned)
    })
}

/// The device renews its certificate as soon as it starts; a session that must stay is another's.
fn renewed(device: &mut Device, trusted: usize, issuer: &str) {
    device.kill();
    device.start();
    eventually("it has renewed", || {
        let (count, by) = trust(device);
        (count == trusted && by == issuer).then_some(())
    });
}

#[test]
fn f17_authority_is_replaced_while_every_session_stays() {
    let mut site = Site::new();
    let issuer = |site: &Site| {
        let pem = fs::read_to_string(site.path("data/ca.crt")).expect("it is there");
        pem.trim().to_owned()
    };
    let former = issuer(&site);
    let (steady, mut roving) = (site.device("web-1"), site.device("web-2"));
    let begun = session(&steady);
    assert_eq!(trust(&roving), (1, former.clone()));
    roving.kill();
    let copy = roving.snapshot();

    site.step("prepare");
    site.give_hub(&[(site.path("data/authority.pem"), "authority.pem")]);
    assert_eq!(issuer(&site), former, "it issues as before");
    renewed(&mut roving, 2, &former);

    site.step("switch");
    let present = issuer(&site);
    assert_ne!(present, former);
    let fresh = site.issue_hub("hub-of-the-next");
    let files = ["hub-1.key", "hub-1.crt", "authority.pem"].map(|name| (fresh.join(name), name));
    site.give_hub(&files);
    renewed(&mut roving, 2, &present);
    site.order_ends(&roving);
    let enrolled = site.device("web-3");
    assert_eq!(trust(&enrolled), (2, present.clone()));
    site.order_ends(&enrolled);

    site.step("retire");
    site.give_hub(&[(site.path("data/authority.pem"), "authority.pem")]);
    renewed(&mut roving, 1, &present);
    site.order_ends(&roving);
    site.order_ends(&steady);
    assert_eq!(session(&steady), begun, "the session of the very begin");
    assert_eq!(site.events("authority_changed").len(), 1);

    // Its limits are read again as well, and the session of the very begin stays.
    site.configure_hub("heartbeat = \"0s\"\n");
    site.hub().signal(Signal::SIGHUP);
    site.configure_hub("websocket = false\n");
    site.hub().signal(Signal::SIGHUP);
    let polling = site.device("web-4");
    eventually("a long-poll", || (polling.rung()? == "long_poll").then_some(()));
    assert_eq!(session(&steady), begun);

    // What the former issued is worth nothing any more.
    roving.kill();
    roving.put_back(&copy);
    let refused = || site.hub().metric("tocsin_push_hub_connections_total", "\"handshake\"");
    let before = refused();
    roving.start();
    eventually("the hub refuses it", || (refused() > before).then_some(()));
    let waiting = site.order("lock", "web-2");
    assert_ne!(site.command(&waiting)["state"], "succeeded");
}
