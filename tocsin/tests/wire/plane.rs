//! The control plane's process: takes orders, sends and sends again, hears what devices report, and
//! answers check-ins over real TLS.
//!
//! Stands in for `api`, whose store has threads and files. It may be killed at any step; its store
//! stays.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker::{Broker, BrokerError, Downstream, Upstream, UpstreamReader};
use protocol::enrollment::DeviceIdentity;
use protocol::frame::{AgentFrame, CHECK_IN_PATH, Exchange, Frame as _, HubFrame};
use protocol::id::{CommandId, HubId};
use protocol::limits;
use protocol::receipt::{self, Outcome};
use protocol::run::{Heard, Run};
use protocol::session::hub::{Pace, welcome};
use protocol::state::Lane;
use push_hub::port::Port as _;
use runtime::Entropy;
use runtime::tls::{ClientAuth, Leaf, TlsStream, accept, server_config};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bus::Bus;
use crate::fleet::{Fleet, GENERATION, device_id, device_name, device_number};
use crate::life::Life;
use crate::net::{SimPort, Watched};
use crate::scene::Scene;
use crate::store::{State, Store, lane_name};

/// Its host.
pub(crate) const NAME: &str = "api";
/// How long a call to the broker may take.
const CALL: Duration = Duration::from_secs(2);
/// Between two rounds of redelivery, and after an error.
const ROUND: Duration = Duration::from_secs(1);
/// What a check-in may take.
const CHECK_IN: Duration = Duration::from_secs(10);
/// Commands of one answer: fewer than a check-in has room for.
const COMMANDS: usize = 100;

/// The control plane, whether its process runs or not.
pub(crate) struct Plane {
    scene: Arc<Scene>,
    pub(crate) life: Arc<Life>,
    fleet: Arc<Fleet>,
    tls: Arc<ServerConfig>,
    pub(crate) bus: Arc<Bus>,
    chance: Entropy,
    store: Mutex<Store>,
    /// Committed, and not yet sent for the first time.
    fresh: Mutex<Vec<usize>>,
    ordered: Notify,
    /// What is remembered of the runs of each device's agents.
    heard: Mutex<BTreeMap<usize, Heard>>,
    /// Every hub was told of the revocation once.
    has_told: AtomicBool,
}

impl Plane {
    pub(crate) fn new(scene: &Arc<Scene>, fleet: &Arc<Fleet>, bus: Bus) -> Self {
        let clients = ClientAuth::Required(fleet.authorities());
        let tls = server_config(&fleet.server(NAME), clients, &[b"http/1.1"]);
        Self {
            scene: scene.clone(),
            life: Life::new(NAME.to_owned(), scene),
            fleet: fleet.clone(),
            tls: Arc::new(tls.expect("key and certificate fit")),
            bus: Arc::new(bus),
            chance: scene.entropy(NAME, 0),
            store: Mutex::default(),
            fresh: Mutex::default(),
            ordered: Notify::new(),
            heard: Mutex::default(),
            has_told: AtomicBool::new(false),
        }
    }

