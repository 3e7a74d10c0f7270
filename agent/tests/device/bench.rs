//! A device on a bench: its state directory, its organisation, and a server that is both hub and
//! control plane, real up to TLS and WebSocket, whose every answer the test writes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::config::{ArmingConfig, Config, PowerConfig};
use agent::identity::KeyPair;
use agent::journal::Journal;
use agent::state::{Enrollment, StateDir, TrustChain};
use agent::{Agent, Deps};
use futures_util::{SinkExt as _, StreamExt as _};
use protocol::action::Action;
use protocol::close::CloseCode;
use protocol::enrollment::{AgentConfig, RENEW_PATH, RenewRequest};
use protocol::envelope::Envelope;
use protocol::fixture::{Organisation, device, session};
use protocol::frame::{AgentFrame, CommandFrame, Exchange, Frame as _, Hello, HubFrame};
use protocol::id::CommandId;
use protocol::key::DevicePublicKey;
use protocol::receipt::{self, Outcome, Receipt, RefusalReason};
use protocol::session::Output;
use protocol::session::hub::{HubHandshake, HubSession, Pace, welcome};
use protocol::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa,
};
use runtime::tls::pki_types::PrivateKeyDer;
use runtime::tls::{ClientAuth, Identity, SpkiPin, TlsStream, accept, server_config};
use runtime::{Clock, Drain, Entropy};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WireCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

/// Only against hanging; no test depends on its length.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

/// Where a server listens that a machine of its own must reach.
pub(crate) const BRIDGE: &str = "10.78.0.1";

/// A device with its organisation. Dropping it removes its state.
pub(crate) struct Bench {
    pub(crate) organisation: Organisation,
    pub(crate) config: Config,
    pub(crate) key: DevicePublicKey,
    folder: tempfile::TempDir,
    authority: Arc<CertifiedIssuer<'static, rcgen::KeyPair>>,
}

impl Bench {
    /// A simulated device that is enrolled, and knows no address yet.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = Arc::new(CertifiedIssuer::self_signed(params, key).unwrap());
        let organisation = Organisation::new();
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("state")).unwrap();
        let pair = KeyPair::load_or_make(&state.key_path()).unwrap();
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
        let key = KeyPair::load(&state.key_path()).unwrap();
        let request = key.certificate_request().unwrap();
        let mut request = CertificateSigningRequestParams::from_pem(&request).unwrap();
        request.params.not_after = rcgen::date_time_ymd(2036, 1, 1);
        let certificate = request.signed_by(&self.authority).unwrap().pem();
        let enrollment = state.enrollment().unwrap().unwrap();
        state.save_enrollment(&Enrollment { certificate, ..enrollment }).unwrap();
    }

    /// The pin of the authority, as tokens carry it.
    pub(crate) fn pin(&self) -> String {
        SpkiPin::of(self.authority.der()).unwrap().to_string()
    }

    /// The TLS side of a server at one of the addresses that servers have here.
    pub(crate) fn tls(&self, clients: ClientAuth) -> Arc<ServerConfig> {
        let names = ["127.0.0.1", BRIDGE].map(str::to_owned);
        let mut params = CertificateParams::new(names.to_vec()).unwrap();
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
        let authorities = vec![self.authority.der().clone()];
        let tls = self.tls(ClientAuth::Required(authorities));
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let refuses_sockets = Arc::new(AtomicBool::new(false));
        let says = Arc::new(Mutex::new(Says::default()));
        let (told, calls) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let (refuses, saying) = (refuses_sockets.clone(), says.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, told) = (tls.clone(), told.clone());
                let (refuses, says) = (refuses.clone(), saying.clone());
                connections.spawn(async move {
                    if let Ok((stream, _)) = accept(stream, tls, GUARD).await {
                        let _ = serve(stream, &told, &refuses, &says).await;
                    }
                });
            }
        });
        Server { address, calls, refuses_sockets, says, _tasks: tasks }
    }

    /// Starts the agent.
    pub(crate) fn start(&self) -> Agent {
        let (clock, entropy) = (Clock::system(), Entropy::system());
        Agent::start(self.config.clone(), Deps { clock, entropy, drain: Drain::new() }).unwrap()
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

/// Waits for a condition.
pub(crate) async fn until(is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
    };
    tokio::time::timeout(GUARD, waiting).await.expect("the condition comes true");
}

