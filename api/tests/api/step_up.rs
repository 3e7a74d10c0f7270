//! A stolen session meets a second factor before it does harm, and cannot get one for itself.

use std::time::Duration;

use api::factors::invitation;
use api::fixture;
use futures_util::future::join_all;
use protocol::id::PersonName;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::bench::{Bench, json_of, order_body};

const STEP: Duration = Duration::from_secs(30);
const WRONG: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

/// Somebody's token, and the app on their phone.
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) token: String,
    secret: String,
}

impl Person {
    /// The code that the app shows, some steps from now.
    pub(crate) fn code(&self, bench: &Bench, steps: i64) -> String {
        let at = i64::try_from(bench.now().as_millis()).unwrap() + steps * 30_000;
        fixture::one_time_code(&self.secret, u64::try_from(at).unwrap())
    }

    /// A code that is none of those of about now.
    fn wrong(&self, bench: &Bench) -> String {
        let right: Vec<_> = (-2..=2).map(|steps| self.code(bench, steps)).collect();
        let mut candidates = (0..10).map(|digit| digit.to_string().repeat(6));
        candidates.find(|code| !right.contains(code)).unwrap()
    }
}

impl Bench {
    /// A token of a person, who has no second factor.
    pub(crate) async fn person_token(&self, name: &str, scopes: &[&str]) -> String {
        let body = json!({ "label": "laptop", "operator": name, "scopes": scopes });
        let made = self.post("/v1/tokens", &body, StatusCode::CREATED).await;
        assert_eq!(made["service"], false);
        made["secret"].as_str().unwrap().to_owned()
    }

    async fn invite(&self, name: &str) -> String {
        let path = format!("/v1/operators/{name}/factor-invitations");
        let made = self.post(&path, &json!({}), StatusCode::CREATED).await;
        made["invitation"].as_str().unwrap().to_owned()
    }

    /// A token of a person with a second factor.
    pub(crate) async fn person(&self, name: &str, scopes: &[&str]) -> Person {
        let token = self.person_token(name, scopes).await;
        let invitation = self.invite(name).await;
        let mut person = Person { name: name.to_owned(), token, secret: String::new() };
        self.enroll_factor(&mut person, Some(&invitation)).await;
        person
    }

    async fn enroll_factor(&self, person: &mut Person, invitation: Option<&str>) {
        let body = json!({ "invitation": invitation });
        let added = self.post_as(&person.token, "/v1/factor", &body).await;
        let added = json_of(added, StatusCode::CREATED).await;
        person.secret = added["secret"].as_str().unwrap().to_owned();
        let body = json!({ "code": person.code(self, 0) });
        let confirmed = self.post_as(&person.token, "/v1/factor/confirm", &body).await;
        assert_eq!(confirmed.status(), StatusCode::NO_CONTENT);
        // The code of now is used up.
        self.hand.advance(STEP);
    }

    pub(crate) async fn give_code(&self, token: &str, code: &str) -> Response {
        self.post_as(token, "/v1/step-ups", &json!({ "code": code })).await
    }

    pub(crate) async fn step_up(&self, person: &Person) {
        let given = self.give_code(&person.token, &person.code(self, 0)).await;
        json_of(given, StatusCode::OK).await;
    }

