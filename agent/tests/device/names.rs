//! A quarantined device whose hub and control plane are configured by name: the name service is cut
//! off like everybody else, and neither a restart nor a reboot of the device costs it its way back.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use agent::addresses::AddressBook;
use nix::sched::{CloneFlags, unshare};
use protocol::action::{self, Action};
use protocol::fixture::device;
use protocol::frame::{AgentFrame, CHECK_IN_PATH, HubFrame};
use protocol::receipt::Outcome;
use runtime::tls::ClientAuth;

use crate::bench::{Bench, confirmed};
use crate::netns::{ELSEWHERE, HUB, Lan, Netns};
use crate::plans::hash_of;
use crate::server::{Server, greeting};

pub(crate) const HUB_NAME: &str = "hub.example";
const API_NAME: &str = "api.example";

/// A name service at that address of the machine that calls it. It knows two names.
fn serve_names(address: &str) {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&answer(&question[..length]), from);
        }
    });
}

/// The address of the name that is asked for, where it is one of IPv4 (RFC 1035, section 4.1).
fn answer(question: &[u8]) -> Vec<u8> {
    let labels: Vec<&[u8]> = {
        let (mut labels, mut rest) = (Vec::new(), &question[12..]);
        while let Some((length, tail)) = rest.split_first().filter(|(length, _)| **length > 0) {
            labels.push(&tail[..usize::from(*length)]);
            rest = &tail[usize::from(*length)..];
        }
        labels
    };
    let end = 12 + labels.iter().map(|label| label.len() + 1).sum::<usize>() + 5;
    let is_of_v4 = question[end - 4..end] == [0, 1, 0, 1];
    let address = match &*labels.join(&b'.') {
        name if name == HUB_NAME.as_bytes() => Some(HUB[0]),
        name if name == API_NAME.as_bytes() => Some(ELSEWHERE[0]),
        _ => None,
    };
    let address: Option<Ipv4Addr> = address.map(|address| address.parse().unwrap());
    let listed = address.filter(|_| is_of_v4);
    // One that is not known does not exist; one without such an address has none.
    let code = if address.is_some() { 0 } else { 3 };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(listed.is_some()), 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    if let Some(address) = listed {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// A running agent.
pub(crate) struct Agent(Child);

impl Agent {
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn has_succeeded(mut self) -> bool {
        self.0.wait().unwrap().success()
    }
}

/// The machine that it runs on.
pub(crate) struct Endpoint {
    pub(crate) machine: Netns,
    config: PathBuf,
    state: PathBuf,
}

impl Endpoint {
    /// A machine that asks that name service and no other.
    pub(crate) fn new(machine: Netns, bench: &Bench, port: u16) -> Self {
        let folder = bench.config.state_dir.parent().unwrap();
        let (config, root) = (folder.join("agent.toml"), folder.join("root"));
        fs::create_dir(&root).unwrap();
        let text = format!(
            "[host]\narming = \"sandboxed\"\nroot = {root:?}\ndbus = \"\"\n\
             power = {{ record = {:?} }}\n\
             [addresses]\nhubs = [\"{HUB_NAME}:{port}\"]\napi = [\"https://{API_NAME}:{port}\"]\n\
             [ladder]\nbackoff_base = \"20ms\"\nbackoff_cap = \"200ms\"\ncheck_in = \"200ms\"\n\
             check_in_running = \"200ms\"\n",
            bench.power_log(),
        );
        fs::write(&config, text).unwrap();
        let resolv = folder.join("resolv.conf");
        fs::write(&resolv, format!("nameserver {}\n", HUB[0])).unwrap();
        machine.run(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(&["--make-rprivate", "/"]);
            mount(&["--bind", resolv.to_str().unwrap(), "/etc/resolv.conf"]);
        });
        Self { machine, config, state: bench.config.state_dir.clone() }
    }

    pub(crate) fn agent(&self, verb: &'static str) -> Agent {
        let (config, state) = (self.config.clone(), self.state.clone());
        self.machine.run(move || {
            // It goes with the machine, however this test ends.
            let mut agent = Command::new("setpriv");
            agent.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_tocsin-agent"), verb]);
            agent.arg("--config").arg(config).arg("--state").arg(state);
            Agent(agent.stdout(Stdio::null()).spawn().unwrap())
        })
    }

    fn has_names(&self) -> bool {
        self.machine.try_command("getent", &["ahostsv4", HUB_NAME]).0
    }

    pub(crate) fn tables(&self) -> String {
        self.machine.command("nft", &["list", "tables"])
    }
}

fn mount(words: &[&str]) {
    assert!(Command::new("mount").args(words).status().unwrap().success(), "mount {words:?}");
}

/// A server of that name.
pub(crate) async fn server(bench: &Bench, name: &str, address: SocketAddr) -> Server {
    let tls = bench.tls_named(&[name], ClientAuth::Required(bench.ca()));
    Server::listen(address, tls).await
}

/// Quarantined by names, then restarted, rebooted, and with no hub left: then released.
async fn comes_back(endpoint: Netns) {
    let bench = Bench::new();
    let mut hub = server(&bench, HUB_NAME, format!("{}:0", HUB[0]).parse().unwrap()).await;
    let port = hub.address.port();
    // On the same port, so that no address shows by itself whose it is.
    let at: SocketAddr = format!("{}:{port}", ELSEWHERE[0]).parse().unwrap();
    let mut api = server(&bench, API_NAME, at).await;
    let endpoint = Endpoint::new(endpoint, &bench, port);
    assert!(endpoint.has_names());

    let agent = endpoint.agent("run");
    let mut session = hub.session().await;
    let order = action::Quarantine { allow: Vec::new(), resolver: false, until: None };
    let order = Action::Quarantine(order);
    let plan = Action::Plan(action::Plan { of: Box::new(order.clone()) });
    session.send(HubFrame::Command(bench.command(3, plan, 1))).await;
    let receipt = session.receipt().await;
    let outcome = bench.receipt(&receipt).outcome;
    let Outcome::Succeeded { evidence } = outcome else { panic!("{outcome:?}") };
    session.send(confirmed(&receipt)).await;

    let mut order = bench.envelope(1, order, 2);
    order.manifest.plans.insert(device(1), hash_of(&evidence));
    session.send(HubFrame::Command(bench.organisation.deliver(&order, 0))).await;
    let is_its = |frame: &AgentFrame| matches!(frame, AgentFrame::Receipt { command_id, .. } if *command_id == order.jti);
    let receipt = session.wait_for(is_its).await;
    let outcome = bench.receipt(&receipt).outcome;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    session.send(confirmed(&receipt)).await;
    assert!(!endpoint.has_names(), "the name service is cut off");

    // The agent is killed.
    agent.kill();
    drop(session);
    let agent = endpoint.agent("run");
    drop(hub.session().await);

    // The machine reboots: no table and no process is left, and the tables come before the agent.
    agent.kill();
    endpoint.machine.command("nft", &["flush", "ruleset"]);
    assert!(endpoint.has_names());
    assert!(endpoint.agent("reassert").has_succeeded());
    assert!(!endpoint.has_names());
    let agent = endpoint.agent("run");
    let _session = hub.session().await;

    // Every hub is gone, and the control plane is a place where this device has never been.
    agent.kill();
    drop(hub);
    let agent = endpoint.agent("run");
    let (_, answer) = api.exchange(CHECK_IN_PATH).await;
    assert!(endpoint.tables().contains("tocsin") && !endpoint.has_names());
    let release = bench.command(2, Action::Release(action::Release {}), 3);
    drop(answer.send(vec![greeting(), HubFrame::Command(release)]));
    let receipt = api.receipt(CHECK_IN_PATH).await;
    let outcome = bench.receipt(&receipt).outcome;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    assert_eq!(endpoint.tables(), "");
    assert!(endpoint.has_names());
    agent.kill();
    let book = AddressBook::open(&endpoint.state);
    for (name, address) in [(HUB_NAME, HUB[0]), (API_NAME, ELSEWHERE[0])] {
        let at: SocketAddr = format!("{address}:{port}").parse().unwrap();
        assert_eq!(book.known(&format!("{name}:{port}")), [at]);
    }
}

/// Plays a scene with that endpoint, on the machine that is everybody else.
pub(crate) fn on_a_lan<F: Future<Output: Send> + 'static>(scene: fn(Netns) -> F) -> F::Output {
    let Lan { endpoint, peer } = Lan::new();
    peer.run(move || {
        serve_names(HUB[0]);
        // Its threads live in the namespace of this one.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(scene(endpoint))
    })
}

#[test]
fn quarantined_device_finds_hub_and_control_plane_by_name_after_restart_and_reboot() {
    on_a_lan(comes_back);
}
