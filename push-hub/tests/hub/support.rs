//! One hub with its authority, its broker and its agents.
//!
//! Owns no assertions about the hub: a helper fails only when what it was asked for cannot be had
//! within [`GUARD`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use broker::{Broker, Downstream, MemoryBroker, Upstream, UpstreamReader};
use futures_util::{SinkExt as _, StreamExt as _};
use protocol::close::CloseCode;
use protocol::frame::{
    AgentFrame, CommandFrame, Frame as _, Hello, HubFrame, SOCKET_PATH, SUBPROTOCOL, Welcome,
};
use protocol::id::{BootId, CommandId, DeviceId, HubId};
use protocol::jws::CompactJws;
use protocol::state::{Lane, PerLane};
use push_hub::config::AdmissionConfig;
use push_hub::{Config, Deps, Hub, agent_tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use runtime::admin::Readiness;
use runtime::tls::pki_types::{PrivateKeyDer, ServerName};
use runtime::tls::{Identity, Tickets, client_config};
use runtime::{Clock, Drain, Entropy};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use uuid::Uuid;

/// After this a test has failed; nothing is asserted about how long things take.
pub(crate) const GUARD: Duration = Duration::from_secs(120);
/// Between two looks.
pub(crate) const PAUSE: Duration = Duration::from_millis(3);

/// A certificate authority and what it has issued.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// An identity with those URIs, valid from yesterday for `left` from now (negative: already
    /// over).
    pub(crate) fn issue(&self, uris: &[String], left: i64) -> Identity {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let uris = uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = Clock::system().unix_secs();
        let at = |secs: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        params.not_before = at(now - 86_400).into();
        params.not_after = at(now.checked_add_signed(left).unwrap()).into();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Identity { chain: vec![leaf.der().clone(), self.0.der().clone()], key }
    }

    /// The client side of TLS that guesses at a group which hubs do not have: they would have to ask
    /// it to greet again.
    pub(crate) fn misguessing_client(&self, identity: &Identity) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups.insert(0, aws_lc_rs::kx_group::MLKEM1024);
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap();
        let (chain, key) = (identity.chain.clone(), identity.key.clone_key());
        Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap())
    }

    /// The client side of TLS that trusts this authority.
    pub(crate) fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        let roots = [self.0.der().clone()];
        Arc::new(client_config(&roots, identity, &[b"http/1.1"]).unwrap())
    }
}

/// A hub and everything around it.
pub(crate) struct World {
    pub(crate) authority: Arc<Authority>,
    pub(crate) broker: Arc<MemoryBroker>,
    pub(crate) hub: Hub,
    pub(crate) readiness: Readiness,
    pub(crate) drain: Drain,
    pub(crate) addr: SocketAddr,
}

/// Limits that tests which are not about them never reach.
pub(crate) fn config() -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        probe_every: Duration::from_millis(20),
        admission: AdmissionConfig {
            source_burst: 100_000,
            device_burst: 100_000,
            tls_timeout: GUARD,
            head_timeout: GUARD,
            hello_timeout: GUARD,
            ..AdmissionConfig::default()
        },
        ..Config::default()
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(config()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::with_clock(config, Clock::system()).await
    }

    pub(crate) async fn with_clock(config: Config, clock: Clock) -> Self {
        let memory = bus();
        Self::assemble(config, clock, memory.clone(), memory).await
    }

    /// With a bus around the in-process one.
    pub(crate) async fn with_bus(
        config: Config,
        bus: Arc<dyn Broker>,
        memory: Arc<MemoryBroker>,
    ) -> Self {
        Self::assemble(config, Clock::system(), bus, memory).await
    }

    /// One more hub of that name, on the same bus.
    pub(crate) async fn beside(&self, name: &str) -> Self {
        self.beside_with(Config { name: name.parse().unwrap(), ..config() }, Clock::system()).await
    }

    /// One more hub, on the same bus and of the same authority.
    pub(crate) async fn beside_with(&self, config: Config, clock: Clock) -> Self {
        let buses = (self.broker.clone() as Arc<dyn Broker>, self.broker.clone());
        Self::under(self.authority.clone(), config, clock, buses).await
    }

    async fn assemble(
        config: Config,
        clock: Clock,
        bus: Arc<dyn Broker>,
        broker: Arc<MemoryBroker>,
    ) -> Self {
        Self::under(Arc::new(Authority::new()), config, clock, (bus, broker)).await
    }

    async fn under(
        authority: Arc<Authority>,
        config: Config,
        clock: Clock,
        (bus, broker): (Arc<dyn Broker>, Arc<MemoryBroker>),
    ) -> Self {
        // What a hub counts is counted from its start.
        drop(runtime::observability::recorder());
        let authorities = vec![authority.0.der().clone()];
        let tickets = Tickets::new(config.tickets.clone(), clock.clone(), Entropy::system());
        let tls = agent_tls(&authority.issue(&[], 86_400), authorities, &tickets).unwrap();
        let (readiness, drain) = (Readiness::new(&[]), Drain::new());
        let deps = Deps {
            broker: bus,
            clock,
            entropy: Entropy::system(),
            tls: Arc::new(ArcSwap::from_pointee(tls)),
            readiness: readiness.clone(),
            drain: drain.clone(),
        };
        let hub = Hub::start(config, deps).await.unwrap();
        let addr = hub.agent_addr();
        Self { authority, broker, hub, readiness, drain, addr }
    }

    /// A device with a certificate for a day.
    pub(crate) fn device(&self, number: u128) -> Device {
        self.device_for(number, 86_400)
    }

    pub(crate) fn device_for(&self, number: u128, left_secs: i64) -> Device {
        let id = device_id(number);
        let uris = [format!("urn:tocsin:device:{id}"), "urn:tocsin:generation:1".to_owned()];
        let tls = self.authority.client(Some(&self.authority.issue(&uris, left_secs)));
        Device { id, tls, addr: self.addr }
    }

    /// Publishes as the control plane does.
    pub(crate) async fn publish(&self, message: Downstream) {
        let taken = self.broker.publish(&hub_id(), vec![message]).await.unwrap();
        assert_eq!(taken, 1, "the hub is subscribed");
    }

    pub(crate) async fn deliver(&self, device: DeviceId, frames: Vec<HubFrame>) {
        self.publish(Downstream::Deliver { device, frames }).await;
    }

    pub(crate) async fn reader(&self) -> Box<dyn UpstreamReader> {
        self.broker.read_upstream().await.unwrap()
    }

    /// Waits until the hub has so many sessions.
    pub(crate) async fn sessions(&self, count: usize) {
        until("number of sessions", || self.hub.sessions() == count).await;
    }
}

