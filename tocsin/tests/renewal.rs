//! A device that was off past its certificate's end comes back by itself: a real control plane, a
//! real hub's address that nobody answers, and the real agent.
//!
//! TLS judges by the machine's clock, so that the control plane began in the past.

use std::sync::Arc;
use std::time::Duration;

use agent::Agent;
use agent::identity::{KeyPair, KeyPlace};
use agent::state::StateDir;
use api::{Api, Config, Deps};
use broker::MemoryBroker;
use protocol::enrollment::EnrollmentToken;
use protocol::time::Timestamp;
use runtime::clock::ManualClock;
use runtime::{Clock, Drain, Entropy};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Only against hanging.
const GUARD: Duration = Duration::from_secs(240);

struct Installation {
    api: Api,
    hand: ManualClock,
    http: reqwest::Client,
    token: String,
    folder: tempfile::TempDir,
}

impl Installation {
    /// A control plane whose clock is 20 days behind.
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let any = "127.0.0.1:0".parse().expect("an address");
        let config = Config {
            data_dir: folder.path().join("data"),
            operator_listen: any,
            agent_listen: any,
            server_names: vec!["127.0.0.1".to_owned()],
            check_ins_per_min: 0,
            ..Config::default()
        };
        let hand = ManualClock::new();
        let ago = u64::try_from((20 * DAY).as_millis()).expect("a time");
        hand.set_unix_millis(Clock::system().unix_millis() - ago);
        let broker = Arc::new(MemoryBroker::new(hand.clock()));
        let (clock, entropy) = (hand.clock(), Entropy::system());
        let deps = Deps { broker, clock, entropy, drain: Drain::new() };
        let mut api = Api::start(config, deps).await.expect("the control plane starts");
        let token = api.first_start.take().expect("a first start").token.expose().to_owned();
        let ca = [api.authority().certificate().clone()];
        let tls = runtime::tls::client_config(&ca, None, &[b"http/1.1"]).expect("tls");
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build();
        Self { api, hand, http: http.expect("a client"), token, folder }
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Value {
        let answer = request.bearer_auth(&self.token).send().await.expect("an answer");
        answer.json().await.expect("json")
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.api.operator_addr)
    }

    /// Enrolls a device; its agent does not run.
    async fn enroll(&self) -> agent::Config {
        let made = self.ask(self.http.post(self.url("/v1/enrollment-tokens")).json(&json!({})));
        let token: EnrollmentToken =
            made.await["token"].as_str().expect("a token").parse().expect("a token");
        let path = self.folder.path().join("state");
        let state = StateDir::open(&path).expect("a state directory");
        let key = KeyPair::load_or_make(&state.key_path(), &KeyPlace::file()).expect("a key");
        let enrolling = agent::enroll::enroll(&state, &key, &token, "web-17".to_owned(), false);
        enrolling.await.expect("the device is enrolled");
        let mut config = agent::Config { state_dir: path, ..agent::Config::default() };
        config.ladder.attempts = 1;
        config.ladder.backoff_base = Duration::from_millis(5);
        config.ladder.backoff_cap = Duration::from_millis(50);
        config.ladder.check_in = Duration::from_millis(50);
        config
    }

    /// Waits until the log has an event of that kind.
    async fn until_event(&self, kind: &str) -> Value {
        let path = format!("/v1/events?kind={kind}");
        let wait = async {
            loop {
                let page = self.ask(self.http.get(self.url(&path))).await;
                if let Some(event) = page["items"].as_array().and_then(|items| items.first()) {
                    return event.clone();
                }
            }
        };
        tokio::time::timeout(GUARD, wait).await.unwrap_or_else(|_| panic!("never {kind}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn device_that_was_off_past_its_certificates_end_comes_back_by_itself() {
    let installation = Installation::new().await;
    let config = installation.enroll().await;
    installation.hand.advance(20 * DAY);
    let deps =
        agent::Deps { clock: Clock::system(), entropy: Entropy::system(), drain: Drain::new() };
    let agent = Agent::start(config, deps).expect("the agent starts");
    let now = || Timestamp::from_millis(Clock::system().unix_millis());
    assert!(agent.status().certificate_ends_at < now(), "it is over at the start");
    let renewed = installation.until_event("certificate_renewed").await;
    let late = renewed["payload"]["late_secs"].as_u64().expect("a number");
    assert!(late > (12 * DAY).as_secs());
    // It is let in with the new one.
    installation.until_event("device_reported").await;
    assert!(agent.status().certificate_ends_at > now());
    agent.drain().await.expect("the agent ends");
    installation.api.drain(Duration::from_secs(5)).await.expect("the control plane ends");
}