    /// No device is ever taken for two: there is one of each here, whatever becomes of it.
    fn judge(&self, device: usize, run: Option<Run>) {
        let Some(run) = run else {
            return self.scene.breaks(format_args!("device-{device} does not say its run"));
        };
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let known = heard.entry(device).or_insert_with(|| run.into());
        if known.is_contradicted_by(run) {
            self.scene.breaks(format_args!("device-{device} is taken for two: {known:?}, {run:?}"));
        }
        *known = known.and(run);
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> MutexGuard<'_, Vec<usize>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits an order, and has it sent.
    pub(crate) fn order(&self, device: usize, lane: Lane) {
        let with = (&self.fleet.organisation, &*self.scene, &self.chance);
        let at = self.store().order(device, lane, with);
        self.fresh().push(at);
        self.ordered.notify_one();
    }

    /// Ends the enrollment of a device. Hubs are told within a round.
    pub(crate) fn revoke(&self, device: usize) {
        self.scene.note(format_args!("device-{device} is revoked"));
        self.store().revoked = Some(device);
    }

    /// The process. It ends only by being killed.
    pub(crate) async fn run(self: Arc<Self>) -> turmoil::Result {
        self.life.begin().await;
        // What a former process had in hand comes with redelivery.
        self.fresh().clear();
        let port = SimPort::bind(&self.life).await?;
        let mut tasks = JoinSet::new();
        let (listening, hearing, sending) = (self.clone(), self.clone(), self);
        tasks.spawn(async move { listening.listen(port).await });
        tasks.spawn(async move { hearing.hear().await });
        tasks.spawn(async move { sending.send().await });
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(())
    }

    async fn send(&self) {
        let mut rounds = tokio::time::interval(ROUND);
        loop {
            let rows = tokio::select! {
                biased;
                () = self.ordered.notified() => std::mem::take(&mut *self.fresh()),
                _ = rounds.tick() => {
                    let revoked = self.store().revoked;
                    if let Some(device) = revoked {
                        self.tell_revoked(device).await;
                    }
                    self.store().due(self.scene.now())
                }
            };
            for at in rows {
                self.send_one(at).await;
            }
        }
    }

    /// Every hub once, and again whichever has the device.
    async fn tell_revoked(&self, device: usize) {
        if !self.has_told.load(Ordering::SeqCst) {
            let Ok(hubs) = call(self.bus.hubs()).await else { return };
            for lease in hubs {
                self.say_revoked(&lease.hub, device).await;
            }
            self.has_told.store(true, Ordering::SeqCst);
        }
        if let Ok(places) = call(self.bus.locate(&[device_id(device)])).await {
            for presence in places.into_iter().flatten() {
                self.say_revoked(&presence.hub, device).await;
            }
        }
    }

    async fn say_revoked(&self, hub: &HubId, device: usize) {
        let revoked =
            Downstream::Revoke { device: device_id(device), through_generation: GENERATION };
        let taken = call(self.bus.publish(hub, vec![revoked])).await;
        self.scene.note(format_args!("to {hub}: device-{device} is revoked: {taken:?}"));
    }

    async fn send_one(&self, at: usize) {
        let (device, frame) = {
            let store = self.store();
            (store.rows[at].device, store.frame(at))
        };
        let now = self.scene.now();
        let Ok(places) = call(self.bus.locate(&[device_id(device)])).await else {
            return self.store().sent(&[at], true, now);
        };
        let was_taken = match places.into_iter().flatten().next() {
            Some(presence) => {
                let frames = vec![HubFrame::Command(frame)];
                self.publish(&presence.hub, device, frames).await
            }
            None => false,
        };
        self.store().sent(&[at], was_taken, now);
    }

    /// Whether a hub took frames for a device.
    async fn publish(&self, hub: &HubId, device: usize, frames: Vec<HubFrame>) -> bool {
        let what: Vec<_> = frames.iter().map(|frame| self.describe(frame)).collect();
        let part = Downstream::Deliver { device: device_id(device), frames };
        let taken = call(self.bus.publish(hub, vec![part])).await;
        let (device, what) = (device_name(device_id(device)), what.join(", "));
        self.scene.note(format_args!("to {device} by {hub}: {what}: {taken:?}"));
        taken.is_ok_and(|hubs| hubs > 0)
    }

    /// Reads what hubs pass on, commits it, answers, and acknowledges.
    async fn hear(&self) {
        loop {
            match call(self.bus.read_upstream()).await {
                Ok(mut reader) => while self.hear_batch(&mut *reader).await.is_ok() {},
                Err(_) => tokio::time::sleep(ROUND).await,
            }
        }
    }

    async fn hear_batch(&self, reader: &mut dyn UpstreamReader) -> Result<(), BrokerError> {
        for Upstream { device, hub, frame, .. } in reader.next().await? {
            let Some(device) = device_number(device) else { continue };
            if frame.check().is_err() {
                self.scene.breaks(format_args!("device-{device} sent a frame out of bounds"));
            }
            let is_revoked = self.store().revoked == Some(device);
            if is_revoked {
                self.say_revoked(&hub, device).await;
                continue;
            }
            let (frames, rows) = self.exchange(device, vec![frame], hub.as_str());
            if frames.is_empty() {
                continue;
            }
            let was_taken = self.publish(&hub, device, frames).await;
            if was_taken {
                self.store().sent(&rows, true, self.scene.now());
            }
        }
        reader.acknowledge().await
    }

    /// Commits what a device reports, and answers what it asks for.
    fn exchange(
        &self,
        device: usize,
        frames: Vec<AgentFrame>,
        by: &str,
    ) -> (Vec<HubFrame>, Vec<usize>) {
        let (mut answer, mut rows, mut receipts) = (Vec::new(), Vec::new(), Vec::new());
        for frame in frames {
            let kind = match &frame {
                AgentFrame::Hello(_) => "hello",
                AgentFrame::Sync { .. } => "sync",
                AgentFrame::Ack { .. } => "ack",
                AgentFrame::Progress { .. } => "progress",
                AgentFrame::Proof { .. } => "proof",
                AgentFrame::Escrow { .. } => "escrow",
                AgentFrame::Receipt { .. } => "receipt",
                AgentFrame::Notice { .. } => "notice",
                AgentFrame::Unknown => "unknown",
            };
            if let AgentFrame::Hello(hello) = &frame {
                self.judge(device, hello.run);
            }
            match frame {
                AgentFrame::Hello(protocol::frame::Hello { last_seq, .. })
                | AgentFrame::Sync { last_seq } => {
                    let seen = format!("{}/{}", last_seq.urgent, last_seq.bulk);
                    self.scene.note(format_args!("from device-{device} by {by}: {kind} {seen}"));
                    let (commands, all) = self.store().pending(device, last_seq);
                    answer = commands.into_iter().take(COMMANDS).map(HubFrame::Command).collect();
                    rows = all.into_iter().take(COMMANDS).collect();
                }
                AgentFrame::Ack { command_id } => {
                    self.happen((device, by), command_id, State::Acked)
                }
                AgentFrame::Receipt { command_id, jws } => {
                    let is_sound = receipt::verify(&jws, &self.fleet.keys[device])
                        .is_ok_and(|it| matches!(it.outcome, Outcome::Succeeded { .. }));
                    if !is_sound {
                        self.scene.breaks(format_args!("device-{device} did not succeed"));
                    }
                    self.happen((device, by), command_id, State::Done);
                    receipts.push(jws.sha256());
                }
                // Simulated executors prove nothing before the end.
                AgentFrame::Progress { .. }
                | AgentFrame::Proof { .. }
                | AgentFrame::Escrow { .. }
                | AgentFrame::Notice { .. }
                | AgentFrame::Unknown => {}
            }
        }
        if !receipts.is_empty() {
            answer.push(HubFrame::Confirmed { receipts });
        }
        (answer, rows)
    }

    fn happen(&self, (device, by): (usize, &str), id: CommandId, state: State) {
        let now = self.scene.now();
        let mut store = self.store();
        let Some(row) = store.row(id).filter(|row| row.device == device) else {
            return self.scene.breaks(format_args!("device-{device} answers what it was not sent"));
        };
        let (lane, seq) = (lane_name(row.lane), row.seq);
        row.state = row.state.max(state);
        row.heard_at.get_or_insert(now);
        self.scene.note(format_args!("from device-{device} by {by}: {state:?} {lane} {seq}"));
    }

    fn describe(&self, frame: &HubFrame) -> String {
        match frame {
            HubFrame::Command(command) => {
                let mut store = self.store();
                let row = store.row(command.command_id).expect("only what was ordered is sent");
                format!("{} {}", lane_name(row.lane), row.seq)
            }
            HubFrame::Confirmed { receipts } => format!("{} confirmed", receipts.len()),
            HubFrame::Welcome(_)
            | HubFrame::Trust { .. }
            | HubFrame::Checkpoint { .. }
            | HubFrame::Mode { .. }
            | HubFrame::Reconnect(_)
            | HubFrame::Unknown => "something else".to_owned(),
        }
    }

    async fn listen(self: Arc<Self>, port: SimPort) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Ok((stream, _)) = port.accept() => {
                    let plane = self.clone();
                    connections.spawn(async move {
                        // An agent whose check-in breaks off tries again.
                        drop(timeout(CHECK_IN, plane.check_in(stream)).await);
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// One check-in: a request on a connection of its own.
    async fn check_in(&self, stream: Watched) -> io::Result<()> {
        let shaken = accept(stream, self.tls.clone(), CHECK_IN).await;
        let (mut stream, peer) = shaken.map_err(io::Error::other)?;
        let leaf = peer.certificate.as_ref().and_then(|leaf| Leaf::read(leaf).ok());
        let who =
            leaf.and_then(|leaf| DeviceIdentity::from_uris(leaf.uris.iter().map(String::as_str)));
        let Some(device) = who.and_then(|who| device_number(who.device)) else {
            self.scene.breaks(format_args!("somebody who is no device got in"));
            return Ok(());
        };
        let frames = read_request(&mut stream).await?;
        let is_revoked = self.store().revoked == Some(device);
        if is_revoked {
            let refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(refusal).await?;
            return stream.shutdown().await;
        }
        let (frames, rows) = self.exchange(device, frames, NAME);
        // The answer is the delivery: written down before it leaves.
        self.store().sent(&rows, true, self.scene.now());
        let session = protocol::id::SessionId::new(self.scene.wall(), self.chance.bytes());
        let mut answer =
            vec![HubFrame::Welcome(welcome(session, Pace::default(), self.scene.wall()))];
        answer.extend(frames);
        let body = serde_json::to_string(&Exchange { frames: answer })?;
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    }
}

async fn read_request(stream: &mut TlsStream<Watched>) -> io::Result<Vec<AgentFrame>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < limits::UPGRADE_HEADER_BYTES {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    assert!(head.starts_with(&format!("POST {CHECK_IN_PATH} ")), "agents only check in: {head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|text| text.parse::<usize>().ok());
    let mut body = vec![0; length.filter(|bytes| *bytes <= limits::EXCHANGE_BYTES).unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice::<Exchange<AgentFrame>>(&body)?.frames)
}

async fn call<T>(call: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
    timeout(CALL, call).await.unwrap_or(Err(BrokerError::Unavailable))
}
