//! A swarm against a scripted hub: real TLS, real WebSockets, and the protocol's own hub machine.
//! Each test is the hub: it says what is sent, and sees what comes back.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use loadtest::book::{Book, Counts, Part, Stream};
use loadtest::fleet::{self, Enrolled};
use loadtest::moment::Timeline;
use loadtest::swarm::{Kind, Settings, Swarm};
use loadtest::tally::{Stage, Tally};
use protocol::close::CloseCode;
use protocol::fixture::{self, Organisation};
use protocol::frame::{AgentFrame, CommandFrame, Hello, HubFrame, Reconnect, SUBPROTOCOL};
use protocol::key::{DeviceKey, DevicePublicKey};
use protocol::receipt::{self, Outcome};
use protocol::session::Output;
use protocol::session::hub::{HubHandshake, HubSession, Pace as Heartbeat};
use protocol::time::Timestamp;
use runtime::tls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use runtime::tls::{self, ClientAuth, TlsStream};
use runtime::{Clock, Entropy};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// A test that takes longer hangs.
const GUARD: Duration = Duration::from_secs(60);

async fn guarded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(GUARD, Box::pin(test)).await.expect("the test hangs")
}

fn now() -> Timestamp {
    Timestamp::from_millis(Clock::system().unix_millis())
}

/// An authority that makes certificates of servers and devices.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key is drawn");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("it signs").der().clone();
        Self { issuer: rcgen::Issuer::new(params, key), certificate }
    }

    fn identity(&self, names: &[&str]) -> (tls::Identity, DeviceKey) {
        let key = rcgen::KeyPair::generate().expect("a key is drawn");
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let params = rcgen::CertificateParams::new(names).expect("sound names");
        let certificate = params.signed_by(&key, &self.issuer).expect("it signs");
        let pkcs8 = key.serialize_der();
        let device = DeviceKey::from_pkcs8(&pkcs8).expect("a P-256 key");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
        (tls::Identity { chain: vec![certificate.der().clone()], key }, device)
    }
}

/// The hub, and what it needs to know to be one.
struct Hub {
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    authority: Authority,
    organisation: Organisation,
}

impl Hub {
    async fn start() -> Self {
        let authority = Authority::new();
        let (identity, _) = authority.identity(&["127.0.0.1"]);
        let demand = ClientAuth::Required(vec![authority.certificate.clone()]);
        let tls = tls::server_config(&identity, demand, &[b"http/1.1"]).expect("sound settings");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let organisation = Organisation::new();
        Self { listener, address, tls: Arc::new(tls), authority, organisation }
    }

    fn device(&self, number: u8) -> Enrolled {
        let (identity, key) = self.authority.identity(&["device"]);
        let authorities = [self.authority.certificate.clone()];
        Enrolled {
            id: fixture::device(number),
            generation: 1,
            key,
            tls: fleet::client(&authorities, &identity).expect("sound settings"),
            trust: self.organisation.trust.clone(),
            hubs: vec![format!("https://{}", self.address)],
            api: Vec::new(),
        }
    }

    /// Command `number` for device 1, at that place of the urgent lane.
    fn command(&self, number: u8, seq: u64, after_seq: u64) -> CommandFrame {
        let lock = fixture::lock();
        let mut envelope = self.organisation.envelope(number, lock, fixture::device(1), seq);
        let (from, until) = (now().whole_secs(), now().plus(Duration::from_secs(600)).whole_secs());
        (envelope.iat, envelope.nbf, envelope.exp) = (from, from, until);
        envelope.manifest.expires_at = until;
        self.organisation.deliver(&envelope, after_seq)
    }

    /// The next session.
    async fn accept(&self) -> Conversation {
        let (tcp, _) = self.listener.accept().await.expect("the listener accepts");
        Box::pin(converse(tcp, self.tls.clone())).await
    }
}