/// What the agent asks of the server.
pub(crate) enum Call {
    Socket(Box<HubSide>),
    Exchange { path: String, frames: Vec<AgentFrame>, answer: oneshot::Sender<Vec<HubFrame>> },
    Renewal { request: RenewRequest, answer: oneshot::Sender<String> },
}

/// What a hub says in its welcome, true or not.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Says {
    pub(crate) pace: Pace,
    pub(crate) server_time: Option<Timestamp>,
    /// It has no room for a session.
    pub(crate) room: Option<Room>,
}

/// How a hub without room turns devices away.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) retry_after_secs: u64,
    /// The hub that it names instead.
    pub(crate) other: SocketAddr,
}

/// Hub and control plane in one. Dropping it cuts everything.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    calls: mpsc::Receiver<Call>,
    pub(crate) refuses_sockets: Arc<AtomicBool>,
    pub(crate) says: Arc<Mutex<Says>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Whatever the agent asks next.
    pub(crate) async fn call(&mut self) -> Call {
        let call = tokio::time::timeout(GUARD, self.calls.recv()).await;
        call.expect("the agent calls").expect("the server runs")
    }

    /// Whether nothing was ever asked of it.
    pub(crate) fn is_untouched(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    /// The next session; exchanges that come before it are answered with a welcome.
    pub(crate) async fn session(&mut self) -> HubSide {
        loop {
            match self.call().await {
                Call::Socket(hub) => return *hub,
                Call::Exchange { answer, .. } => drop(answer.send(vec![greeting()])),
                Call::Renewal { .. } => {}
            }
        }
    }

    /// The next exchange on that path: its frames, and where to put the answer.
    pub(crate) async fn exchange(
        &mut self,
        wanted: &str,
    ) -> (Vec<AgentFrame>, oneshot::Sender<Vec<HubFrame>>) {
        loop {
            match self.call().await {
                Call::Exchange { path, frames, answer } if path == wanted => {
                    return (frames, answer);
                }
                Call::Exchange { answer, .. } => drop(answer.send(vec![greeting()])),
                Call::Socket(_) | Call::Renewal { .. } => {}
            }
        }
    }

    /// Answers exchanges on that path with a welcome until a receipt comes.
    pub(crate) async fn receipt(&mut self, path: &str) -> AgentFrame {
        loop {
            let (frames, answer) = self.exchange(path).await;
            drop(answer.send(vec![greeting()]));
            let receipt = frames.into_iter().find(|f| matches!(f, AgentFrame::Receipt { .. }));
            if let Some(receipt) = receipt {
                return receipt;
            }
        }
    }
}

pub(crate) fn greeting() -> HubFrame {
    HubFrame::Welcome(welcome(session(9), Pace::default(), now()))
}

/// The hub's end of a session.
pub(crate) struct HubSide {
    pub(crate) hello: Hello,
    machine: HubSession,
    socket: WebSocketStream<TlsStream<TcpStream>>,
    clock: Clock,
}

