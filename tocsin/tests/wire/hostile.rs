//! A broker that is somebody else's, between a real hub and a real device, over real sockets: what
//! it repeats, mixes up or makes up has no effect, and the device's signed refusal says so.
//! What it says to the control plane is met in the tests of that.

use std::sync::Arc;
use std::time::Duration;

use agent::Agent;
use agent::config::{ArmingConfig, PowerConfig};
use agent::execute::simulated::EFFECTS_LOG;
use agent::status::Rung;
use arc_swap::ArcSwap;
use broker::{Broker as _, Downstream, HubLease, MemoryBroker, Presence, UpstreamReader};
use protocol::action::{Action, Unlock};
use protocol::envelope::Envelope;
use protocol::fixture::{command, device, lock, session, wipe};
use protocol::frame::{AgentFrame, CommandFrame, Frame as _, HubFrame, Reconnect};
use protocol::id::{DeviceId, HubId};
use protocol::jws::CompactJws;
use protocol::limits;
use protocol::manifest::DeviceTree;
use protocol::receipt::{self, Outcome, Receipt, RefusalReason};
use protocol::session::hub::{Pace, welcome};
use protocol::state::Lane;
use protocol::time::Timestamp;
use protocol::trust::{SignedTrustRoot, TrustRoot};
use push_hub::config::AdmissionConfig;
use push_hub::{Hub, agent_tls};
use runtime::admin::Readiness;
use runtime::tls::Tickets;
use runtime::{Clock, Drain, Entropy};

use crate::fleet::{Fleet, device_id, hub_name};

/// Only against hanging.
const GUARD: Duration = Duration::from_secs(240);

/// A device, its hub, and the broker that an attacker has.
struct Scene {
    fleet: Fleet,
    broker: Arc<MemoryBroker>,
    heard: Box<dyn UpstreamReader>,
    agent: Agent,
    _hub: Hub,
}

fn now() -> Timestamp {
    Timestamp::from_millis(Clock::system().unix_millis()).whole_secs()
}

/// Waits for a condition.
async fn until(is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GUARD, waiting).await.expect("the condition comes true");
}

fn hub_id() -> HubId {
    hub_name(0).parse().expect("a plain name")
}

impl Scene {
    async fn new() -> Self {
        let fleet = Fleet::new();
        let broker = Arc::new(MemoryBroker::new(Clock::system()));
        let heard = broker.read_upstream().await.expect("a reader");
        let hub = start_hub(&fleet, broker.clone()).await;
        let agent = start_agent(&fleet, hub.agent_addr().to_string());
        let mut scene = Self { fleet, broker, heard, agent, _hub: hub };
        scene.hello().await;
        until(|| scene.agent.status().ladder.session_id.is_some()).await;
        scene
    }

    /// The next word of the device that fits.
    async fn hears(&mut self, fits: impl Fn(&AgentFrame) -> bool) -> AgentFrame {
        let hearing = async {
            loop {
                let batch = self.heard.next().await.expect("the broker runs");
                let mut frames = batch.into_iter().map(|message| message.frame);
                // Whoever waits for one has sent nothing that asks for two.
                if let Some(found) = frames.find(&fits) {
                    return found;
                }
            }
        };
        tokio::time::timeout(GUARD, hearing).await.expect("the device speaks")
    }

    async fn hello(&mut self) {
        self.hears(|frame| matches!(frame, AgentFrame::Hello(_))).await;
    }

    /// Has the hub told that.
    async fn publishes(&self, message: Downstream) {
        let taken = self.broker.publish(&hub_id(), vec![message]).await.expect("the broker runs");
        assert_eq!(taken, 1, "the hub is subscribed");
    }

    async fn delivers(&self, frames: Vec<HubFrame>) {
        self.publishes(Downstream::Deliver { device: device_id(0), frames }).await;
    }