/// One session, seen from the hub.
struct Conversation {
    socket: Box<WebSocketStream<TlsStream<TcpStream>>>,
    machine: HubSession,
    hello: Hello,
    closed: Option<u16>,
}

#[expect(clippy::result_large_err, reason = "tungstenite's callback has this type")]
fn subprotocol(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let value = SUBPROTOCOL.parse().expect("a header value");
    response.headers_mut().insert("sec-websocket-protocol", value);
    Ok(response)
}

type ErrorResponse = tokio_tungstenite::tungstenite::handshake::server::ErrorResponse;

async fn converse(tcp: TcpStream, config: Arc<ServerConfig>) -> Conversation {
    let (stream, peer) = tls::accept(tcp, config, GUARD).await.expect("TLS stands");
    assert!(peer.certificate.is_some(), "the device shows its certificate");
    let socket = accept_hdr_async(stream, subprotocol).await;
    let mut socket = Box::new(socket.expect("the upgrade"));
    let first = socket.next().await.expect("a first message").expect("a sound one");
    let at = (Clock::system().now(), now());
    let (machine, hello) = HubHandshake::new(at.0)
        .receive(first.to_text().expect("text"), fixture::session(1), Heartbeat::default(), at)
        .expect("a good hello");
    let mut conversation = Conversation { socket, machine, hello, closed: None };
    conversation.flush().await;
    conversation
}

