//! Who gives orders and who obeys them: an operator at the routes, a hub at the bus, devices with keys.
//!
//! Nobody of them takes part in a connection: what TLS and HTTP cost is not the orders' own.

use std::sync::Arc;
use std::time::Duration;

use api::audit::Actor;
use api::{Api, Config, Deps};
use axum::body::Body;
use axum::http::Request;
use broker::{Broker as _, Downstream, HubLease, MemoryBroker, Presence, Subscription, Upstream};
use futures_util::future::join_all;
use protocol::frame::{AgentFrame, CommandFrame, HubFrame};
use protocol::id::{BootId, DeviceId, SessionId};
use protocol::key::DeviceKey;
use protocol::receipt::{self, Evidence, Outcome, Receipt};
use protocol::time::Timestamp;
use runtime::clock::ManualClock;
use runtime::{Drain, Entropy};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tower::Service as _;
use uuid::Uuid;

/// Devices of the fleet.
const DEVICES: usize = 500;
/// When everything happens.
const NOW: u64 = 1_767_225_600_000;

/// A control plane, and everybody whom it meets.
pub(crate) struct Stage {
    _api: Api,
    operator: axum::Router,
    token: String,
    hand: ManualClock,
    broker: Arc<MemoryBroker>,
    lease: HubLease,
    hub: Box<dyn Subscription>,
    head: watch::Receiver<i64>,
    devices: Vec<(DeviceId, DeviceKey)>,
    orders: usize,
    _folder: TempDir,
}

/// A command that arrived, and who has it.
pub(crate) type Given = (usize, CommandFrame);

/// Its receipt.
pub(crate) type Said = (usize, CommandFrame, AgentFrame);

impl Stage {
    pub(crate) async fn set() -> Self {
        let folder = tempfile::tempdir().expect("there is a folder");
        let (hand, entropy) = (ManualClock::new(), Entropy::seeded(7));
        hand.set_unix_millis(NOW);
        let broker = Arc::new(MemoryBroker::new(hand.clock()));
        let config = Config {
            data_dir: folder.path().join("data"),
            operator_listen: ([127, 0, 0, 1], 0).into(),
            agent_listen: ([127, 0, 0, 1], 0).into(),
            job_period: Duration::from_secs(3600),
            ..Config::default()
        };
        let deps = Deps {
            broker: broker.clone(),
            clock: hand.clock(),
            entropy: entropy.clone(),
            drain: Drain::new(),
        };
        let mut api = Api::start(config, deps).await.expect("it starts");
        let token = api.first_start.take().expect("it is the first").token.expose().to_owned();
        let incarnation = SessionId::new(now(&hand), entropy.bytes());
        let lease = HubLease { hub: "hub-1".parse().expect("a name"), incarnation };
        broker.renew_lease(&lease).await.expect("nobody else has it");
        let hub = broker.subscribe(&lease).await.expect("it has the lease");
        let devices = enroll(&api, &hand, &entropy).await;
        for (id, _) in &devices {
            let presence = Presence::new(&lease, incarnation, 0);
            broker.arrive(*id, presence).await.expect("it is noted");
        }
        let (operator, head) = (api.operator_router(), api.app().db.events_head());
        let orders = 0;
        Self {
            _api: api,
            operator,
            token,
            hand,
            broker,
            lease,
            hub,
            head,
            devices,
            orders,
            _folder: folder,
        }
    }

    /// Gives orders of one device each, so many at a time, until each has arrived.
    pub(crate) async fn give(&mut self, count: usize, together: usize) -> Vec<Given> {
        let mut given = Vec::with_capacity(count);
        while given.len() < count {
            let requests: Vec<_> = (0..together).map(|_| self.request()).collect();
            let operator = self.operator.clone();
            let answers = requests.into_iter().map(|request| operator.clone().call(request));
            for answer in join_all(answers).await {
                let Ok(answer) = answer;
                assert_eq!(answer.status(), 201);
            }
            for _ in 0..together {
                given.push(self.arrived().await);
            }
        }
        given
    }

