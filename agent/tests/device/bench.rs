//! A device on a bench: its state directory, its organisation, and the agent on it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::config::{ArmingConfig, Config, PowerConfig};
use agent::identity::{KeyPair, KeyPlace};
use agent::journal::Journal;
use agent::state::{Enrollment, StateDir, TrustChain};
use agent::{Agent, Deps};
use protocol::action::Action;
use protocol::enrollment::AgentConfig;
use protocol::envelope::Envelope;
use protocol::fixture::{Organisation, device};
use protocol::frame::{AgentFrame, CommandFrame, HubFrame};
use protocol::key::DevicePublicKey;
use protocol::receipt::{self, Outcome, Receipt, RefusalReason};
use protocol::time::Timestamp;
use protocol::trust::TrustRoot;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa,
};
use runtime::clock::ManualClock;
use runtime::tls::pki_types::{CertificateDer, PrivateKeyDer};
use runtime::tls::{ClientAuth, Identity, SpkiPin, server_config};
use runtime::{Clock, Drain, Entropy};
use rustls::ServerConfig;

use crate::server::Server;

/// Only against hanging; no test depends on its length.
pub(crate) const GUARD: Duration = Duration::from_secs(240);

/// How often is looked at what tells nothing by itself.
const LOOK: Duration = Duration::from_millis(2);

/// Where a server listens that a machine of its own must reach.
pub(crate) const BRIDGE: &str = "10.78.0.1";

/// Where one listens in a network of its own.
const LAN: &str = "10.77.0.2";

/// A device with its organisation. Dropping it removes its state.
pub(crate) struct Bench {
    pub(crate) organisation: Organisation,
    pub(crate) config: Config,
    pub(crate) key: DevicePublicKey,
    folder: tempfile::TempDir,
    authority: Arc<CertifiedIssuer<'static, rcgen::KeyPair>>,
}

impl Bench {
    /// An enrolled device that acts on an empty folder instead of a machine.
    pub(crate) fn sandboxed() -> Self {
        let mut bench = Self::new();
        let root = bench.config.state_dir.with_file_name("root");
        std::fs::create_dir(&root).unwrap();
        bench.config.host.arming = ArmingConfig::Sandboxed;
        bench.config.host.root = root;
        bench.config.host.dbus = Some(String::new());
        bench
    }