    /// The receipt of the device about that delivery, of whatever it says.
    async fn receipt(&mut self, frame: &CommandFrame) -> (CompactJws, Receipt) {
        let sha256 = frame.jws.sha256();
        let key = self.fleet.keys[0].clone();
        let read = |frame: &AgentFrame| {
            let AgentFrame::Receipt { jws, .. } = frame else { return None };
            let receipt = receipt::verify(jws, &key).expect("its own signature");
            (receipt.envelope_sha256 == sha256).then(|| (jws.clone(), receipt))
        };
        let said = self.hears(|frame| read(frame).is_some()).await;
        read(&said).expect("it was one")
    }

    /// Why the device refuses that delivery.
    async fn refusal(&mut self, frame: CommandFrame) -> RefusalReason {
        self.delivers(vec![HubFrame::Command(frame.clone())]).await;
        let (_, receipt) = self.receipt(&frame).await;
        let Outcome::Refused { reason, .. } = receipt.outcome else { panic!("{receipt:?}") };
        reason
    }

    /// Delivers a good command, which is done, and everything before it has been judged.
    async fn obeys(&mut self, good: &CommandFrame) -> CompactJws {
        self.delivers(vec![HubFrame::Command(good.clone())]).await;
        let (jws, receipt) = self.receipt(good).await;
        assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
        jws
    }

