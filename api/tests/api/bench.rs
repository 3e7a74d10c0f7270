//! A control plane with an operator, over the store of the test binary.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::db::{DatabaseConfig, DatabaseUrl};
use api::fixture::PostgresServer;
use api::{Api, Config, Deps};
use broker::{Broker as _, HubLease, MemoryBroker};
use protocol::enrollment::{EnrollRequest, EnrollResponse, EnrollmentToken};
use protocol::id::{DeviceId, SessionId};
use protocol::key::{DeviceKey, SigningKey};
use protocol::time::Timestamp;
use protocol::trust::{Approver, SignedTrustRoot, TrustRoot};
use reqwest::{Response, StatusCode};
use runtime::clock::ManualClock;
use runtime::tls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use runtime::tls::{self, Identity};
use runtime::{Clock, Drain, Entropy};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::actors::{TestAgent, TestHub};
use super::gate::Gate;

/// Long enough for a busy machine; nothing waits for it when all is well.
pub(crate) const GUARD: Duration = Duration::from_secs(120);
/// What a busy machine may need for a statement. Tests of a database that fails have less.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
pub(crate) const PAUSE: Duration = Duration::from_millis(3);

/// What the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "each test binary is for one of them")]
pub(crate) enum Store {
    Sqlite,
    Postgres,
}

/// What outlives a restart of the control plane.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "only tests on PostgreSQL ask for its server")]
pub(crate) struct Place {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) server: Option<Arc<PostgresServer>>,
    pub(crate) url: DatabaseUrl,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let (server, url) = match crate::STORE {
            Store::Sqlite => (None, DatabaseUrl::default()),
            Store::Postgres => {
                let server = PostgresServer::start();
                let url = server.database().await;
                (Some(Arc::new(server)), url)
            }
        };
        Self { folder, server, url }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("data").join(api::db::FILE)
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            data_dir: self.folder.path().join("data"),
            operator_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            agent_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            job_period: Duration::from_millis(20),
            // Agents of tests do not wait between check-ins.
            check_ins_per_min: 0,
            database: DatabaseConfig {
                url: self.url.clone(),
                statement_timeout: PATIENCE,
                lock_timeout: PATIENCE,
                idle_timeout: PATIENCE,
                ..DatabaseConfig::default()
            },
            ..Config::default()
        }
    }
}

/// A store as it was.
pub(crate) enum Former {
    File(Vec<u8>),
    Database(DatabaseUrl),
}

