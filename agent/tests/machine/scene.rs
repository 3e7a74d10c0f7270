//! A machine with an armed agent on it, and its hub outside.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::process::Command;

use agent::config::Config;
use protocol::action::{Action, RunScript};
use protocol::escrow::{self, Credential};
use protocol::frame::{AgentFrame, CommandFrame, HubFrame};
use protocol::notice::{self, Notice};
use protocol::offline::OfflineSecret;
use protocol::proof::{self, Proof};
use protocol::receipt::{Evidence, Failure, Outcome, Receipt};
use protocol::sealed::CaseSecret;

use crate::bench::{BRIDGE, Bench, confirmed};
use crate::container::Machine;
use crate::disk::Disk;
use crate::server::{Call, HubSide, Server, greeting};

/// Everybody's password.
pub(crate) const PASSWORD: &str = "open-sesame";
/// The units that the agent's package brings.
pub(crate) const UNITS: [&str; 6] = [
    "tocsin-agent.service",
    "tocsin-reassert.service",
    "tocsin-agent-watch.service",
    "tocsin-agent-watch.timer",
    "tocsin-console.service",
    "tocsin-console.path",
];
/// Those of them that it enables.
pub(crate) const ENABLED: [&str; 5] = [
    "tocsin-agent.service",
    "tocsin-reassert.service",
    "tocsin-agent-watch.timer",
    "tocsin-console.service",
    "tocsin-console.path",
];

/// What a scene is played on: a disk, and something that runs from it.
pub(crate) trait Body: Deref<Target = Disk> {
    /// The newest lines of its journal, while it runs.
    fn journal(&self) -> String;
}

/// One device with its organisation.
pub(crate) struct Scene<M = Machine> {
    pub(crate) machine: M,
    device: Bench,
    server: Server,
    session: Option<HubSide>,
    orders: u8,
}

impl Scene {
    /// A machine that is off: people with homes and keys, and an enrolled agent that is armed.
    pub(crate) async fn new(break_glass: &str) -> Self {
        Self::on(Machine::new(), break_glass).await
    }
}

impl<M: Body> Scene<M> {
    /// The same on that machine.
    pub(crate) async fn on(machine: M, break_glass: &str) -> Self {
        let scene = Self::without_agent(machine).await;
        scene.install();
        scene.enroll();
        scene.configure(break_glass, "from_break_glass");
        scene
    }

    /// A machine that is off, with people and nothing of the agent.
    pub(crate) async fn without_agent(machine: M) -> Self {
        people(&machine);
        let device = Bench::new();
        let server = device.server_at(format!("{BRIDGE}:0").parse().unwrap()).await;
        Self { machine, device, server, session: None, orders: 0 }
    }

    /// Puts the agent and its units where the package puts them.
    fn install(&self) {
        let machine = &self.machine;
        fs::copy(env!("CARGO_BIN_EXE_tocsin-agent"), machine.path("/usr/bin/tocsin-agent"))
            .unwrap();
        for unit in UNITS {
            let text = fs::read_to_string(source(&format!("config/{unit}"))).unwrap();
            machine.write(&format!("/usr/lib/systemd/system/{unit}"), &text, 0o644);
        }
        for unit in ENABLED {
            machine.offline(&["systemctl", "enable", unit]);
        }
    }

    /// Puts the agent's state where the enrollment puts it.
    pub(crate) fn enroll(&self) {
        let state = self.device.config.state_dir.join(".");
        let place = self.machine.path("/var/lib/tocsin-agent");
        let copied = Command::new("cp").arg("-a").arg(state).arg(place).status().unwrap();
        assert!(copied.success());
        self.machine.offline(&["chmod", "0700", "/var/lib/tocsin-agent"]);
    }

    /// Writes the agent's configuration.
    pub(crate) fn configure(&self, break_glass: &str, superuser: &str) {
        let address = self.server.address;
        let text = format!(
            "[host]\narming = \"armed\"\nbreak_glass = [\"{break_glass}\"]\n\
             superuser = \"{superuser}\"\n\
             [addresses]\nhubs = [\"{address}\"]\napi = [\"{address}\"]\n\
             [ladder]\nbackoff_base = \"50ms\"\nbackoff_cap = \"1s\"\nuphold = \"1s\"\n"
        );
        let _: Config = toml::from_str(&text).unwrap();
        self.machine.write("/etc/tocsin/agent.toml", &text, 0o600);
    }