impl Conversation {
    async fn flush(&mut self) -> Option<AgentFrame> {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Transmit(text) => {
                    // The agent may be gone; what comes next tells.
                    let _ = self.socket.send(Message::text(text)).await;
                }
                Output::Received(frame) => return Some(frame),
                Output::Ping | Output::Ignored => {}
                Output::Close(code) => panic!("the agent broke the protocol: {code:?}"),
            }
        }
        None
    }

    async fn say(&mut self, frame: HubFrame) {
        self.machine.deliver(&frame, Clock::system().now());
        assert_eq!(self.flush().await, None, "nothing has been read yet");
    }

    /// What the agent says next; `None` when it is gone.
    async fn hear(&mut self) -> Option<AgentFrame> {
        loop {
            if let Some(frame) = self.flush().await {
                return Some(frame);
            }
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    self.machine.handle_text(text.as_str(), Clock::system().now());
                }
                Some(Ok(Message::Close(frame))) => {
                    self.closed = frame.map(|frame| frame.code.into());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// The receipt that the agent says next.
    async fn receipt(&mut self, key: &DevicePublicKey) -> (String, Outcome) {
        let frame = self.hear().await;
        let Some(AgentFrame::Receipt { jws, .. }) = frame else { panic!("no receipt: {frame:?}") };
        (jws.sha256(), receipt::verify(&jws, key).expect("signed by the device").outcome)
    }
}

fn swarm(devices: Vec<Enrolled>) -> (Swarm, Arc<Tally>) {
    swarm_of(devices, 64)
}

fn swarm_of(devices: Vec<Enrolled>, at_once: usize) -> (Swarm, Arc<Tally>) {
    let timeline = Timeline::new(Clock::system()).expect("a clock");
    let tally = Arc::new(Tally::new(timeline));
    let check_in = Duration::from_secs(60);
    let settings = Settings { at_once, rate: None, sources: Vec::new(), check_in };
    let sources = (Clock::system(), Entropy::system());
    let devices = devices.into_iter().map(|device| (Kind::Push, device)).collect();
    let swarm = Swarm::start(devices, &settings, tally.clone(), sources);
    (swarm.expect("a sound address"), tally)
}

/// Waits until the device has been told that its receipt is in the store.
async fn confirmed(tally: &Tally, book: &Book) {
    while book.counts().confirmed == 0 {
        book.take_in(tally.take());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn order_runs_from_frame_to_confirmation() {
    guarded(async {
        let hub = Hub::start().await;
        let device = hub.device(1);
        let key = device.key.public();
        let (swarm, tally) = swarm(vec![device]);
        let mut session = hub.accept().await;
        assert!(session.hello.capabilities.iter().any(|word| word == "simulated"));

        let (command, intended) = (hub.command(1, 1, 0), Clock::system().now());
        session.say(HubFrame::Command(command.clone())).await;
        let ack = AgentFrame::Ack { command_id: command.command_id };
        assert_eq!(session.hear().await, Some(ack), "the ack comes before anything else");
        let (sha256, outcome) = session.receipt(&key).await;
        let Outcome::Succeeded { evidence } = outcome else { panic!("refused: {outcome:?}") };
        assert_eq!(evidence.get("simulated"), Some(&true.into()));
        session.say(HubFrame::Confirmed { receipts: vec![sha256] }).await;

        let (book, timeline) = (Book::default(), Timeline::new(Clock::system()).expect("a clock"));
        let intended = timeline.of(intended);
        book.ordered(Stream::Unicast, &[command.command_id], intended, [intended; 2]);
        confirmed(&tally, &book).await;
        let counts = book.counts();
        let expected =
            Counts { ordered: 1, received: 1, acked: 1, confirmed: 1, ..Counts::default() };
        assert_eq!(counts, expected);
        let [received, acked, confirmed] = [Stage::Received, Stage::Acked, Stage::Confirmed]
            .map(|at| book.latency(Part::Run(Stream::Unicast), at).max);
        assert!(received <= acked && acked <= confirmed, "{received} {acked} {confirmed}");
        tokio::join!(swarm.stop(), session.hear());
    })
    .await;
}

#[tokio::test]
async fn receipt_comes_again_on_the_next_session_and_nothing_is_done_twice() {
    guarded(async {
        let hub = Hub::start().await;
        let device = hub.device(1);
        let key = device.key.public();
        let (swarm, tally) = swarm(vec![device]);
        let command = hub.command(1, 1, 0);
        let mut first = hub.accept().await;
        first.say(HubFrame::Command(command.clone())).await;
        assert!(matches!(first.hear().await, Some(AgentFrame::Ack { .. })));
        let (lost, _) = first.receipt(&key).await;
        drop(first);

        let mut second = hub.accept().await;
        assert_eq!(second.hello.last_seq.urgent, 1);
        assert_eq!(second.receipt(&key).await.0, lost);
        second.say(HubFrame::Command(command)).await;
        assert_eq!(second.receipt(&key).await.0, lost, "known: answered again, not done again");
        second.say(HubFrame::Confirmed { receipts: vec![lost] }).await;
        tokio::join!(swarm.stop(), second.hear());
        let notes = tally.take();
        assert_eq!((notes.redelivered, notes.doubled), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn gap_in_a_lane_is_asked_for() {
    guarded(async {
        let hub = Hub::start().await;
        let device = hub.device(1);
        let key = device.key.public();
        let (swarm, tally) = swarm(vec![device]);
        let mut session = hub.accept().await;
        session.say(HubFrame::Command(hub.command(2, 2, 1))).await;
        let frame = session.hear().await;
        assert!(matches!(frame, Some(AgentFrame::Sync { .. })), "{frame:?}");
        for (number, after_seq) in [(1, 0), (2, 1)] {
            let command = hub.command(number, u64::from(number), after_seq);
            session.say(HubFrame::Command(command.clone())).await;
            let ack = AgentFrame::Ack { command_id: command.command_id };
            assert_eq!(session.hear().await, Some(ack));
            session.receipt(&key).await;
        }
        tokio::join!(swarm.stop(), session.hear());
        assert_eq!(tally.take().doubled, 0);
    })
    .await;
}

#[tokio::test]
async fn device_moves_when_asked_and_is_served_until_it_has_moved() {
    guarded(async {
        let hub = Hub::start().await;
        let (swarm, tally) = swarm(vec![hub.device(1)]);
        let mut first = hub.accept().await;
        let reason = "drain".to_owned();
        first.say(HubFrame::Reconnect(Reconnect { after_ms: 0, hubs: vec![], reason })).await;
        // The next connection is there, and waits for its TLS; the former one serves.
        let (tcp, _) = hub.listener.accept().await.expect("the listener accepts");
        let command = hub.command(1, 1, 0);
        first.say(HubFrame::Command(command.clone())).await;
        assert!(matches!(first.hear().await, Some(AgentFrame::Ack { .. })));
        assert!(matches!(first.hear().await, Some(AgentFrame::Receipt { .. })));

        let mut second = Box::pin(converse(tcp, hub.tls.clone())).await;
        assert!(second.hello.epoch > first.hello.epoch, "it is the newer one");
        assert_eq!(first.hear().await, None);
        assert_eq!(first.closed, Some(CloseCode::Normal.number()));
        assert!(matches!(second.hear().await, Some(AgentFrame::Receipt { .. })), "unconfirmed");
        second.say(HubFrame::Command(command)).await;
        assert!(matches!(second.hear().await, Some(AgentFrame::Receipt { .. })), "known");
        assert_eq!(swarm.dropped(), 0, "who was asked to move did not drop");
        tokio::join!(swarm.stop(), second.hear());
        assert_eq!(second.closed, Some(CloseCode::GoingAway.number()));
        assert_eq!(tally.take().doubled, 0);
    })
    .await;
}

#[tokio::test]
async fn device_that_cannot_move_stays_and_tries_again() {
    guarded(async {
        let hub = Hub::start().await;
        let (swarm, tally) = swarm(vec![hub.device(1)]);
        let mut first = hub.accept().await;
        let reason = "drain".to_owned();
        first.say(HubFrame::Reconnect(Reconnect { after_ms: 0, hubs: vec![], reason })).await;
        drop(hub.listener.accept().await.expect("the listener accepts"));
        first.say(HubFrame::Command(hub.command(1, 1, 0))).await;
        assert!(matches!(first.hear().await, Some(AgentFrame::Ack { .. })));
        let mut second = hub.accept().await;
        assert_eq!((swarm.connected(), swarm.dropped()), (1, 0));
        let errors = tally.take().errors;
        assert_eq!(errors.len(), 1, "the attempt is told: {errors:?}");
        tokio::join!(swarm.stop(), second.hear());
    })
    .await;
}

#[tokio::test]
async fn swarm_that_was_cut_comes_back_whole() {
    guarded(async {
        let hub = Hub::start().await;
        let devices: Vec<_> = (1..=20).map(|number| hub.device(number)).collect();
        let (swarm, tally) = swarm_of(devices, 1);
        let opened = || {
            let notes = tally.take();
            assert!(notes.errors.is_empty(), "{:?}", notes.errors);
            notes.opened
        };
        let timeline = Timeline::new(Clock::system()).expect("a clock");
        let mut sessions = JoinSet::new();
        let accepting = async {
            loop {
                let (tcp, _) = hub.listener.accept().await.expect("the listener accepts");
                let config = hub.tls.clone();
                sessions.spawn(async move { converse(tcp, config).await.hear().await });
            }
        };
        let story = async {
            swarm.all_connected().await;
            assert_eq!((swarm.connected(), opened().len()), (20, 20));
            let before = timeline.now();
            swarm.cut().await;
            let after = timeline.now();
            swarm.all_connected().await;
            let again = opened();
            assert_eq!((swarm.connected(), again.len()), (20, 20));
            // One after the other: whoever waited for its turn was without a session all the same.
            let at = again[0].began;
            assert!(before <= at && at <= after, "counted from the cut");
            assert!(again.iter().all(|one| one.began == at && one.again), "{again:?}");
            assert_eq!(swarm.dropped(), 0, "a cut of our own is no drop");
            swarm.stop().await;
        };
        tokio::select! {
            () = story => {}
            () = accepting => {}
        }
        let errors = tally.take().errors;
        assert!(errors.is_empty(), "{errors:?}");
    })
    .await;
}