impl HubSide {
    async fn open(stream: TlsStream<TcpStream>, says: Says) -> Option<Self> {
        let clock = Clock::system();
        let config = Some(WebSocketConfig::default());
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, config).await;
        let Some(Ok(Message::Text(text))) = socket.next().await else { return None };
        let times = (clock.now(), says.server_time.unwrap_or_else(now));
        let handshake = HubHandshake::new(clock.now());
        let opened = handshake.receive(text.as_str(), session(1), says.pace, times);
        let (machine, hello) = opened.expect("the agent's hello is sound");
        let mut hub = Self { hello, machine, socket, clock };
        hub.flush().await;
        Some(hub)
    }

    async fn flush(&mut self) -> Option<AgentFrame> {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Transmit(text) => drop(self.socket.send(Message::text(text)).await),
                Output::Received(frame) => return Some(frame),
                Output::Ping | Output::Ignored => {}
                Output::Close(code) => panic!("the hub's machine closes with {code:?}"),
            }
        }
        None
    }

    pub(crate) async fn send(&mut self, frame: HubFrame) {
        self.machine.deliver(&frame, self.clock.now());
        assert_eq!(self.flush().await, None);
    }

    /// Sends a text that no honest hub would send.
    pub(crate) async fn send_text(&mut self, text: String) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next frame of the agent; `None` when the session is over.
    pub(crate) async fn next(&mut self) -> Option<AgentFrame> {
        loop {
            if let Some(frame) = self.flush().await {
                return Some(frame);
            }
            let message = tokio::time::timeout(GUARD, self.socket.next()).await;
            match message.expect("the agent speaks") {
                Some(Ok(Message::Text(text))) => {
                    self.machine.handle_text(text.as_str(), self.clock.now());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_) | Message::Binary(_) | Message::Frame(_)) | Err(_))
                | None => return None,
            }
        }
    }

    /// The next frame that fits.
    pub(crate) async fn wait_for(&mut self, fits: impl Fn(&AgentFrame) -> bool) -> AgentFrame {
        loop {
            let frame = self.next().await.expect("the session goes on");
            if fits(&frame) {
                return frame;
            }
        }
    }

    pub(crate) async fn ack(&mut self) -> AgentFrame {
        self.wait_for(|frame| matches!(frame, AgentFrame::Ack { .. })).await
    }

    pub(crate) async fn receipt(&mut self) -> AgentFrame {
        self.wait_for(|frame| matches!(frame, AgentFrame::Receipt { .. })).await
    }

    /// The next receipt about that command.
    pub(crate) async fn receipt_of(&mut self, id: CommandId) -> AgentFrame {
        let is_it = |f: &AgentFrame| matches!(f, AgentFrame::Receipt { command_id, .. } if *command_id == id);
        self.wait_for(is_it).await
    }

    pub(crate) async fn close(mut self, code: CloseCode) {
        let frame = CloseFrame { code: WireCode::from(code.number()), reason: "".into() };
        drop(self.socket.close(Some(frame)).await);
    }
}

/// The head of a request.
pub(crate) async fn read_head(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// One connection: a session, or one exchange.
async fn serve(
    mut stream: TlsStream<TcpStream>,
    told: &mpsc::Sender<Call>,
    refuses_sockets: &AtomicBool,
    says: &Mutex<Says>,
) -> std::io::Result<()> {
    let head = read_head(&mut stream).await?;
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    };
    if path == protocol::frame::SOCKET_PATH {
        if refuses_sockets.load(Ordering::SeqCst) {
            let refusal = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(refusal).await?;
            return stream.shutdown().await;
        }
        let says = *says.lock().unwrap();
        if let Some(Room { retry_after_secs, other }) = says.room {
            let refusal = format!(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\ntocsin-close: 4009\r\n\
                 retry-after: {retry_after_secs}\r\ntocsin-hubs: https://{other}\r\n\r\n"
            );
            stream.write_all(refusal.as_bytes()).await?;
            return stream.shutdown().await;
        }
        let accept = derive_accept_key(header("sec-websocket-key").unwrap().as_bytes());
        let upgrade = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\nsec-websocket-protocol: tocsin.v1\r\n\r\n"
        );
        stream.write_all(upgrade.as_bytes()).await?;
        if let Some(hub) = HubSide::open(stream, says).await {
            drop(told.send(Call::Socket(Box::new(hub))).await);
        }
        return Ok(());
    }
    let mut body = vec![0; header("content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut body).await?;
    if path == RENEW_PATH {
        let (answer, answered) = oneshot::channel();
        let request = serde_json::from_slice(&body).unwrap();
        drop(told.send(Call::Renewal { request, answer }).await);
        let Ok(body) = answered.await else { return Ok(()) };
        return reply(stream, &body).await;
    }
    let exchange: Exchange<AgentFrame> = serde_json::from_slice(&body).unwrap();
    assert!(matches!(exchange.frames.first(), Some(AgentFrame::Hello(_))));
    exchange.frames.iter().for_each(|frame| frame.check().unwrap());
    let (answer, answered) = oneshot::channel();
    drop(told.send(Call::Exchange { path, frames: exchange.frames, answer }).await);
    let Ok(frames) = answered.await else { return Ok(()) };
    let body = serde_json::to_string(&Exchange { frames }).unwrap();
    reply(stream, &body).await
}

async fn reply(mut stream: TlsStream<TcpStream>, body: &str) -> std::io::Result<()> {
    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}
