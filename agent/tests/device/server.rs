//! A server that is both hub and control plane, real up to TLS and WebSocket, whose every answer
//! the test writes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use protocol::close::CloseCode;
use protocol::enrollment::{RENEW_PATH, RenewRequest};
use protocol::fixture::session;
use protocol::frame::{
    AgentFrame, CHECK_IN_PATH, Exchange, Frame as _, Hello, HubFrame, POLL_PATH,
};
use protocol::id::CommandId;
use protocol::session::Output;
use protocol::session::hub::{HubHandshake, HubSession, Pace, welcome};
use protocol::time::Timestamp;
use runtime::Clock;
use runtime::tls::{TlsStream, accept};
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

use crate::bench::{GUARD, now};

/// What the agent asks of the server.
pub(crate) enum Call {
    Socket(Box<HubSide>),
    Exchange { path: String, frames: Vec<AgentFrame>, answer: oneshot::Sender<Vec<HubFrame>> },
    Renewal { request: RenewRequest, answer: oneshot::Sender<String> },
    Collection(Brought),
}

/// The answer to a request about a collection that it is not taken.
pub(crate) const GONE: &str = "gone";

/// A request about a collection. An answer that is dropped breaks the connection off.
pub(crate) struct Brought {
    /// What follows the path of collections.
    pub(crate) place: String,
    /// A chunk, unless something is asked.
    pub(crate) chunk: Option<Vec<u8>>,
    pub(crate) answer: oneshot::Sender<String>,
}

/// What a hub says in its welcome, true or not.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Says {
    pub(crate) pace: Pace,
    pub(crate) server_time: Option<Timestamp>,
    /// It has no room for a session.
    pub(crate) room: Option<Room>,
    /// It sends whoever wants a session or a long-poll there.
    pub(crate) redirects_to: Option<SocketAddr>,
    /// Long-polls that it turned away, having no room for them either.
    pub(crate) turned_away: usize,
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
    /// One that listens at that address.
    pub(crate) async fn listen(address: SocketAddr, tls: Arc<ServerConfig>) -> Self {
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
        Self { address, calls, refuses_sockets, says, _tasks: tasks }
    }

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
                Call::Renewal { .. } | Call::Collection(_) => {}
            }
        }
    }

    /// The next request about a collection.
    pub(crate) async fn brought(&mut self) -> Brought {
        loop {
            match self.call().await {
                Call::Collection(brought) => return brought,
                Call::Exchange { answer, .. } => drop(answer.send(vec![greeting()])),
                Call::Socket(_) | Call::Renewal { .. } => {}
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
                Call::Socket(_) | Call::Renewal { .. } | Call::Collection(_) => {}
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
    let elsewhere = says.lock().unwrap().redirects_to;
    if let Some(elsewhere) = elsewhere.filter(|_| path != CHECK_IN_PATH) {
        return redirect(stream, elsewhere, &path).await;
    }
    if path == protocol::frame::SOCKET_PATH {
        if refuses_sockets.load(Ordering::SeqCst) {
            let refusal = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(refusal).await?;
            return stream.shutdown().await;
        }
        let says = *says.lock().unwrap();
        if let Some(room) = says.room {
            return turn_away(stream, room).await;
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
    let room = says.lock().unwrap().room.filter(|_| path == POLL_PATH);
    if let Some(room) = room {
        says.lock().unwrap().turned_away += 1;
        return turn_away(stream, room).await;
    }
    let mut body = vec![0; header("content-length").unwrap_or("0").parse().unwrap()];
    stream.read_exact(&mut body).await?;
    if path == RENEW_PATH {
        let (answer, answered) = oneshot::channel();
        let request = serde_json::from_slice(&body).unwrap();
        drop(told.send(Call::Renewal { request, answer }).await);
        let Ok(body) = answered.await else { return Ok(()) };
        return reply(stream, &body).await;
    }
    if let Some(place) = path.strip_prefix(protocol::collection::PATH) {
        let (answer, answered) = oneshot::channel();
        let chunk = head.starts_with("PUT ").then_some(body);
        let brought = Brought { place: place.to_owned(), chunk, answer };
        drop(told.send(Call::Collection(brought)).await);
        let Ok(body) = answered.await else { return Ok(()) };
        if body == GONE {
            return gone(stream).await;
        }
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

async fn gone(mut stream: TlsStream<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n").await?;
    stream.shutdown().await
}

async fn turn_away(mut stream: TlsStream<TcpStream>, room: Room) -> std::io::Result<()> {
    let Room { retry_after_secs, other } = room;
    let refusal = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\ntocsin-close: 4009\r\n\
         retry-after: {retry_after_secs}\r\ntocsin-hubs: https://{other}\r\n\r\n"
    );
    stream.write_all(refusal.as_bytes()).await?;
    stream.shutdown().await
}

async fn redirect(
    mut stream: TlsStream<TcpStream>,
    elsewhere: SocketAddr,
    path: &str,
) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 307 Temporary Redirect\r\ncontent-length: 0\r\n\
         location: https://{elsewhere}{path}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

async fn reply(mut stream: TlsStream<TcpStream>, body: &str) -> std::io::Result<()> {
    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}