    /// Where hub and control plane are.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Gives an order and waits for its signed outcome, over however many sessions.
    pub(crate) async fn order(&mut self, action: Action) -> Receipt {
        self.orders += 1;
        let command = self.device.command(self.orders, action, u64::from(self.orders));
        self.deliver(&command).await
    }

    /// The same with a code that ends it.
    pub(crate) async fn order_with_code(
        &mut self,
        action: Action,
        secret: &OfflineSecret,
    ) -> Receipt {
        self.orders += 1;
        let number = self.orders;
        let mut envelope = self.device.envelope(number, action, number.into());
        let (device, code) = (envelope.aud, secret.code(&envelope.aud));
        envelope.manifest.offline_codes.insert(device, code.commitment(&device));
        let command = self.device.organisation.deliver(&envelope, 0);
        self.deliver(&command).await
    }

    /// The same with a script, which Alice has approved.
    pub(crate) async fn order_script(&mut self, run: RunScript, script: &str) -> Receipt {
        self.orders += 1;
        let number = self.orders;
        let mut envelope = self.device.envelope(number, Action::RunScript(run), number.into());
        envelope.script = Some(script.to_owned());
        let organisation = &self.device.organisation;
        let approved = organisation.approved(envelope, &[&organisation.alice]);
        let command = organisation.deliver(&approved, 0);
        self.deliver(&command).await
    }

    /// Gives an order that two persons have approved, and waits until the machine has it on its
    /// disk; what comes of it is asked for later.
    pub(crate) async fn give(&mut self, action: Action) -> CommandFrame {
        self.orders += 1;
        let number = self.orders;
        let organisation = &self.device.organisation;
        let approvers = [&organisation.alice, &organisation.bob];
        let envelope = self.device.envelope(number, action, number.into());
        let command = organisation.deliver(&organisation.approved(envelope, &approvers), 0);
        loop {
            let mut hub = self.hub().await;
            if is_taken(&mut hub, &command).await {
                return command;
            }
        }
    }

    /// The session at hand, or the next one. It may be over: this hub says nothing that it is not told to, so
    /// that an agent gives a session up that nobody looks at.
    async fn hub(&mut self) -> HubSide {
        match self.session.take() {
            Some(hub) => hub,
            None => self.server.session().await,
        }
    }

    /// Whether the device says, in a session of its own for that, that a wipe of it is provable.
    pub(crate) async fn is_provable(&mut self) -> bool {
        drop(self.session.take());
        let hub = self.hub().await;
        let is_provable = hub.hello.capabilities.iter().any(|word| word == "encrypted_volume");
        self.session = Some(hub);
        is_provable
    }

    /// The signed outcome of an order that was given, confirmed.
    pub(crate) async fn outcome(&mut self, command: &CommandFrame) -> Receipt {
        self.deliver(command).await
    }

    /// The proof of the keys that leaves before a wipe goes on, confirmed.
    pub(crate) async fn proof(&mut self, command: &CommandFrame) -> Proof {
        self.next_proof(command, true).await
    }

    /// The same, and the wipe does not go on as long as the machine may wait.
    pub(crate) async fn unconfirmed_proof(&mut self, command: &CommandFrame) -> Proof {
        self.next_proof(command, false).await
    }

    async fn next_proof(&mut self, command: &CommandFrame, is_confirmed: bool) -> Proof {
        loop {
            let mut hub = self.hub().await;
            while let Some(frame) = hub.next().await {
                let AgentFrame::Proof { command_id, jws } = &frame else { continue };
                assert_eq!(*command_id, command.command_id);
                if is_confirmed {
                    hub.send(HubFrame::Confirmed { receipts: vec![jws.sha256()] }).await;
                }
                self.session = Some(hub);
                return proof::verify(jws, &self.device.key).unwrap();
            }
        }
    }

