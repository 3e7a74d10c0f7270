//! An installation of many processes: hubs, nodes of the control plane, devices, and real servers
//! of PostgreSQL and Redis, on loopback and in a folder that goes away with the test.
//!
//! Owns making it and its links. Every process is the program that people run, with a file that
//! people could have written.

use std::fs;
use std::path::{Path, PathBuf};

use api::fixture::PostgresServer;
use runtime::fixture::{Far, Relay};

use crate::bus::Bus;
use crate::fault::Parts;
use crate::operator::{Device, Operator};
use crate::ports::Held;
use crate::program::Program;

/// What agents are told to do differently from real ones: to come back much faster.
const API: &str = "server_names = [\"127.0.0.1\"]\ncheck_ins_per_min = 0\nenrolls_per_min = 0\n";
const HUB: &str = "poll_hold = \"1s\"\ndrain_spread = \"1s\"\n";
const ADMISSION: &str = "[hub.admission]\ndevice_per_min = 0\nsource_per_sec = 0\n";
const COMMON: &str = "drain_deadline = \"10s\"\n[log]\nfilter = \"off\"\n";

/// The installation. Fields end in the order in which they are declared: clients before servers.
pub(crate) struct Cluster {
    pub(crate) devices: Vec<Device>,
    pub(crate) hubs: Vec<Program>,
    pub(crate) apis: Vec<Program>,
    /// Before each hub, where its agents connect.
    pub(crate) doors: Vec<Relay>,
    pub(crate) store_link: Relay,
    pub(crate) bus: Bus,
    pub(crate) store: PostgresServer,
    /// At each node of the control plane, with a folder of its own.
    pub(crate) operators: Vec<Operator>,
    _ports: Ports,
}

/// What everybody listens on, however often they are started.
struct Ports {
    /// Each node's: for observation, operators, agents.
    apis: Vec<[Held; 3]>,
    /// Each hub's: for observation, agents.
    hubs: Vec<[Held; 2]>,
}

impl Ports {
    fn new(parts: Parts) -> Self {
        let apis = (0..parts.apis).map(|_| std::array::from_fn(|_| Held::new())).collect();
        let hubs = (0..parts.hubs).map(|_| std::array::from_fn(|_| Held::new())).collect();
        Self { apis, hubs }
    }
}

impl Cluster {
    /// Makes it, and waits until every device is online.
    pub(crate) async fn start(parts: Parts) -> Self {
        let operators: Vec<_> = (0..parts.apis).map(|_| Operator::new()).collect();
        let bus = Bus::start(parts).await;
        let store = PostgresServer::start();
        let store_link = Relay::start(Far::Unix(store.socket())).await;
        let url = store.database_behind(store_link.addr).await;
        let ports = Ports::new(parts);
        let mut doors = Vec::new();
        for [_, hub] in &ports.hubs {
            doors.push(Relay::start(hub.addr()).await);
        }
        let hub_urls = doors.iter().map(|door| format!("https://{}", door.addr)).collect();
        let maker = Maker { operators: &operators, bus: &bus, ports: &ports, url, hub_urls };

        // The first node makes the keys, without which neither hubs nor other nodes have an identity.
        let mut apis = vec![maker.node(0)];
        let hubs = (0..parts.hubs).map(|at| maker.hub(at)).collect();
        apis.extend((1..parts.apis).map(|at| maker.node(at)));
        let mut cluster = Self {
            devices: Vec::new(),
            hubs,
            apis,
            doors,
            store_link,
            bus,
            store,
            operators,
            _ports: ports,
        };
        for at in 0..parts.agents {
            let mut device = cluster.operators[0].enroll(&format!("web-{at}"));
            device.set_clock(0);
            device.start();
            cluster.devices.push(device);
        }
        cluster.all_online();
        cluster
    }