    async fn is_refused(&self, response: Response, kind: &str) -> Value {
        let status = response.status();
        let problem = json_of(response, status).await;
        assert_eq!(problem["type"], format!("urn:tocsin:problem:{kind}"), "{problem}");
        problem
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_session_of_a_person_without_a_factor_destroys_nothing_and_adds_none() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let stolen = bench.person_token("nina", &["*@*"]).await;
    let theirs = bench.invite("nina").await;
    bench.person_token("otto", &["read@*"]).await;
    let others = bench.invite("otto").await;
    let wipe = order_body("wipe", &[agent.id]);
    bench.is_refused(bench.post_as(&stolen, "/v1/orders", &wipe).await, "factor-required").await;
    let service = json!({ "label": "x", "scopes": ["*@*"], "service": true });
    let minted = bench.post_as(&stolen, "/v1/tokens", &service).await;
    bench.is_refused(minted, "factor-required").await;
    let invite = "/v1/operators/nina/factor-invitations";
    let invited = bench.post_as(&stolen, invite, &json!({})).await;
    bench.is_refused(invited, "factor-required").await;
    bench
        .is_refused(bench.post_as(&stolen, "/v1/factor", &json!({})).await, "factor-required")
        .await;
    for invitation in [&others, "tocsin_inv_", ""] {
        let body = json!({ "invitation": invitation });
        let added = bench.post_as(&stolen, "/v1/factor", &body).await;
        bench.is_refused(added, "forbidden").await;
    }
    bench.is_refused(bench.give_code(&stolen, "000000").await, "factor-required").await;
    // An invitation ends, whoever finds it later.
    bench.hand.advance(Duration::from_secs(24 * 60 * 60));
    let late = json!({ "invitation": theirs });
    bench.is_refused(bench.post_as(&stolen, "/v1/factor", &late).await, "forbidden").await;
    assert_eq!(bench.events("factor_added").await.len(), 0);
    assert_eq!(bench.events("order_created").await.len(), 0);
    // What is fast and can be undone takes none by default.
    let lock = order_body("lock", &[agent.id]);
    json_of(bench.post_as(&stolen, "/v1/orders", &lock).await, StatusCode::CREATED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_gives_one_token_the_step_up_for_a_while() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let nina = bench.person("nina", &["*@*"]).await;
    let other = bench.person_token("nina", &["*@*"]).await;
    let order = async |token: &str, key: &str| {
        let request = bench.http.post(bench.url("/v1/orders")).bearer_auth(token);
        let body = order_body("wipe", &[agent.id]);
        request.header("idempotency-key", key).json(&body).send().await.unwrap()
    };
    let refused = order(&nina.token, "k1").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert_eq!(challenge, "Bearer error=\"insufficient_user_authentication\"");
    bench.is_refused(refused, "step-up-required").await;
    let mut dry = order_body("wipe", &[agent.id]);
    dry["dry_run"] = json!(true);
    json_of(bench.post_as(&nina.token, "/v1/orders", &dry).await, StatusCode::OK).await;

    bench.step_up(&nina).await;
    let given = json_of(order(&nina.token, "k1").await, StatusCode::CREATED).await;
    bench.is_refused(order(&other, "k2").await, "step-up-required").await;
    bench.hand.advance(Duration::from_secs(5 * 60));
    bench.is_refused(order(&nina.token, "k3").await, "step-up-required").await;
    let again = json_of(order(&nina.token, "k1").await, StatusCode::CREATED).await;
    assert_eq!(again, given, "an answer that was lost is given again");
    let events = bench.events("operator_stepped_up").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["actor"], "operator:nina");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_code_counts_once_and_only_for_its_person() {
    let bench = Bench::start_ago(Duration::from_secs(24 * 60 * 60)).await;
    let nina = bench.person("nina", &["*@*"]).await;
    let otto = bench.person("otto", &["*@*"]).await;
    let seen = nina.code(&bench, 0);
    let foreign = bench.give_code(&otto.token, &seen).await;
    if seen != otto.code(&bench, 0) {
        bench.is_refused(foreign, "invalid").await;
    }
    let uses = (0..8).map(|_| bench.give_code(&nina.token, &seen));
    let answers: Vec<_> = join_all(uses).await.iter().map(Response::status).collect();
    let taken = answers.iter().filter(|status| **status == StatusCode::OK).count();
    assert_eq!(taken, 1, "of uses at once exactly one counts: {answers:?}");
    bench.hand.advance(Duration::from_secs(15 * 60));
    // A code of the step before the last that was used is old, though its time is not over.
    bench.step_up(&nina).await;
    let older = bench.give_code(&nina.token, &nina.code(&bench, -1)).await;
    bench.is_refused(older, "invalid").await;
    bench.hand.advance(STEP * 2);
    for steps in [-2, 2] {
        let far = bench.give_code(&nina.token, &nina.code(&bench, steps)).await;
        bench.is_refused(far, "invalid").await;
    }
    let drifted = bench.give_code(&nina.token, &nina.code(&bench, 1)).await;
    assert_eq!(drifted.status(), StatusCode::OK);
    let bench = bench.kill_and_restart().await;
    let replayed = bench.give_code(&nina.token, &nina.code(&bench, 1)).await;
    assert_eq!(replayed.status(), WRONG, "also after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_guesser_is_stopped_after_five_codes_and_is_loud() {
    let bench = Bench::start_ago(Duration::from_secs(24 * 60 * 60)).await;
    let nina = bench.person("nina", &["*@*"]).await;
    let otto = bench.person("otto", &["*@*"]).await;
    let other = bench.person_token("nina", &["read@*"]).await;
    for attempt in 1..=5 {
        let token = if attempt % 2 == 0 { &other } else { &nina.token };
        let answer = bench.give_code(token, &nina.wrong(&bench)).await;
        assert_eq!(answer.status(), WRONG, "{attempt}");
    }
    let waits = async |bench: &Bench| {
        let answer = bench.give_code(&nina.token, &nina.code(bench, 0)).await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS, "the right one as well");
        answer.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(waits(&bench).await, 15 * 60 + 1);
    let locked = bench.events("factor_locked").await;
    assert_eq!(locked.len(), 1);
    assert_eq!(locked[0]["subject"], "nina");
    assert_eq!(bench.events("factor_code_refused").await.len(), 5);
    bench.step_up(&otto).await;
    let bench = bench.kill_and_restart().await;
    assert_eq!(waits(&bench).await, 15 * 60 + 1, "a restart gives no tries back");
    bench.hand.advance(Duration::from_secs(15 * 60));
    assert_eq!(bench.give_code(&other, &nina.wrong(&bench)).await.status(), WRONG);
    assert_eq!(waits(&bench).await, 30 * 60 + 1, "each further one costs twice as much");
    bench.hand.advance(Duration::from_secs(30 * 60));
    bench.step_up(&nina).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_factor_is_reset_by_who_gave_a_code_themselves_or_on_the_console() {
    let bench = Bench::start().await;
    let mut nina = bench.person("nina", &["read@*", "tokens@*"]).await;
    let admin = bench.person("otto", &["tokens@*"]).await;
    bench.step_up(&nina).await;
    let reset = async |token: &str, name: &str| {
        let url = bench.url(&format!("/v1/operators/{name}/factor"));
        bench.http.delete(url).bearer_auth(token).send().await.unwrap()
    };
    bench.is_refused(reset(&admin.token, "nina").await, "step-up-required").await;
    let bound = bench.token_for(&["tokens@lab"]).await;
    bench.is_refused(reset(&bound, "nina").await, "forbidden").await;
    bench.step_up(&admin).await;
    assert_eq!(reset(&admin.token, "nina").await.status(), StatusCode::NO_CONTENT);
    let events = bench.events("factor_reset").await;
    assert_eq!(
        (&events[0]["actor"], &events[0]["subject"]),
        (&json!("operator:otto"), &json!("nina"))
    );
    // What the lost one gave is over, and the next one takes an invitation again.
    let mint = json!({ "label": "x", "scopes": ["tokens@*"] });
    let minted = bench.post_as(&nina.token, "/v1/tokens", &mint).await;
    bench.is_refused(minted, "factor-required").await;
    let path = "/v1/operators/nina/factor-invitations";
    let invited = json_of(bench.post_as(&admin.token, path, &json!({})).await, StatusCode::CREATED);
    let invited = invited.await;
    bench.enroll_factor(&mut nina, invited["invitation"].as_str()).await;
    bench.step_up(&nina).await;
    let refused = bench.post_as(&admin.token, path, &json!({})).await;
    bench.is_refused(refused, "conflict").await;

    let name: PersonName = nina.name.parse().unwrap();
    let (db, now) = (&bench.api.app().db, bench.now());
    invitation::reset_on_console(db, &name, now).await.unwrap();
    assert!(invitation::reset_on_console(db, &name, now).await.is_err(), "there is none");
    let entropy = &bench.entropy;
    let made = invitation::invite_on_console(db, name, now, entropy).await.unwrap();
    bench.enroll_factor(&mut nina, Some(&made.invitation)).await;
    bench.step_up(&nina).await;
    assert_eq!(bench.events("factor_reset").await[1]["actor"], "system");
}

#[tokio::test(flavor = "multi_thread")]
async fn factor_in_place_of_another_counts_from_its_first_code_on() {
    let bench = Bench::start().await;
    let mut nina = bench.person("nina", &["read@*"]).await;
    let former =
        Person { name: nina.name.clone(), token: nina.token.clone(), secret: nina.secret.clone() };
    let stolen = bench.post_as(&nina.token, "/v1/factor", &json!({})).await;
    bench.is_refused(stolen, "step-up-required").await;
    bench.step_up(&nina).await;
    bench.hand.advance(STEP);
    let added = bench.post_as(&nina.token, "/v1/factor", &json!({})).await;
    json_of(added, StatusCode::CREATED).await;
    bench.step_up(&former).await;
    bench.enroll_factor(&mut nina, None).await;
    let url = bench.url("/v1/factor");
    let shown = bench.http.get(&url).bearer_auth(&nina.token).send().await.unwrap();
    let shown = json_of(shown, StatusCode::OK).await;
    assert_eq!(shown["stepped_up_until"], Value::Null, "what the former one gave is over");
    assert_eq!(shown["is_pending"], false);
    let old = bench.give_code(&nina.token, &former.code(&bench, 0)).await;
    assert_eq!(old.status(), WRONG);
    bench.step_up(&nina).await;
    let removed = bench.http.delete(&url).bearer_auth(&nina.token).send().await.unwrap();
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    bench.is_refused(bench.give_code(&nina.token, "000000").await, "factor-required").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_no_person_is_made_with_a_code_and_is_shown_as_such() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let nina = bench.person("nina", &["*@*"]).await;
    let make = async |body: Value| bench.post_as(&nina.token, "/v1/tokens", &body).await;
    let service = json!({ "label": "nightly", "scopes": ["order:wipe@*"], "service": true });
    bench.is_refused(make(service.clone()).await, "step-up-required").await;
    let wide = json!({ "label": "x", "scopes": ["read@*", "order:lock@*"] });
    bench.is_refused(make(wide).await, "step-up-required").await;
    let reading = json!({ "label": "x", "scopes": ["read@*"] });
    json_of(make(reading).await, StatusCode::CREATED).await;
    bench.step_up(&nina).await;
    let made = json_of(make(service).await, StatusCode::CREATED).await;
    let secret = made["secret"].as_str().unwrap();
    let wipe = order_body("wipe", &[agent.id]);
    json_of(bench.post_as(secret, "/v1/orders", &wipe).await, StatusCode::CREATED).await;
    let none = bench.give_code(secret, &nina.code(&bench, 1)).await;
    bench.is_refused(none, "not-found").await;
    let tokens = bench.get("/v1/tokens").await;
    let listed = tokens["items"].as_array().unwrap().iter().find(|token| token["id"] == made["id"]);
    assert_eq!(listed.unwrap()["service"], true);
    let events = bench.events("api_token_created").await;
    let event = events.iter().find(|event| event["subject"] == made["id"]).unwrap();
    assert_eq!(
        (&event["actor"], &event["payload"]["service"]),
        (&json!("operator:nina"), &json!(true))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_factor_that_was_added_is_not_confirmed_later_nor_by_another_token() {
    let bench = Bench::start().await;
    let owner = bench.person("nina", &["read@*"]).await;
    let copy = bench.person_token("nina", &["read@*"]).await;
    bench.step_up(&owner).await;
    let added = bench.post_as(&owner.token, "/v1/factor", &json!({})).await;
    let added = json_of(added, StatusCode::CREATED).await;
    let secret = added["secret"].as_str().unwrap().to_owned();
    let planted = Person { name: owner.name.clone(), token: owner.token.clone(), secret };
    let confirm = async |token: &str| {
        let body = json!({ "code": planted.code(&bench, 0) });
        bench.post_as(token, "/v1/factor/confirm", &body).await
    };
    bench.is_refused(confirm(&copy).await, "factor-required").await;
    bench.hand.advance(Duration::from_secs(15 * 60));
    bench.is_refused(confirm(&owner.token).await, "factor-required").await;
    bench.step_up(&owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_orders_without_a_code_take_no_place_from_anybody() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let stolen = bench.person("nina", &["*@*"]).await;
    let unlock = order_body("unlock", &[agent.id]);
    // More than there are connections to the store.
    let orders = (0..24).map(|_| bench.post_as(&stolen.token, "/v1/orders", &unlock));
    for refused in join_all(orders).await {
        bench.is_refused(refused, "step-up-required").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_only_reads_takes_a_code_when_it_is_somebody_elses() {
    let bench = Bench::start().await;
    let nina = bench.person("nina", &["*@*"]).await;
    let mut body = json!({ "label": "x", "scopes": ["read@*"] });
    let own = bench.post_as(&nina.token, "/v1/tokens", &body).await;
    json_of(own, StatusCode::CREATED).await;
    body["operator"] = json!("otto");
    let other = bench.post_as(&nina.token, "/v1/tokens", &body).await;
    bench.is_refused(other, "step-up-required").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_invitation_ends_the_lock_of_wrong_codes() {
    let bench = Bench::start().await;
    let token = bench.person_token("nina", &["read@*"]).await;
    let invitation = bench.invite("nina").await;
    let add = async |invitation: &str| {
        let body = json!({ "invitation": invitation });
        json_of(bench.post_as(&token, "/v1/factor", &body).await, StatusCode::CREATED).await
    };
    let secret = add(&invitation).await["secret"].as_str().unwrap().to_owned();
    let pending = Person { name: "nina".to_owned(), token: token.clone(), secret };
    let wrong = json!({ "code": pending.wrong(&bench) });
    let confirm = async || bench.post_as(&token, "/v1/factor/confirm", &wrong).await.status();
    for _ in 0..5 {
        assert_eq!(confirm().await, WRONG);
    }
    assert_eq!(confirm().await, StatusCode::TOO_MANY_REQUESTS);
    let again = bench.invite("nina").await;
    add(&again).await;
    assert_eq!(confirm().await, WRONG, "another try");
}