    /// Confirms, as the control plane itself, what the device brings into escrow for an order, and reads it as the
    /// holder of nines. Not when the order ends without.
    pub(crate) async fn escrow(&mut self, command: &CommandFrame) -> Vec<Credential> {
        let mut brought = Vec::new();
        while brought.is_empty() {
            // Whatever session there is ends, so that the device says here how it went.
            let Call::Exchange { frames, answer, .. } = self.server.call().await else { continue };
            let mut said = vec![greeting()];
            for frame in frames {
                if let AgentFrame::Escrow { jws, .. } = &frame {
                    said.push(HubFrame::Confirmed { receipts: vec![jws.sha256()] });
                    let escrow = escrow::verify(jws, &self.device.key).unwrap();
                    assert_eq!(escrow.command_id, command.command_id);
                    brought = escrow::open(&escrow, &CaseSecret::new([9; 32])).unwrap();
                }
                if let AgentFrame::Receipt { command_id, .. } = &frame {
                    let ended = *command_id == command.command_id;
                    assert!(!ended, "nothing was escrowed: {:?}", self.device.receipt(&frame));
                }
            }
            drop(answer.send(said));
        }
        brought
    }

    /// What the machine says unasked about the effect of an order, confirmed.
    pub(crate) async fn notice(&mut self) -> Notice {
        loop {
            let mut hub = match self.session.take() {
                Some(hub) => hub,
                None => self.server.session().await,
            };
            while let Some(frame) = hub.next().await {
                let AgentFrame::Notice { jws, .. } = &frame else { continue };
                hub.send(HubFrame::Confirmed { receipts: vec![jws.sha256()] }).await;
                self.session = Some(hub);
                return notice::verify(jws, &self.device.key).unwrap();
            }
        }
    }

    async fn deliver(&mut self, command: &CommandFrame) -> Receipt {
        loop {
            let mut hub = self.hub().await;
            if let Some(receipt) = answer(&mut hub, command).await {
                self.session = Some(hub);
                return self.device.receipt(&receipt);
            }
        }
    }

    /// An order that must succeed: what it is proven with.
    pub(crate) async fn proven(&mut self, action: Action) -> Evidence {
        let outcome = self.order(action).await.outcome;
        let Outcome::Succeeded { evidence } = outcome else {
            panic!("{outcome:?}\n{}", self.machine.journal());
        };
        evidence
    }

    /// An order that must fail.
    pub(crate) async fn failure(&mut self, action: Action) -> Failure {
        let outcome = self.order(action).await.outcome;
        let Outcome::Failed { failure, .. } = outcome else {
            panic!("{outcome:?}\n{}", self.machine.journal());
        };
        failure
    }
}

/// Sends a command and gives its receipt, confirmed; `None` when the session ends first.
async fn answer(hub: &mut HubSide, command: &CommandFrame) -> Option<AgentFrame> {
    hub.send(HubFrame::Command(command.clone())).await;
    loop {
        let frame = hub.next().await?;
        let is_it = matches!(&frame, AgentFrame::Receipt { command_id, .. } if *command_id == command.command_id);
        if is_it {
            hub.send(confirmed(&frame)).await;
            return Some(frame);
        }
    }
}

/// Sends a command and says whether the device has it; not when the session ends first.
async fn is_taken(hub: &mut HubSide, command: &CommandFrame) -> bool {
    hub.send(HubFrame::Command(command.clone())).await;
    while let Some(frame) = hub.next().await {
        let (AgentFrame::Ack { command_id } | AgentFrame::Receipt { command_id, .. }) = &frame
        else {
            continue;
        };
        if *command_id == command.command_id {
            return true;
        }
    }
    false
}

/// Alice and carol are people, bob had been locked before, rescue is break-glass and may become
/// anybody, web is an account of a service.
pub(crate) fn people(machine: &Disk) {
    for user in ["alice", "bob", "carol", "rescue"] {
        machine.offline(&["useradd", "--create-home", "--shell", "/bin/bash", user]);
        machine.authorise(user, &format!("/home/{user}"));
    }
    machine.authorise("root", "/root");
    machine.offline(&["useradd", "--system", "--shell", "/bin/sh", "web"]);
    let passwords: String = ["root", "alice", "bob", "carol", "rescue"]
        .map(|user| format!("{user}:{PASSWORD}\n"))
        .concat();
    machine.write("/root/passwords", &passwords, 0o600);
    machine.offline(&["sh", "-c", "chpasswd < /root/passwords && rm /root/passwords"]);
    machine.offline(&["usermod", "--lock", "--expiredate", "2", "bob"]);
    machine.offline(&["usermod", "--expiredate", "2035-01-01", "carol"]);
    machine.write("/etc/sudoers.d/rescue", "rescue ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440);
    machine.write("/etc/ssh/sshd_config.d/bench.conf", "PermitRootLogin yes\n", 0o644);
}

/// A file of the source tree.
pub(crate) fn source(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