    fn request(&mut self) -> Request<Body> {
        self.hand.advance(Duration::from_millis(1));
        self.orders += 1;
        let (device, _) = &self.devices[self.orders * 7919 % DEVICES];
        let body = json!({
            "action": { "verb": "refresh", "params": {} },
            "targets": { "devices": [device] },
        });
        Request::post("/v1/orders")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .header("idempotency-key", format!("order-{}", self.orders))
            .body(Body::from(body.to_string()))
            .expect("a request")
    }

    async fn arrived(&mut self) -> Given {
        loop {
            let Some(Downstream::Deliver { device, frames }) = self.hub.next().await else {
                panic!("no command");
            };
            if let [HubFrame::Command(frame)] = frames.as_slice() {
                let known = self.devices.iter().position(|(id, _)| *id == device);
                return (known.expect("it is one of them"), frame.clone());
            }
        }
    }

    /// Signs that each command succeeded.
    pub(crate) fn sign(&self, given: &[Given]) -> Vec<Said> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let sign = |(device, command): &Given| {
            let (id, key) = &self.devices[*device];
            let claims = Receipt {
                iss: *id,
                generation: 1,
                command_id: command.command_id,
                order_id: None,
                verb: None,
                outcome: Outcome::Succeeded { evidence: Evidence::new().with("sessions", 0) },
                started_at: Timestamp::from_millis(1),
                finished_at: Timestamp::from_millis(2),
                boot_id: BootId::from_uuid(Uuid::nil()),
                agent_version: "0.1.0".to_owned(),
                envelope_sha256: command.jws.sha256(),
            };
            let jws = receipt::sign(&claims, &key.signer(&random)).expect("it is signed");
            let receipt = AgentFrame::Receipt { command_id: command.command_id, jws };
            (*device, command.clone(), receipt)
        };
        given.iter().map(sign).collect()
    }

    /// Acknowledges commands, so many at a time, and hands their receipts in once that is written.
    pub(crate) async fn report(&mut self, said: Vec<Said>, together: usize) {
        for said in said.chunks(together) {
            let acks = said.iter().map(|(device, command, _)| {
                (*device, AgentFrame::Ack { command_id: command.command_id })
            });
            let acked = *self.head.borrow_and_update() + i64::try_from(together).unwrap_or(0);
            self.say(acks.collect()).await;
            self.head.wait_for(|seq| *seq >= acked).await.expect("it runs");
            let receipts = said.iter().map(|(device, _, receipt)| (*device, receipt.clone()));
            self.say(receipts.collect()).await;
            let mut confirmed = 0;
            while confirmed < said.len() {
                let Some(Downstream::Deliver { frames, .. }) = self.hub.next().await else {
                    panic!("not confirmed");
                };
                let is_word = |frame: &&HubFrame| matches!(frame, HubFrame::Confirmed { .. });
                confirmed += frames.iter().filter(is_word).count();
            }
        }
    }

    async fn say(&self, words: Vec<(usize, AgentFrame)>) {
        let batch = words.into_iter().map(|(device, frame)| Upstream {
            device: self.devices[device].0,
            generation: 1,
            hub: self.lease.hub.clone(),
            session: self.lease.incarnation,
            frame,
        });
        self.broker.send_upstream(batch.collect()).await.expect("there is room");
    }

    /// All of it once.
    pub(crate) async fn warm_up(&mut self, count: usize, together: usize) {
        let given = self.give(count, together).await;
        let said = self.sign(&given);
        self.report(said, together).await;
    }
}

fn now(hand: &ManualClock) -> Timestamp {
    Timestamp::from_millis(hand.clock().unix_millis())
}

async fn enroll(api: &Api, hand: &ManualClock, entropy: &Entropy) -> Vec<(DeviceId, DeviceKey)> {
    let device = |_| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let key = DeviceKey::from_pkcs8(&key.serialize_der()).expect("of the right kind");
        (DeviceId::new(now(hand), entropy.bytes()), key)
    };
    let devices: Vec<_> = (0..DEVICES).map(device).collect();
    let mut tx = api.app().db.write(Actor::System, now(hand)).await.expect("the store is there");
    for (id, key) in &devices {
        api::fixture::insert_device(&mut tx, *id, &key.public()).await.expect("it is new");
    }
    tx.commit().await.expect("it is written");
    devices
}