    /// A simulated device that is enrolled, and knows no address yet.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = Arc::new(CertifiedIssuer::self_signed(params, key).unwrap());
        let organisation = Organisation::new();
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("state")).unwrap();
        let pair = KeyPair::load_or_make(&state.key_path(), &KeyPlace::file()).unwrap();
        let request = pair.certificate_request().unwrap();
        let mut request = CertificateSigningRequestParams::from_pem(&request).unwrap();
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = request.signed_by(&authority).unwrap();
        let directory = AgentConfig { iat: now(), api: Vec::new(), hubs: Vec::new() };
        let enrollment = Enrollment {
            device_id: device(1),
            generation: 1,
            certificate: certificate.pem(),
            ca: authority.pem(),
            config: directory.sign(&organisation.command_key).unwrap(),
        };
        Journal::create(&state.journal_path(&enrollment)).unwrap();
        TrustChain::pin(&state, organisation.signed_trust()).unwrap();
        state.save_enrollment(&enrollment).unwrap();
        let mut config = Config { state_dir: state.path().to_owned(), ..Config::default() };
        config.host.arming = ArmingConfig::Simulated;
        config.host.power = PowerConfig::Record(folder.path().join("power.log"));
        config.ladder.attempts = 2;
        config.ladder.backoff_base = Duration::from_millis(5);
        config.ladder.backoff_cap = Duration::from_millis(50);
        config.ladder.check_in = Duration::from_millis(50);
        config.ladder.check_in_running = Duration::from_millis(50);
        config.ladder.long_poll_hold = Duration::from_millis(200);
        config.ladder.resend = Duration::from_millis(50);
        Self { organisation, config, key: pair.public(), folder, authority }
    }

    /// A server of this organisation, which the device will look for.
    pub(crate) async fn server(&mut self) -> Server {
        let server = self.server_at("127.0.0.1:0".parse().unwrap()).await;
        let address = server.address.to_string();
        self.config.addresses.hubs = vec![address.clone()];
        self.config.addresses.api = vec![address];
        server
    }

    /// A certificate for that request, and the authority's own, PEM.
    pub(crate) fn certify(&self, request: &str) -> (String, String) {
        let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (request.signed_by(&self.authority).unwrap().pem(), self.authority.pem())
    }

    /// Replaces the device's certificate by one that is past two thirds of its life.
    pub(crate) fn age(&self) {
        let state = StateDir::open(&self.config.state_dir).unwrap();
        let key = KeyPair::load(&state.key_path(), Path::new("")).unwrap();
        let request = key.certificate_request().unwrap();
        let mut request = CertificateSigningRequestParams::from_pem(&request).unwrap();
        request.params.not_after = rcgen::date_time_ymd(2036, 1, 1);
        let certificate = request.signed_by(&self.authority).unwrap().pem();
        let enrollment = state.enrollment().unwrap().unwrap();
        state.save_enrollment(&Enrollment { certificate, ..enrollment }).unwrap();
    }

    /// Has the device pin another trust root, before it starts.
    pub(crate) fn change_trust(&mut self, change: impl FnOnce(&mut TrustRoot)) {
        change(&mut self.organisation.trust);
        let state = StateDir::open(&self.config.state_dir).unwrap();
        TrustChain::pin(&state, self.organisation.signed_trust()).unwrap();
    }

    /// The pin of the authority, as tokens carry it.
    pub(crate) fn pin(&self) -> String {
        SpkiPin::of(self.authority.der()).unwrap().to_string()
    }

    /// Has the device believe another organisation's authority beside its own, before it starts.
    pub(crate) fn believe(&self, other: &Self) {
        let state = StateDir::open(&self.config.state_dir).unwrap();
        let enrollment = state.enrollment().unwrap().unwrap();
        let ca = [self.authority.pem(), other.authority.pem()].concat();
        state.save_enrollment(&Enrollment { ca, ..enrollment }).unwrap();
    }

    /// Whose certificates this organisation believes.
    pub(crate) fn ca(&self) -> Vec<CertificateDer<'static>> {
        vec![self.authority.der().clone()]
    }

    /// The TLS side of a server at one of the addresses that servers have here.
    pub(crate) fn tls(&self, clients: ClientAuth) -> Arc<ServerConfig> {
        self.tls_named(&["127.0.0.1", BRIDGE, LAN], clients)
    }

    /// The same for a server that has those names.
    pub(crate) fn tls_named(&self, names: &[&str], clients: ClientAuth) -> Arc<ServerConfig> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &*self.authority).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let chain = vec![leaf.der().clone(), self.authority.der().clone()];
        let identity = Identity { chain, key };
        Arc::new(server_config(&identity, clients, &[b"http/1.1"]).unwrap())
    }

    /// A server at that address.
    pub(crate) async fn server_at(&self, address: SocketAddr) -> Server {
        Server::listen(address, self.tls(ClientAuth::Required(self.ca()))).await
    }

    /// Starts the agent.
    pub(crate) fn start(&self) -> Agent {
        let (clock, entropy) = (Clock::system(), Entropy::system());
        Agent::start(self.config.clone(), Deps { clock, entropy, drain: Drain::new() }).unwrap()
    }

    /// The same by a clock that stands still until the hand moves it. A session is not given up
    /// as long as the hand moves by less than 45 s.
    pub(crate) fn start_by_hand(&self) -> (Agent, ManualClock) {
        let (clock, hand) = Clock::manual();
        hand.set_unix_millis(now().as_millis());
        let deps = Deps { clock, entropy: Entropy::system(), drain: Drain::new() };
        (Agent::start(self.config.clone(), deps).unwrap(), hand)
    }

    /// Kills the agent as it stands, and waits until its state directory is free again.
    pub(crate) async fn kill(&self, agent: Agent) {
        drop(agent);
        until(|| StateDir::open(&self.config.state_dir).is_ok()).await;
    }

    /// The claims of a command that is valid now.
    pub(crate) fn envelope(&self, number: u8, action: Action, seq: u64) -> Envelope {
        let mut envelope = self.organisation.envelope(number, action, device(1), seq);
        (envelope.iat, envelope.nbf) = (now(), now());
        envelope.exp = now().plus(Duration::from_secs(600));
        envelope.manifest.expires_at = envelope.exp;
        envelope
    }

    /// The delivery of a command that is valid now.
    pub(crate) fn command(&self, number: u8, action: Action, seq: u64) -> CommandFrame {
        self.organisation.deliver(&self.envelope(number, action, seq), 0)
    }

    /// The lines that the simulated executor wrote.
    pub(crate) fn effects(&self) -> Vec<String> {
        let log = self.config.state_dir.join("effects.log");
        std::fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The journal as it is on disk at this moment.
    pub(crate) fn journal(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.journal_path()).unwrap()).into_owned()
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.config.state_dir.join(format!("journal-{}-1", device(1)))
    }

    pub(crate) fn power_log(&self) -> PathBuf {
        Path::new(self.folder.path()).join("power.log")
    }

    /// Verifies and reads a receipt.
    pub(crate) fn receipt(&self, frame: &AgentFrame) -> Receipt {
        let AgentFrame::Receipt { jws, .. } = frame else { panic!("{frame:?} is no receipt") };
        receipt::verify(jws, &self.key).unwrap()
    }

    /// Delivers that frame alone to a fresh device, and gives the reason of its refusal.
    pub(crate) async fn refusal(&mut self, frame: CommandFrame) -> RefusalReason {
        let mut server = self.server().await;
        let agent = self.start();
        let mut hub = server.session().await;
        hub.send(HubFrame::Command(frame)).await;
        let receipt = self.receipt(&hub.receipt().await);
        let reason = reason(&receipt);
        assert_eq!(self.effects(), Vec::<String>::new());
        agent.drain().await.unwrap();
        reason
    }
}

pub(crate) fn reason(receipt: &Receipt) -> RefusalReason {
    let Outcome::Refused { reason, .. } = &receipt.outcome else {
        panic!("{:?} is no refusal", receipt.outcome);
    };
    *reason
}

/// That receipt, confirmed.
pub(crate) fn confirmed(receipt: &AgentFrame) -> HubFrame {
    let AgentFrame::Receipt { jws, .. } = receipt else { panic!("{receipt:?} is no receipt") };
    HubFrame::Confirmed { receipts: vec![jws.sha256()] }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(Clock::system().unix_millis()).whole_secs()
}

/// Waits for a condition, and leaves the processor to those who bring it about.
pub(crate) async fn until(is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(GUARD, waiting).await.expect("the condition comes true");
}