/// A bus in this process, on which no lease runs out: a hub of a busy machine may be late for its next one.
pub(crate) fn bus() -> Arc<MemoryBroker> {
    Arc::new(MemoryBroker::new(Clock::manual().0))
}

/// Waits until it is counted that a hub has closed somebody for that. Who does not read, or never stops
/// sending, may learn of it by a reset instead of a close frame.
pub(crate) async fn is_counted(code: CloseCode) {
    let recorder = runtime::observability::recorder();
    let line = format!("tocsin_push_hub_closes_total{{code=\"{}\"}} ", code.as_str());
    until("the close is counted", || {
        let text = recorder.render();
        text.lines().filter_map(|text| text.strip_prefix(&line)).any(|count| count.trim() != "0")
    })
    .await;
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    assert!(timeout(GUARD, waiting).await.is_ok(), "in vain: {what}");
}

/// Reads until a message fits.
pub(crate) async fn upstream(
    reader: &mut Box<dyn UpstreamReader>,
    mut fits: impl FnMut(&Upstream) -> bool,
) -> Upstream {
    let reading = async {
        loop {
            let batch = reader.next().await.unwrap();
            if let Some(found) = batch.into_iter().find(&mut fits) {
                return found;
            }
        }
    };
    timeout(GUARD, reading).await.expect("the message comes")
}

pub(crate) fn hub_id() -> HubId {
    "hub".parse().unwrap()
}

pub(crate) fn device_id(number: u128) -> DeviceId {
    DeviceId::from_uuid(Uuid::from_u128(number))
}

pub(crate) fn command_id(number: u128) -> CommandId {
    CommandId::from_uuid(Uuid::from_u128(number))
}

/// A command whose envelope has that many bytes; hubs do not open envelopes.
pub(crate) fn command(number: u128, lane: Lane, bytes: usize) -> HubFrame {
    HubFrame::Command(CommandFrame {
        command_id: command_id(number),
        lane,
        after_seq: 0,
        jws: CompactJws::from_text("e".repeat(bytes)),
    })
}

pub(crate) fn hello() -> AgentFrame {
    hello_at(0)
}

/// The greeting of a session of that epoch.
pub(crate) fn hello_at(epoch: u64) -> AgentFrame {
    AgentFrame::Hello(Hello {
        agent: "test".to_owned(),
        boot_id: BootId::from_uuid(Uuid::nil()),
        generation: 1,
        epoch,
        run: None,
        last_seq: PerLane { urgent: 7, bulk: 8 },
        trust_version: 1,
        capabilities: Vec::new(),
        degraded_since: None,
    })
}

/// An enrolled device.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) addr: SocketAddr,
}

/// A request that was answered with something else than the upgrade.
pub(crate) type Refused = Box<Response<Option<Vec<u8>>>>;

impl Device {
    /// A TLS connection, and whether it resumed an earlier one. `window` shrinks the receive
    /// buffer, so that a device which does not read is noticed.
    pub(crate) async fn dial(&self, window: Option<u32>) -> (TlsStream<TcpStream>, bool) {
        let stream = dial(self.addr, self.tls.clone(), window).await.expect("tls succeeds");
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        (stream, resumed)
    }