pub(crate) struct Bench {
    // Before the server, so that it is gone first.
    pub(crate) api: Api,
    pub(crate) place: Place,
    pub(crate) hand: ManualClock,
    pub(crate) broker: Arc<MemoryBroker>,
    /// Between the control plane and the bus.
    pub(crate) gate: Arc<Gate>,
    pub(crate) token: String,
    pub(crate) http: reqwest::Client,
    pub(crate) entropy: Entropy,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::start_ago(Duration::ZERO).await
    }

    /// Starts with a clock that is behind by so much.
    pub(crate) async fn start_ago(ago: Duration) -> Self {
        Self::start_in(Place::new().await, ago).await
    }

    pub(crate) async fn start_in(place: Place, ago: Duration) -> Self {
        let hand = ManualClock::new();
        let ago = u64::try_from(ago.as_millis()).unwrap();
        hand.set_unix_millis(Clock::system().unix_millis() - ago);
        let broker = Arc::new(MemoryBroker::new(hand.clock()));
        let is_file = place.url.is_empty();
        let bench = Self::start_as(place.config(), place, hand, broker, None).await;
        if is_file {
            // Every test shows that no state changes without its event.
            let db = &bench.api.app().db;
            let mut tx = db.write(api::audit::Actor::System, bench.now()).await.unwrap();
            api::fixture::demand_events(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
        }
        bench
    }

    /// Stops, and starts again with other settings.
    pub(crate) async fn restart_with(self, change: impl FnOnce(&mut Config)) -> Self {
        let Self { api, place, hand, broker, token, .. } = self;
        api.drain(Duration::ZERO).await.unwrap();
        let mut config = place.config();
        change(&mut config);
        Self::start_as(config, place, hand, broker, Some(token)).await
    }

    pub(crate) async fn start_as(
        config: Config,
        place: Place,
        hand: ManualClock,
        broker: Arc<MemoryBroker>,
        token: Option<String>,
    ) -> Self {
        let entropy = Entropy::system();
        let gate = Arc::new(Gate::new(broker.clone()));
        let deps = Deps {
            broker: gate.clone(),
            clock: hand.clock(),
            entropy: entropy.clone(),
            drain: Drain::new(),
        };
        let mut api = Api::start(config, deps).await.unwrap();
        let first = api.first_start.take().map(|first| first.token.expose().to_owned());
        let token = token.or(first).unwrap();
        let ca = api.authority().certificate().clone();
        let http = client(&[ca], None);
        Self { api, place, hand, broker, gate, token, http, entropy }
    }

    /// Stops without any tidying, and starts on the same folder and bus.
    pub(crate) async fn kill_and_restart(self) -> Self {
        let Self { api, place, hand, broker, token, .. } = self;
        api.drain(Duration::ZERO).await.unwrap();
        Self::start_as(place.config(), place, hand, broker, Some(token)).await
    }

    /// Stops, copies the store, and starts again.
    pub(crate) async fn copied(self) -> (Self, Former) {
        let Self { api, place, hand, broker, token, .. } = self;
        api.drain(Duration::from_secs(1)).await.unwrap();
        let former = match &place.server {
            None => Former::File(std::fs::read(place.file()).unwrap()),
            Some(server) => Former::Database(server.copy(&place.url).await),
        };
        (Self::start_as(place.config(), place, hand, broker, Some(token)).await, former)
    }

    /// Stops, puts a former store in the place of the present one, and starts on it.
    pub(crate) async fn put_back(self, former: Former) -> Self {
        let Self { api, mut place, hand, broker, token, .. } = self;
        api.drain(Duration::from_secs(1)).await.unwrap();
        match former {
            Former::File(bytes) => {
                let log = place.file().with_extension("db-wal");
                assert!(!log.exists(), "stopped, so all is in one file");
                std::fs::write(place.file(), bytes).unwrap();
            }
            Former::Database(url) => place.url = url,
        }
        Self::start_as(place.config(), place, hand, broker, Some(token)).await
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.hand.clock().unix_millis())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.api.operator_addr.port())
    }

    pub(crate) fn agent_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.api.agent_addr.port())
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = self.http.get(self.url(path)).bearer_auth(&self.token).send().await.unwrap();
        json_of(response, StatusCode::OK).await
    }

    pub(crate) async fn post_as(&self, token: &str, path: &str, body: &Value) -> Response {
        self.http.post(self.url(path)).bearer_auth(token).json(body).send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value, status: StatusCode) -> Value {
        json_of(self.post_as(&self.token, path, body).await, status).await
    }

    /// A token of no person, which is asked for no second factor.
    pub(crate) async fn token_for(&self, scopes: &[&str]) -> String {
        let body =
            json!({ "label": "test", "operator": "limited", "scopes": scopes, "service": true });
        let made = self.post("/v1/tokens", &body, StatusCode::CREATED).await;
        made["secret"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn enrollment_token(&self, group: Option<&str>) -> EnrollmentToken {
        let made = self
            .post("/v1/enrollment-tokens", &json!({ "group": group }), StatusCode::CREATED)
            .await;
        made["token"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) async fn agent(&self, name: &str, group: Option<&str>) -> TestAgent {
        let token = self.enrollment_token(group).await;
        let key = rcgen::KeyPair::generate().unwrap();
        let response = self.enroll(&token, name, &key).await;
        self.agent_of(key, json_of(response, StatusCode::CREATED).await)
    }

    /// Enrolls as an agent does: trusting only the authority's key that the token names.
    pub(crate) async fn enroll(
        &self,
        token: &EnrollmentToken,
        name: &str,
        key: &rcgen::KeyPair,
    ) -> Response {
        let pin = token.ca_spki_sha256.parse().unwrap();
        let tls = tls::pinned_client_config(pin, &[b"http/1.1"]).unwrap();
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
        let body =
            EnrollRequest { secret: token.secret.clone(), name: name.to_owned(), csr: csr(key) };
        http.post(self.agent_url("/agent/v1/enroll")).json(&body).send().await.unwrap()
    }

    /// What that device was told when it was enrolled.
    pub(crate) fn enrolled(&self, agent: &TestAgent) -> Value {
        serde_json::to_value(&agent.enrolled).unwrap()
    }

    pub(crate) fn agent_of(&self, key: rcgen::KeyPair, enrolled: Value) -> TestAgent {
        let enrolled: EnrollResponse = serde_json::from_value(enrolled).unwrap();
        let chain = CertificateDer::pem_slice_iter(enrolled.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let identity = Identity { chain, key: private };
        let ca = CertificateDer::from_pem_slice(enrolled.ca.as_bytes()).unwrap();
        let tls = tls::client_config(&[ca], Some(&identity), &[b"http/1.1"]).unwrap();
        let http = client_of(&tls);
        TestAgent {
            tls,
            id: enrolled.device_id,
            generation: enrolled.generation,
            signing: DeviceKey::from_pkcs8(&key.serialize_der()).unwrap(),
            key,
            trust: enrolled.trust.pin().unwrap(),
            config: enrolled.config.clone(),
            http,
            enrolled,
        }
    }

    /// Gives an order for a verb without parameters, or a lock.
    pub(crate) async fn order(&self, verb: &str, devices: &[DeviceId]) -> Value {
        self.post("/v1/orders", &order_body(verb, devices), StatusCode::CREATED).await
    }

    /// The refusal of an order for a revoked device.
    pub(crate) async fn order_for_revoked(&self, device: DeviceId) -> Value {
        let body = order_body("lock", &[device]);
        self.post("/v1/orders", &body, StatusCode::UNPROCESSABLE_ENTITY).await
    }

    /// Replaces the trust root by one with these approvers.
    pub(crate) async fn set_approvers(&self, people: &[(&SigningKey, &str)]) -> TrustRoot {
        self.change_trust(|root| root.approvers = approvers(people)).await
    }

    /// Replaces the trust root by a changed one.
    pub(crate) async fn change_trust(&self, change: impl FnOnce(&mut TrustRoot)) -> TrustRoot {
        let current = self.get("/v1/trust").await;
        let mut root: TrustRoot = serde_json::from_value(current["root"].clone()).unwrap();
        root.version += 1;
        change(&mut root);
        self.publish(&root, StatusCode::CREATED).await;
        root
    }

    /// Hands in a version, signed by the root key.
    pub(crate) async fn publish(&self, root: &TrustRoot, status: StatusCode) -> Value {
        let root_key = api::keys::load(&self.place.folder.path().join("data/root.key")).unwrap();
        let signed = SignedTrustRoot::sign(root, &[&root_key]).unwrap();
        self.post("/v1/trust", &json!({ "signed": signed }), status).await
    }

    pub(crate) async fn command(&self, id: &Value) -> Value {
        self.get(&format!("/v1/commands/{}", id.as_str().unwrap())).await
    }

    /// Waits until a command stands there.
    pub(crate) async fn until_state(&self, id: &Value, state: &str) -> Value {
        let wait = async {
            loop {
                let command = self.command(id).await;
                if command["state"] == state {
                    return command;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(GUARD, wait).await.unwrap_or_else(|_| panic!("never {state}"))
    }

    pub(crate) async fn hub(&self, name: &str) -> TestHub {
        let incarnation = SessionId::new(self.now(), self.entropy.bytes());
        let lease = HubLease { hub: name.parse().unwrap(), incarnation };
        self.broker.renew_lease(&lease).await.unwrap();
        let subscription = self.broker.subscribe(&lease).await.unwrap();
        TestHub { lease, subscription, broker: self.broker.clone() }
    }

    /// Renews a hub's lease, after time was moved beyond it.
    pub(crate) async fn broker_lease(&self, hub: &mut TestHub) {
        self.broker.renew_lease(&hub.lease).await.unwrap();
        hub.subscription = self.broker.subscribe(&hub.lease).await.unwrap();
    }

    pub(crate) fn session(&self) -> SessionId {
        SessionId::new(self.now(), self.entropy.bytes())
    }

    pub(crate) async fn events(&self, kind: &str) -> Vec<Value> {
        let page = self.get(&format!("/v1/events?limit=500&kind={kind}")).await;
        page["items"].as_array().unwrap().clone()
    }
}

pub(crate) fn approvers(people: &[(&SigningKey, &str)]) -> Vec<Approver> {
    let approver = |(key, person): &(&SigningKey, &str)| Approver {
        key: key.public().clone(),
        person: person.parse().unwrap(),
        operators: [].into(),
    };
    people.iter().map(approver).collect()
}

pub(crate) fn order_body(verb: &str, devices: &[DeviceId]) -> Value {
    let params = match verb {
        "lock" => json!({ "level": "session" }),
        "wipe" => json!({ "level": "keys", "power_off": true }),
        _ => json!({}),
    };
    json!({
        "action": { "verb": verb, "params": params },
        "targets": { "devices": devices },
        "reason": "case 7",
    })
}

pub(crate) fn csr(key: &rcgen::KeyPair) -> String {
    rcgen::CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

pub(crate) fn client(
    ca: &[CertificateDer<'static>],
    identity: Option<&Identity>,
) -> reqwest::Client {
    client_of(&tls::client_config(ca, identity, &[b"http/1.1"]).unwrap())
}

/// A client with a connection of its own; clients of one configuration share its TLS tickets.
pub(crate) fn client_of(tls: &rustls::ClientConfig) -> reqwest::Client {
    let builder = reqwest::Client::builder().tls_backend_preconfigured(tls.clone());
    // Sooner than the server closes what is idle: a request must not meet its end.
    builder.timeout(GUARD).pool_idle_timeout(Duration::from_secs(5)).build().unwrap()
}

pub(crate) async fn json_of(response: Response, status: StatusCode) -> Value {
    let actual = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(actual, status, "{text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}
