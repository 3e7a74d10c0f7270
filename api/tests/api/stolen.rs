//! A stolen administrator: a token for everything everywhere, and the key of nobody.

use protocol::action::Verb;
use protocol::key::SigningKey;
use protocol::manifest::Manifest;
use protocol::state::VerbClass;
use protocol::trust::{SignedTrustRoot, TrustRoot};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{TestAgent, commands};
use super::approvals::{key, manifest, signed};
use super::bench::{Bench, approvers, json_of, order_body};
use super::documents::Route;
use super::matrix::{body_of, params_of};

const REFUSED: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

/// Whoever has the token.
struct Thief<'a> {
    bench: &'a Bench,
    token: String,
}

impl Thief<'_> {
    async fn post(&self, path: &str, body: &Value) -> StatusCode {
        self.bench.post_as(&self.token, path, body).await.status()
    }

    /// Asks for everything that destroys, and answers the orders that were taken.
    async fn order_everything(&self, agent: &TestAgent) -> Vec<String> {
        let mut orders = Vec::new();
        let destroys = |verb: &Verb| verb.class() == VerbClass::Destructive;
        for verb in Verb::ALL.into_iter().filter(destroys) {
            let mut body = order_body("wipe", &[agent.id]);
            body["action"] = json!({ "verb": verb, "params": params_of(verb) });
            let made = self.bench.post_as(&self.token, "/v1/orders", &body).await;
            let made = json_of(made, StatusCode::CREATED).await;
            assert_eq!(made["commands"][0]["state"], "awaiting_approval", "{verb}");
            orders.push(made["order"]["id"].as_str().unwrap().to_owned());
        }
        orders
    }

    /// Signs with keys of their own, changes what was signed, and hands in what people signed of
    /// another order.
    async fn approve(&self, order: &str, of_another: &Value) {
        let real = manifest(self.bench, order).await;
        let changed = |change: fn(&mut Manifest)| {
            let mut manifest = real.clone();
            change(&mut manifest);
            manifest
        };
        let unasked = changed(|manifest| manifest.requested_by = None);
        let wider = changed(|manifest| manifest.device_count += 1);
        let later = changed(|manifest| {
            manifest.expires_at = manifest.expires_at.plus(std::time::Duration::from_secs(3600));
        });
        let path = format!("/v1/orders/{order}/approvals");
        for manifest in [&real, &unasked, &wider, &later] {
            for own in [key(66), key(67)] {
                assert_eq!(self.post(&path, &signed(self.bench, manifest, &own)).await, REFUSED);
            }
        }
        assert_eq!(self.post(&path, of_another).await, REFUSED);
    }

    /// Publishes trust roots: their own, changed ones, and those of before.
    async fn publish(&self, first: &Value) {
        let present = self.bench.get("/v1/trust").await;
        let root: TrustRoot = serde_json::from_value(present["root"].clone()).unwrap();
        let own = key(66);
        let mut roots = Vec::new();
        let mut next = |change: &dyn Fn(&mut TrustRoot), signer: &SigningKey| {
            let mut root = TrustRoot { version: root.version + 1, ..root.clone() };
            change(&mut root);
            roots.push(json!(SignedTrustRoot::sign(&root, &[signer]).unwrap()));
        };
        next(&|root| root.approvers = approvers(&[(&key(66), "ann"), (&key(67), "bob")]), &own);
        next(&|root| root.root.keys = vec![key(66).public().clone()], &own);
        let needs_nobody = |root: &mut TrustRoot| root.approvals = [("wipe".to_owned(), 0)].into();
        next(&needs_nobody, &own);
        // By somebody whose key approves, and is no root key.
        next(&needs_nobody, &key(1));
        roots.extend([first["signed"].clone(), present["signed"].clone()]);
        for signed in roots {
            let answer = self.post("/v1/trust", &json!({ "signed": signed })).await;
            assert_eq!(answer, REFUSED, "{signed}");
        }
    }

    /// Enrolls a machine of their own under the name of the one that is meant.
    async fn enroll(&self, agent: &TestAgent) {
        let body = json!({ "group": null });
        let made = self.bench.post_as(&self.token, "/v1/enrollment-tokens", &body).await;
        let made = json_of(made, StatusCode::CREATED).await;
        let token = made["token"].as_str().unwrap().parse().unwrap();
        let own = rcgen::KeyPair::generate().unwrap();
        let enrolled = self.bench.enroll(&token, "a", &own).await;
        let enrolled = json_of(enrolled, StatusCode::CREATED).await;
        assert_ne!(enrolled["device_id"], json!(agent.id), "another key is another device");
    }

    /// Knocks at every route that changes something, with the ids that are meant.
    async fn knock(&self, agent: &TestAgent, order: &str, sacrificed: &str) -> usize {
        let trust = self.bench.get("/v1/trust").await;
        let (mut count, device) = (0, agent.id.to_string());
        for route in Route::all() {
            let stops = ["/cancel", "/reject", "/withdraw", "/revoke"];
            let id = match route.path.split('/').nth(2) {
                Some("orders") if stops.iter().any(|end| route.path.ends_with(end)) => sacrificed,
                Some("orders") => order,
                Some("devices") if !route.path.ends_with("/revoke") => &device,
                _ => "0197a1b2-0000-7000-8000-000000000000",
            };
            if route.method == "GET" {
                continue;
            }
            let url = self.bench.url(&route.path.replace("{id}", id));
            let request = self.bench.http.request(route.method.clone(), url);
            let mut body = body_of(&route.name(), agent, &trust);
            if route.path.ends_with("/continue") {
                body = json!({ "reason": "a thief says so" });
            }
            let answer = request.bearer_auth(&self.token).json(&body).send().await.unwrap();
            assert!(!answer.status().is_server_error(), "{}", route.name());
            count += 1;
        }
        count
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_stolen_administrator_wipes_nothing_by_any_route() {
    let bench = Bench::start().await;
    let (mut agent, decoy) = (bench.agent("a", None).await, bench.agent("b", None).await);
    let first = bench.get("/v1/trust").await;
    let (ann, bob) = (key(1), key(2));
    agent.trust = bench.set_approvers(&[(&ann, "ann"), (&bob, "bob")]).await;
    // What people agreed to once is of that order alone.
    let agreed = bench.order("wipe", &[decoy.id]).await;
    let agreed = agreed["order"]["id"].as_str().unwrap().to_owned();
    let of_another = signed(&bench, &manifest(&bench, &agreed).await, &ann);

    let thief = Thief { bench: &bench, token: bench.token_for(&["*@*"]).await };
    let orders = thief.order_everything(&agent).await;
    assert!(orders.len() >= 3, "{orders:?}");
    for order in &orders {
        thief.approve(order, &of_another).await;
    }
    thief.publish(&first).await;
    thief.enroll(&agent).await;
    assert!(thief.knock(&agent, &orders[0], &agreed).await >= 15);
    // Under other names as well: a token is no person.
    for operator in ["ann", "bob"] {
        let body =
            json!({ "label": "x", "operator": operator, "scopes": ["*@*"], "service": true });
        let made = bench.post_as(&thief.token, "/v1/tokens", &body).await;
        let token = json_of(made, StatusCode::CREATED).await["secret"].as_str().unwrap().to_owned();
        let other = Thief { bench: &bench, token };
        other.approve(&orders[0], &of_another).await;
        other.knock(&agent, &orders[0], &agreed).await;
    }

    assert_eq!(bench.get("/v1/trust").await["version"], 2, "nobody else's trust");
    for order in &orders {
        let view = bench.get(&format!("/v1/orders/{order}")).await;
        assert_eq!(view["states"], json!({ "awaiting_approval": 1 }), "{view}");
    }
    for told in commands(&agent.check_in(&bench, Vec::new()).await) {
        let verb = agent.verify(&bench, &told.jws).envelope().action().verb();
        assert_ne!(verb.class(), VerbClass::Destructive, "{verb}");
    }
}