    /// Puts a fresh identity in the place of a hub's, as an administrator would.
    pub(crate) fn exchange_certificate(&self, hub: usize) {
        let own = self.operators[0].path(&format!("tls-{hub}"));
        let fresh = self.operators[0].path(&format!("tls-{hub}-fresh"));
        drop(fs::remove_dir_all(&fresh));
        issue(&self.operators[0], hub, &format!("tls-{hub}-fresh"));
        for file in [format!("hub-{hub}.key"), format!("hub-{hub}.crt")] {
            fs::rename(fresh.join(&file), own.join(&file)).expect("one file system");
        }
    }

    /// Every device is reachable by push, and every node sees it.
    pub(crate) fn all_online(&self) {
        for operator in &self.operators {
            for device in &self.devices {
                operator.online(&device.name);
            }
        }
    }
}

/// What every process of the installation is made from.
struct Maker<'a> {
    operators: &'a [Operator],
    bus: &'a Bus,
    ports: &'a Ports,
    url: String,
    hub_urls: Vec<String>,
}

impl Maker<'_> {
    fn api_file(&self, at: usize) -> PathBuf {
        let file = self.operators[at].path("api.toml");
        let [admin, operators, agents] = self.ports.apis[at].each_ref().map(Held::addr);
        let text = format!(
            "admin_listen = \"{admin}\"\n{COMMON}{}[api]\nnode = \"api-{at}\"\ndata_dir = {:?}\n\
             operator_listen = \"{operators}\"\nagent_listen = \"{agents}\"\nhub_urls = {:?}\n{API}\
             [api.database]\nurl = {:?}\n",
            self.bus.table(&format!("api-{at}")),
            self.operators[at].path("data"),
            self.hub_urls,
            self.url
        );
        fs::write(&file, text).expect("the folder is ours");
        file
    }

    /// A running node, to which its operator has signed in.
    fn node(&self, at: usize) -> Program {
        let operator = &self.operators[at];
        if at > 0 {
            fs::create_dir_all(operator.path("data")).expect("the folder is ours");
            for file in ["ca.crt", "ca.key", "command.key", "vault.key"] {
                let of_first = self.operators[0].path("data").join(file);
                fs::copy(of_first, operator.path("data").join(file)).expect("it has its keys");
            }
        }
        let api = Program::start("api", self.api_file(at));
        let token = self.operators[0].path("data/owner.token");
        operator.login(&api.said("operator_url"), Path::new(&api.said("authority")), &token);
        api
    }

    fn hub_file(&self, at: usize) -> PathBuf {
        let [admin, listen] = self.ports.hubs[at].each_ref().map(Held::addr);
        let tls = self.operators[0].path(&format!("tls-{at}"));
        let file = self.operators[0].path(&format!("hub-{at}.toml"));
        let text = format!(
            "admin_listen = \"{admin}\"\n{COMMON}[tls]\ncertificate = {:?}\nkey = {:?}\nauthorities = {:?}\n\
             reload_every = \"200ms\"\n{}[hub]\nname = \"hub-{at}\"\nlisten = \"{listen}\"\n\
             {HUB}{ADMISSION}",
            tls.join(format!("hub-{at}.crt")),
            tls.join(format!("hub-{at}.key")),
            tls.join("authority.pem"),
            self.bus.table(&format!("hub-{at}")),
        );
        fs::write(&file, text).expect("the folder is ours");
        file
    }

    /// A running hub, with an identity from the first node.
    fn hub(&self, at: usize) -> Program {
        issue(&self.operators[0], at, &format!("tls-{at}"));
        Program::start("hub", self.hub_file(at))
    }
}

fn issue(operator: &Operator, hub: usize, folder: &str) {
    let text = |path: PathBuf| path.display().to_string();
    let (data, out) = (text(operator.path("data")), text(operator.path(folder)));
    let name = format!("hub-{hub}");
    let made = ["issue-hub", "--name", &name, "--server-name", "127.0.0.1"];
    operator.succeed(&[&made[..], &["--data", &data, "--out", &out]].concat());
}