    /// An open WebSocket before `hello`.
    pub(crate) async fn open(&self, window: Option<u32>) -> Result<Agent, Refused> {
        upgrade(self.dial(window).await.0).await
    }

    /// A session.
    pub(crate) async fn connect(&self) -> Agent {
        self.connect_at(0).await
    }

    /// A session of that epoch.
    pub(crate) async fn connect_at(&self, epoch: u64) -> Agent {
        let mut agent = self.greet_at(epoch).await;
        agent.welcome().await;
        agent
    }

    /// A greeting of that epoch, whatever is answered.
    pub(crate) async fn greet_at(&self, epoch: u64) -> Agent {
        let mut agent = self.open(None).await.expect("the upgrade is granted");
        agent.say(&hello_at(epoch)).await;
        agent
    }

    /// The same device at another hub.
    pub(crate) fn at(&self, world: &World) -> Self {
        Self { addr: world.addr, ..self.clone() }
    }

    /// How a WebSocket is refused.
    pub(crate) async fn refusal(&self) -> Refused {
        refusal(self.dial(None).await.0).await
    }

    /// One HTTP request on a connection of its own: the answer's head and body.
    pub(crate) async fn request(&self, method: &str, path: &str, body: &str) -> (String, String) {
        let (mut stream, _) = self.dial(None).await;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        // A hub that refuses early need not read all.
        drop(stream.write_all(head.as_bytes()).await);
        drop(stream.write_all(body.as_bytes()).await);
        let mut answer = Vec::new();
        drop(timeout(GUARD, stream.read_to_end(&mut answer)).await.expect("an answer comes"));
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        (head.to_ascii_lowercase(), body.to_owned())
    }
}

pub(crate) async fn dial(
    addr: SocketAddr,
    tls: Arc<ClientConfig>,
    window: Option<u32>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = window {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    timeout(GUARD, TlsConnector::from(tls).connect(name, stream)).await?
}

/// Asks for the upgrade.
async fn upgrade(stream: TlsStream<TcpStream>) -> Result<Agent, Refused> {
    let mut request = format!("wss://localhost{SOCKET_PATH}").into_client_request().unwrap();
    let protocol = HeaderValue::from_static(SUBPROTOCOL);
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    match timeout(GUARD, client_async(request, stream)).await.expect("an answer comes") {
        Ok((socket, _)) => Ok(Agent { socket }),
        Err(WsError::Http(refused)) => Err(refused),
        Err(error) => panic!("neither upgraded nor refused: {error}"),
    }
}

/// Asks for the upgrade, in vain.
pub(crate) async fn refusal(stream: TlsStream<TcpStream>) -> Refused {
    match upgrade(stream).await {
        Ok(_) => panic!("the upgrade is granted"),
        Err(refused) => refused,
    }
}

/// The close code that a refusal carries.
pub(crate) fn close_header(refused: &Refused) -> Option<&str> {
    refused.headers().get("tocsin-close")?.to_str().ok()
}

/// The agent's end of a WebSocket.
pub(crate) struct Agent {
    pub(crate) socket: WebSocketStream<TlsStream<TcpStream>>,
}

impl Agent {
    pub(crate) async fn say(&mut self, frame: &AgentFrame) {
        self.send(Message::text(frame.encode().unwrap())).await;
    }

    pub(crate) async fn send(&mut self, message: Message) {
        timeout(GUARD, self.socket.send(message)).await.expect("it leaves").unwrap();
    }

    async fn message(&mut self) -> Option<Message> {
        match timeout(GUARD, self.socket.next()).await.expect("a message comes") {
            Some(Ok(message)) => Some(message),
            Some(Err(_)) | None => None,
        }
    }

    /// The next frame; pings are answered by the library meanwhile.
    pub(crate) async fn frame(&mut self) -> HubFrame {
        loop {
            match self.message().await.expect("the session is open") {
                Message::Text(text) => return HubFrame::decode(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("neither frame nor control: {other:?}"),
            }
        }
    }

    pub(crate) async fn welcome(&mut self) -> Welcome {
        match self.frame().await {
            HubFrame::Welcome(welcome) => welcome,
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// The ids of the next commands.
    pub(crate) async fn commands(&mut self, count: usize) -> Vec<CommandId> {
        let mut ids = Vec::new();
        while ids.len() < count {
            match self.frame().await {
                HubFrame::Command(command) => ids.push(command.command_id),
                other => panic!("no command: {other:?}"),
            }
        }
        ids
    }

    /// Reads to the end, and tells the close code if there was one.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some(message) = self.message().await {
            if let Message::Close(frame) = message {
                code = frame.map(|frame| u16::from(frame.code));
            }
        }
        code
    }
}