    /// What the device did.
    fn effects(&self) -> Vec<String> {
        let log = self.fleet.state_dir(0).join(EFFECTS_LOG);
        std::fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The claims of an order for that device, valid now.
    fn claims(&self, number: u8, action: Action, seq: u64, device: DeviceId) -> Envelope {
        let mut claims = self.fleet.organisation.envelope(number, action, device, seq);
        (claims.iat, claims.nbf) = (now(), now());
        claims.exp = now().plus(Duration::from_secs(600));
        claims.manifest.expires_at = claims.exp;
        claims
    }

    fn lock(&self, number: u8, seq: u64) -> CommandFrame {
        self.signed(&self.claims(number, lock(), seq, device_id(0)))
    }

    /// A wipe that two persons approved.
    fn wipe(&self) -> Envelope {
        let organisation = &self.fleet.organisation;
        let claims = self.claims(1, wipe(), 1, device_id(0));
        organisation.approved(claims, &[&organisation.alice, &organisation.bob])
    }

    fn signed(&self, claims: &Envelope) -> CommandFrame {
        self.fleet.organisation.deliver(claims, 0)
    }

    fn trust(&self, version: u32, change: impl FnOnce(&mut TrustRoot)) -> HubFrame {
        let mut root = TrustRoot { version, ..self.fleet.organisation.trust.clone() };
        change(&mut root);
        let root = SignedTrustRoot::sign(&root, &[&self.fleet.organisation.root_key]);
        HubFrame::Trust { root: root.expect("the fixture signs") }
    }
}

async fn start_hub(fleet: &Fleet, broker: Arc<MemoryBroker>) -> Hub {
    let config = push_hub::Config {
        name: hub_id(),
        listen: ([127, 0, 0, 1], 0).into(),
        admission: AdmissionConfig {
            source_burst: 100_000,
            device_burst: 100_000,
            tls_timeout: GUARD,
            head_timeout: GUARD,
            hello_timeout: GUARD,
            ..AdmissionConfig::default()
        },
        ..push_hub::Config::default()
    };
    let tickets = Tickets::new(Default::default(), Clock::system(), Entropy::system());
    let tls = agent_tls(&fleet.server("127.0.0.1"), fleet.authorities(), &tickets);
    let deps = push_hub::Deps {
        broker,
        clock: Clock::system(),
        entropy: Entropy::system(),
        tls: Arc::new(ArcSwap::from_pointee(tls.expect("key and certificate fit"))),
        readiness: Readiness::new(&[]),
        drain: Drain::new(),
    };
    Hub::start(config, deps).await.expect("a hub")
}

fn start_agent(fleet: &Fleet, hub: String) -> Agent {
    let state_dir = fleet.state_dir(0);
    let mut config = agent::Config { state_dir: state_dir.clone(), ..Default::default() };
    config.addresses.hubs = vec![hub];
    config.host.arming = ArmingConfig::Simulated;
    config.host.power = PowerConfig::Record(state_dir.join("power.log"));
    config.ladder.backoff_base = Duration::from_millis(5);
    config.ladder.backoff_cap = Duration::from_millis(50);
    config.ladder.resend = Duration::from_millis(50);
    let (clock, entropy) = (Clock::system(), Entropy::system());
    Agent::start(config, agent::Deps { clock, entropy, drain: Drain::new() }).expect("an agent")
}

/// The same delivery with other claims under the old signature, and under another name.
fn altered(frame: &CommandFrame, number: u8, alter: impl FnOnce(&mut Envelope)) -> CommandFrame {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let parts: Vec<&str> = frame.jws.as_str().split('.').collect();
    let claims = BASE64.decode(parts[1]).expect("base64url");
    let mut claims: Envelope = serde_json::from_slice(&claims).expect("claims");
    alter(&mut claims);
    let claims = BASE64.encode(serde_json::to_vec(&claims).expect("JSON"));
    let jws = CompactJws::from_text(format!("{}.{claims}.{}", parts[0], parts[2]));
    assert_ne!(jws, frame.jws);
    CommandFrame { command_id: command(number), jws, ..frame.clone() }
}

fn line(frame: &CommandFrame) -> String {
    format!("lock {}", frame.command_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_replays_an_order_gets_one_effect_and_one_receipt() {
    let mut scene = Scene::new().await;
    let (locked, unlocked) = (scene.lock(1, 1), {
        let unlock = scene.claims(2, Action::Unlock(Unlock {}), 2, device_id(0));
        scene.signed(&unlock)
    });
    let first = scene.obeys(&locked).await;
    scene.obeys(&unlocked).await;
    for _ in 0..3 {
        assert_eq!(scene.obeys(&locked).await, first);
    }
    // Under a number of before, and under another name.
    assert_eq!(scene.refusal(scene.lock(3, 1)).await, RefusalReason::Replayed);
    let unlocked = format!("unlock {}", unlocked.command_id);
    assert_eq!(scene.effects(), [line(&locked), unlocked]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_reorders_has_the_earlier_order_refused_visibly() {
    let mut scene = Scene::new().await;
    let (earlier, later) = (scene.lock(1, 1), scene.lock(2, 2));
    scene.obeys(&later).await;
    assert_eq!(scene.refusal(earlier).await, RefusalReason::Replayed);
    assert_eq!(scene.effects(), [line(&later)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_alters_an_order_is_refused() {
    let mut scene = Scene::new().await;
    let good = scene.lock(1, 1);
    let alterations: [fn(&mut Envelope); 4] = [
        |claims| claims.jti = command(9),
        |claims| claims.seq = 9,
        |claims| claims.exp = claims.exp.plus(Duration::from_secs(60)),
        |claims| claims.manifest.action = wipe(),
    ];
    for (number, alter) in (100..).zip(alterations) {
        let reason = scene.refusal(altered(&good, number, alter)).await;
        assert_eq!(reason, RefusalReason::BadSignature);
    }
    scene.obeys(&good).await;
    assert_eq!(scene.effects(), [line(&good)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_retargets_another_devices_order_is_refused() {
    let mut scene = Scene::new().await;
    let theirs = scene.signed(&scene.claims(1, lock(), 1, device_id(1)));
    assert_eq!(scene.refusal(theirs.clone()).await, RefusalReason::WrongAudience);
    let renamed = altered(&theirs, 100, |claims| claims.aud = device_id(0));
    assert_eq!(scene.refusal(renamed).await, RefusalReason::BadSignature);
    let good = scene.lock(2, 1);
    scene.obeys(&good).await;
    assert_eq!(scene.effects(), [line(&good)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_strips_approvals_is_refused() {
    let mut scene = Scene::new().await;
    let approved = scene.signed(&scene.wipe());
    let strips: [fn(&mut Envelope); 2] =
        [|claims| drop(claims.approvals.pop()), |claims| claims.approvals.clear()];
    for (number, strip) in (100..).zip(strips) {
        let reason = scene.refusal(altered(&approved, number, strip)).await;
        assert_eq!(reason, RefusalReason::BadSignature);
    }
    assert_eq!(scene.effects(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_doubles_an_approval_is_refused() {
    let mut scene = Scene::new().await;
    let one = Envelope { approvals: scene.wipe().approvals[..1].to_vec(), ..scene.wipe() };
    let one = scene.signed(&one);
    let doubled = altered(&one, 100, |claims| claims.approvals.push(claims.approvals[0].clone()));
    assert_eq!(scene.refusal(doubled).await, RefusalReason::BadSignature);
    // As the control plane signed it, it is not enough either.
    assert_eq!(scene.refusal(one).await, RefusalReason::MissingApproval);
    assert_eq!(scene.effects(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_widens_a_manifest_is_refused() {
    let mut scene = Scene::new().await;
    let approved = scene.signed(&scene.wipe());
    let widenings: [fn(&mut Envelope); 3] = [
        |claims| claims.manifest.expires_at = claims.exp.plus(Duration::from_secs(60)),
        |claims| claims.manifest.device_count = 50,
        |claims| {
            let devices = DeviceTree::new([device_id(0), device(50)]).expect("two devices");
            (claims.manifest.device_root, claims.manifest.device_count) = (devices.root(), 2);
            claims.proof = devices.proof(&device_id(0)).expect("one of them");
        },
    ];
    for (number, widen) in (100..).zip(widenings) {
        let reason = scene.refusal(altered(&approved, number, widen)).await;
        assert_eq!(reason, RefusalReason::BadSignature);
    }
    assert_eq!(scene.effects(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_rolls_the_trust_root_back_is_not_followed() {
    let mut scene = Scene::new().await;
    let strict = |root: &mut TrustRoot| {
        root.approvals.insert("lock".to_owned(), 1);
    };
    let before = HubFrame::Trust { root: scene.fleet.organisation.signed_trust() };
    // The newest first, then the next, then the one from before.
    scene.delivers(vec![scene.trust(3, |_| ()), scene.trust(2, strict), before]).await;
    assert_eq!(scene.refusal(scene.lock(1, 1)).await, RefusalReason::MissingApproval);
    let said = || scene.agent.status().commands.last_error.unwrap_or_default();
    until(|| said().contains("trust root was not taken")).await;
    assert_eq!(scene.agent.status().commands.trust_version, 2);
    assert_eq!(scene.effects(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_ends_sessions_has_them_back_with_everything_that_waits() {
    let mut scene = Scene::new().await;
    for number in 1..=3 {
        let here = scene.broker.locate(&[device_id(0)]).await.expect("the broker runs");
        let session = here[0].as_ref().expect("it is there").session;
        scene.publishes(Downstream::Replaced { device: device_id(0), session }).await;
        scene.hello().await;
        scene.obeys(&scene.lock(number, number.into())).await;
    }
    assert_eq!(scene.effects().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_claims_a_devices_presence_for_ever_is_seen_by_the_device() {
    let mut scene = Scene::new().await;
    let lease = HubLease { hub: "hub-evil".parse().expect("a name"), incarnation: session(66) };
    scene.broker.renew_lease(&lease).await.expect("the broker runs");
    let for_ever = Presence::new(&lease, session(67), limits::EPOCH_MAX);
    scene.broker.arrive(device_id(0), for_ever).await.expect("the broker runs");
    let here = scene.broker.locate(&[device_id(0)]).await.expect("the broker runs");
    assert_eq!(here[0].as_ref().map(|here| here.session), Some(session(67)));
    // The session that stands goes on: what is sent to its hub arrives.
    let good = scene.lock(1, 1);
    scene.obeys(&good).await;
    // Any later one is told that it is not the newest, and the device knows that it is degraded.
    let session = scene.agent.status().ladder.session_id.expect("a session");
    scene.publishes(Downstream::Replaced { device: device_id(0), session }).await;
    until(|| scene.agent.status().ladder.degraded_since.is_some()).await;
    assert_eq!(scene.effects(), [line(&good)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_confirms_what_no_store_holds_is_told_the_outcome_again() {
    let mut scene = Scene::new().await;
    let good = scene.lock(1, 1);
    let receipt = scene.obeys(&good).await;
    scene.delivers(vec![HubFrame::Confirmed { receipts: vec![receipt.sha256()] }]).await;
    assert_eq!(scene.obeys(&good).await, receipt);
    assert_eq!(scene.effects(), [line(&good)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_speaks_as_the_hub_itself_is_not_passed_on() {
    let mut scene = Scene::new().await;
    let session_of = |scene: &Scene| scene.agent.status().ladder.session_id;
    let session_id = session_of(&scene);
    let late = Timestamp::from_millis(u64::MAX);
    let greeting = HubFrame::Welcome(welcome(session(66), Pace::default(), late));
    let long = CompactJws::from_text("x".repeat(limits::ENVELOPE_BYTES + 1));
    let too_long = HubFrame::Command(CommandFrame { jws: long, ..scene.lock(2, 2) });
    assert!(too_long.check().is_err());
    scene.delivers(vec![greeting, HubFrame::Unknown, too_long]).await;
    let good = scene.lock(1, 1);
    scene.obeys(&good).await;
    assert_eq!(session_of(&scene), session_id, "the device was sent nothing that ends it");
    assert_eq!(scene.effects(), [line(&good)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_names_another_hub_leads_no_device_there() {
    let mut scene = Scene::new().await;
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let hubs = vec![trap.local_addr().expect("an address").to_string()];
    let reason = "drain".to_owned();
    let elsewhere = HubFrame::Reconnect(Reconnect { after_ms: 0, hubs, reason });
    scene.delivers(vec![elsewhere]).await;
    // It opens the next session where the signed configuration says.
    scene.hello().await;
    scene.obeys(&scene.lock(1, 1)).await;
    assert_eq!(scene.agent.status().ladder.rung, Rung::Push);
    let visit = tokio::time::timeout(Duration::ZERO, trap.accept()).await;
    assert!(visit.is_err(), "nobody came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_passes_other_signed_documents_off_as_orders_is_refused() {
    let mut scene = Scene::new().await;
    let approval = scene.wipe().approvals[0].clone();
    let receipt = scene.obeys(&scene.lock(1, 1)).await;
    for (number, jws) in (100..).zip([approval, receipt]) {
        let frame =
            CommandFrame { command_id: command(number), lane: Lane::Urgent, after_seq: 0, jws };
        assert_eq!(scene.refusal(frame).await, RefusalReason::Malformed);
    }
    assert_eq!(scene.effects().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_that_floods_a_device_with_forgeries_keeps_no_order_out() {
    let mut scene = Scene::new().await;
    let good = scene.lock(1, 1);
    let forgery = |number: usize| {
        let jws = CompactJws::from_text(format!("{}{number}", good.jws.as_str()));
        HubFrame::Command(CommandFrame { jws, ..good.clone() })
    };
    // More than it keeps refusals of, and less than ends a session for slowness.
    for number in 0..10 {
        scene.delivers((0..10).map(|part| forgery(10 * number + part)).collect()).await;
    }
    scene.obeys(&good).await;
    assert_eq!(scene.effects(), [line(&good)]);
    assert!(scene.agent.status().commands.unconfirmed <= limits::LEDGER_STRANGERS + 1);
}
