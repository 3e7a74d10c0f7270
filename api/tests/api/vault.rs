//! Secrets in the store: sealed, bound to their rows, and readable with the right key alone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::audit::Actor;
use api::db::Db;
use api::fixture as store;
use api::vault::{self, DataKeyBytes, Kms, KmsError, VaultConfig};
use api::{Api, Deps, StartError};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use broker::MemoryBroker;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use protocol::action::{Action, RunScript};
use protocol::advance::{self, Advance, Tail};
use protocol::frame::{AgentFrame, CommandFrame};
use protocol::receipt::{Evidence, Outcome};
use reqwest::StatusCode;
use runtime::clock::ManualClock;
use runtime::config::Secret;
use runtime::{Clock, Drain, Entropy};
use serde_json::{Value, json};

use super::actors::{TestAgent, ack, commands};
use super::bench::{Bench, GUARD, PAUSE, Place, client};

/// What a script says that nobody else should read.
const IN_SCRIPT: &str = "correct-horse-battery-staple";
/// What it found.
const IN_EVIDENCE: &str = "the-ledger-lies-under-the-stairs";

/// A control plane on a store where rows may change without events: sealing anew is no change.
async fn bench() -> Bench {
    let place = Place::new().await;
    let hand = ManualClock::new();
    hand.set_unix_millis(Clock::system().unix_millis());
    let broker = Arc::new(MemoryBroker::new(hand.clock()));
    Bench::start_as(place.config(), place, hand, broker, None).await
}

/// A script that ran, and what it found. The command's id.
async fn ran(bench: &Bench, agent: &TestAgent) -> (Value, CommandFrame) {
    let script = format!("#!/bin/sh\necho {IN_SCRIPT}\n");
    let action = Action::RunScript(RunScript::of(&script, Vec::new(), 60));
    let targets = json!({ "devices": [agent.id] });
    let body = json!({ "action": action, "script": script, "targets": targets, "reason": "test" });
    let made = bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    let told = commands(&agent.check_in(bench, Vec::new()).await).remove(0);
    let evidence = Evidence::new().with("found", IN_EVIDENCE);
    let receipt = agent.receipt(&told, |receipt| {
        receipt.outcome = Outcome::Succeeded { evidence };
    });
    let proof = agent.proof(&told, |proof| {
        proof.verb = protocol::action::Verb::RunScript;
        proof.order_id = made["order"]["id"].as_str().unwrap().parse().unwrap();
        proof.evidence = Evidence::new().with("found", IN_EVIDENCE);
    });
    // While it runs it says the same.
    let stdout = Some(Tail { from: 0, bytes: IN_EVIDENCE.as_bytes().to_vec() });
    let advance = Advance::at("script").output(Some(advance::Output { stdout, stderr: None }));
    let said = AgentFrame::Progress {
        command_id: told.command_id,
        stage: "apply".to_owned(),
        advance: Some(advance),
    };
    agent.check_in(bench, vec![ack(&told), said]).await;
    assert_eq!(
        number(bench, "SELECT COUNT(*) FROM commands WHERE output LIKE 'sealed:%'").await,
        1
    );
    agent.check_in(bench, vec![proof, receipt]).await;
    assert_eq!(number(bench, "SELECT COUNT(*) FROM commands WHERE output IS NOT NULL").await, 0);
    let id = made["commands"][0]["id"].clone();
    assert_eq!(bench.command(&id).await["outcome"]["evidence"]["found"], IN_EVIDENCE);
    (id, told)
}

/// A device that runs scripts without anybody's approval.
async fn obedient(bench: &Bench) -> TestAgent {
    let mut agent = bench.agent("a", None).await;
    agent.trust = bench
        .change_trust(|root| {
            root.approvals.insert("run_script".to_owned(), 0);
        })
        .await;
    agent
}

/// How a text looks in a store: as it is, and in the base64url of a longer text around it.
fn forms(text: &str) -> Vec<String> {
    let shifted = (0..3).map(|skip| {
        let whole = &text.as_bytes()[skip..];
        BASE64.encode(&whole[..whole.len() / 3 * 3])
    });
    std::iter::once(text.to_owned()).chain(shifted).collect()
}

/// Whether the store has that text anywhere: in any byte of an SQLite file and its log, in any
/// column of any row of a server.
async fn holds(bench: &Bench, text: &str) -> bool {
    for form in forms(text) {
        if bench.place.url.is_empty() {
            let folder = bench.place.folder.path().join("data");
            for file in ["tocsin.db", "tocsin.db-wal", "tocsin.db-shm"] {
                let bytes = std::fs::read(folder.join(file)).unwrap_or_default();
                if bytes.windows(form.len()).any(|window| window == form.as_bytes()) {
                    return true;
                }
            }
        } else {
            let question = format!(
                "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'public' \
                 AND CAST(query_to_xml('SELECT * FROM ' || table_name, true, false, '') AS TEXT) \
                 LIKE '%{form}%'"
            );
            if number(bench, &question).await > 0 {
                return true;
            }
        }
    }
    false
}

async fn number(bench: &Bench, question: &str) -> i64 {
    store::number(&mut bench.api.app().db.read().await.unwrap(), question).await.unwrap()
}

async fn execute(bench: &Bench, text: &str) -> u64 {
    let mut tx = bench.api.app().db.write(Actor::System, bench.now()).await.unwrap();
    let rows = store::execute(&mut tx, text).await.unwrap();
    tx.commit().await.unwrap();
    rows
}

/// Waits until everything is sealed by the present key.
async fn until_sealed(bench: &Bench) {
    let wait = async {
        while number(bench, "SELECT COUNT(*) FROM vault_keys").await != 1 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, wait).await.expect("it is sealed at last");
    let status = vault::status(&bench.api.app().db).await.unwrap();
    assert_eq!((status.progress.waiting, status.progress.has_clear), (0, false));
}

/// Another data key, as `tocsin vault rotate` makes it beside a control plane that runs.
async fn rotate(bench: &Bench) -> String {
    let config = bench.place.config();
    let db = Db::open(&config.database, &config.data_dir).await.unwrap();
    let place = (&config.vault, config.data_dir.as_path());
    let id = vault::rotate(&db, place, (bench.now(), &bench.entropy)).await.unwrap();
    db.close().await;
    id
}

async fn try_start(place: &Place, vault: VaultConfig) -> Result<Api, StartError> {
    let clock = Clock::system();
    let broker = Arc::new(MemoryBroker::new(clock.clone()));
    let deps = Deps { broker, clock, entropy: Entropy::system(), drain: Drain::new() };
    Api::start(api::Config { vault, ..place.config() }, deps).await
}

/// A key service: it keeps what it is to wrap, and gives out a number for it.
#[derive(Debug, Default)]
struct Service {
    id: &'static str,
    kept: Mutex<Vec<(String, [u8; 32])>>,
}

impl Kms for Service {
    fn key_id(&self) -> &str {
        self.id
    }

    fn wrap<'a>(
        &'a self,
        data_key: &'a str,
        bytes: &'a DataKeyBytes,
    ) -> BoxFuture<'a, Result<String, KmsError>> {
        let mut kept = self.kept.lock().unwrap();
        kept.push((data_key.to_owned(), **bytes));
        let number = (kept.len() - 1).to_string();
        async move { Ok(number) }.boxed()
    }

    fn unwrap<'a>(
        &'a self,
        data_key: &'a str,
        wrapped_by: &'a str,
        wrapped: &'a str,
    ) -> BoxFuture<'a, Result<DataKeyBytes, KmsError>> {
        let kept = self.kept.lock().unwrap();
        let of = wrapped.parse::<usize>().ok().filter(|_| wrapped_by == self.id);
        let found = of.and_then(|number| kept.get(number)).filter(|(id, _)| id == data_key);
        let bytes = found.map(|(_, bytes)| DataKeyBytes::new(*bytes));
        async move { bytes.ok_or_else(|| KmsError::Refused(data_key.to_owned())) }.boxed()
    }
}

/// Stops, and starts again with that key service.
async fn with_service(bench: Bench, kms: Option<Arc<dyn Kms>>) -> Result<Bench, StartError> {
    let Bench { api, place, hand, broker, gate, token, entropy, .. } = bench;
    api.drain(Duration::ZERO).await.unwrap();
    let (bus, clock) = (gate.clone(), hand.clock());
    let deps = Deps { broker: bus, clock, entropy: entropy.clone(), drain: Drain::new() };
    let api = Api::start_with(place.config(), deps, kms).await?;
    let http = client(&[api.authority().certificate().clone()], None);
    Ok(Bench { api, place, hand, broker, gate, token, http, entropy })
}

#[tokio::test(flavor = "multi_thread")]
async fn key_service_of_whoever_composes_the_control_plane_wraps_its_data_keys() {
    let bench = bench().await;
    let agent = obedient(&bench).await;
    // As a store that no vault key has sealed yet.
    let mut tx = bench.api.app().db.write(Actor::System, bench.now()).await.unwrap();
    store::forget_vault(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let file = bench.place.folder.path().join("data/vault.key");
    std::fs::remove_file(&file).unwrap();

    let service = Arc::new(Service { id: "service-1", kept: Mutex::default() });
    let bench = with_service(bench, Some(service.clone())).await.unwrap();
    let (id, _) = ran(&bench, &agent).await;
    let before = bench.command(&id).await;
    assert!(!holds(&bench, IN_EVIDENCE).await);
    let bench = with_service(bench, Some(service.clone())).await.unwrap();
    assert_eq!(bench.command(&id).await, before);
    assert!(!file.exists(), "no key lies in the data folder");
    assert_eq!(service.kept.lock().unwrap().len(), 1);

    let place = bench.place.clone();
    let other = Arc::new(Service { id: "service-2", kept: Mutex::default() });
    let refused = with_service(bench, Some(other)).await.map(drop).unwrap_err();
    assert!(matches!(refused, StartError::Vault(_)), "{refused:?}");
    let refused = try_start(&place, VaultConfig::default()).await.map(drop).unwrap_err();
    assert!(matches!(refused, StartError::Vault(_)), "{refused:?}");
    assert!(!file.exists(), "and none is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_copy_of_the_store_has_no_script_and_no_evidence() {
    let bench = bench().await;
    let agent = obedient(&bench).await;
    ran(&bench, &agent).await;
    assert!(holds(&bench, "run_script").await, "what is no secret is found");
    assert!(!holds(&bench, IN_SCRIPT).await);
    assert!(!holds(&bench, IN_EVIDENCE).await);
    // What was given and is on its way says it as well, until it is told.
    let bench = bench.restart_with(|_| ()).await;
    assert!(!holds(&bench, IN_SCRIPT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn store_from_before_the_vault_is_sealed_and_no_byte_of_it_stays() {
    let bench = bench().await;
    let agent = obedient(&bench).await;
    let (id, told) = ran(&bench, &agent).await;
    let before = bench.command(&id).await;
    let db = &bench.api.app().db;
    let mut tx = db.write(Actor::System, bench.now()).await.unwrap();
    store::forget_vault(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert!(holds(&bench, IN_SCRIPT).await && holds(&bench, IN_EVIDENCE).await);
    std::fs::remove_file(bench.place.folder.path().join("data/vault.key")).unwrap();

    // As long as it is not done, what lies in the clear is read.
    let bench = bench.restart_with(|config| config.job_period = Duration::from_secs(3600)).await;
    let status = vault::status(&bench.api.app().db).await.unwrap();
    assert!(status.progress.has_clear && status.progress.waiting == 5, "{status:?}");
    assert_eq!(bench.command(&id).await, before);
    let bench = bench.restart_with(|_| ()).await;
    until_sealed(&bench).await;
    assert_eq!(bench.events("secrets_sealed").await.len(), 1);
    assert_eq!(bench.command(&id).await, before);
    assert!(!holds(&bench, IN_SCRIPT).await);
    assert!(!holds(&bench, IN_EVIDENCE).await);
    // From then on nobody puts something in the clear in its place.
    let receipt = told.jws.as_str();
    assert_eq!(execute(&bench, &format!("UPDATE commands SET receipt = '{receipt}'")).await, 1);
    refused(&bench, &id).await;
}

/// That command is not shown.
async fn refused(bench: &Bench, id: &Value) {
    let url = bench.url(&format!("/v1/commands/{}", id.as_str().unwrap()));
    let response = bench.http.get(url).bearer_auth(&bench.token).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!response.text().await.unwrap().contains(IN_EVIDENCE));
}

/// Two commands get each other's outcome.
async fn swap_outcomes(bench: &Bench) {
    // Through another column: SQLite's statement sees what it has changed already.
    for statement in [
        "UPDATE commands SET ended_by = outcome",
        "UPDATE commands SET outcome = (SELECT o.ended_by FROM commands o WHERE o.id <> commands.id)",
        "UPDATE commands SET ended_by = NULL",
    ] {
        assert_eq!(execute(bench, statement).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_database_cannot_move_a_secret_to_another_row_or_column() {
    let bench = bench().await;
    let agent = obedient(&bench).await;
    let (one, _) = ran(&bench, &agent).await;
    let (two, _) = ran(&bench, &agent).await;
    let kept = bench.command(&one).await;
    swap_outcomes(&bench).await;
    refused(&bench, &one).await;
    refused(&bench, &two).await;
    // A rotation keeps the key of what does not open, and so it can be put back.
    rotate(&bench).await;
    let left = "SELECT COUNT(*) FROM commands WHERE receipt NOT LIKE 'sealed:' || \
                (SELECT id FROM vault_keys WHERE state = 'present') || ':%'";
    let wait = async {
        while number(&bench, left).await != 0 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, wait).await.expect("the others are sealed anew");
    assert_eq!(number(&bench, "SELECT COUNT(*) FROM vault_keys").await, 2);
    swap_outcomes(&bench).await;
    assert_eq!(bench.command(&one).await, kept);
    let moved = "UPDATE commands SET stage_proof = receipt";
    assert_eq!(execute(&bench, moved).await, 2);
    refused(&bench, &one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_plane_without_its_vault_key_does_not_start_and_loses_nothing() {
    let bench = bench().await;
    let agent = obedient(&bench).await;
    let (id, _) = ran(&bench, &agent).await;
    let before = bench.command(&id).await;
    let Bench { api, place, hand, broker, token, .. } = bench;
    api.drain(Duration::ZERO).await.unwrap();
    let file = place.folder.path().join("data/vault.key");
    let key = std::fs::read_to_string(&file).unwrap();

    std::fs::remove_file(&file).unwrap();
    let StartError::Vault(error) = try_start(&place, VaultConfig::default()).await.unwrap_err()
    else {
        panic!("it says what is missing");
    };
    assert!(error.to_string().contains("vault.key is missing"), "{error}");
    assert!(error.to_string().contains("put it back from its backup"), "{error}");
    assert!(!file.exists(), "no other key is made");

    let other = BASE64.encode([9; 32]);
    for wrong in [&other, "no key"] {
        let vault = VaultConfig { key: Some(Secret::inline(wrong)), ..VaultConfig::default() };
        let error = try_start(&place, vault).await.unwrap_err();
        assert!(matches!(error, StartError::Vault(_)), "{error}");
    }
    // The right one may come by another way.
    let vault = VaultConfig { key: Some(Secret::inline(&key)), ..VaultConfig::default() };
    try_start(&place, vault).await.unwrap().drain(Duration::ZERO).await.unwrap();

    // Another vault key takes over where it is told the former one.
    let both = VaultConfig {
        key: Some(Secret::inline(format!("{other}\n{key}"))),
        ..VaultConfig::default()
    };
    try_start(&place, both).await.unwrap().drain(Duration::ZERO).await.unwrap();
    std::fs::write(&file, &other).unwrap();
    let bench = Bench::start_as(place.config(), place, hand, broker, Some(token)).await;
    assert_eq!(bench.command(&id).await, before);
    assert_eq!(bench.events("vault_key_changed").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_by_hand_and_by_time_while_orders_flow() {
    let bench = bench().await;
    let agent = obedient(&bench).await;
    let mut ran_ids = Vec::new();
    let mut keys = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (flow, key) = tokio::join!(
            async {
                let mut ids = Vec::new();
                for _ in 0..5 {
                    ids.push(ran(&bench, &agent).await.0);
                }
                ids
            },
            rotate(&bench)
        );
        ran_ids.extend(flow);
        keys.insert(key);
    }
    until_sealed(&bench).await;
    // 91 days later the next one comes by itself.
    bench.hand.set_unix_millis(bench.hand.clock().unix_millis() + 91 * 24 * 3600 * 1000);
    let wait = async {
        while bench.events("data_key_made").await.len() < 5 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, wait).await.expect("it rotates by time");
    until_sealed(&bench).await;
    let status = vault::status(&bench.api.app().db).await.unwrap();
    assert!(keys.len() == 3 && !keys.contains(&status.data_key), "{status:?}");
    for id in ran_ids {
        assert_eq!(bench.command(&id).await["outcome"]["evidence"]["found"], IN_EVIDENCE);
    }
    assert!(!holds(&bench, IN_SCRIPT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_that_broke_off_in_its_middle_goes_on_at_the_next_start() {
    let bench = bench().await;
    let agent = obedient(&bench).await;
    let (id, _) = ran(&bench, &agent).await;
    let before = bench.command(&id).await;
    // More than one batch, of which a later one fails: as when the process is killed there.
    let copies = "INSERT INTO orders (id, operator, verb, manifest, reason, device_count, \
                  created_at, expires_at, script) SELECT ";
    let ids = if bench.place.url.is_empty() {
        "randomblob(16), operator, verb, manifest, reason, device_count, created_at, expires_at, \
         NULL FROM orders, (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
         WHERE i < 250) SELECT i FROM n)"
    } else {
        "gen_random_uuid(), operator, verb, manifest, reason, device_count, created_at, \
         expires_at, NULL FROM orders, generate_series(1, 250)"
    };
    assert_eq!(execute(&bench, &format!("{copies}{ids}")).await, 250);
    store::seal_scripts(&bench.api.app().db, IN_SCRIPT).await.unwrap();
    let total = number(&bench, "SELECT COUNT(*) FROM orders WHERE script IS NOT NULL").await;
    assert_eq!(total, 251);
    let (break_it, mend_it): (&[&str], &[&str]) = if bench.place.url.is_empty() {
        (
            &["CREATE TRIGGER full BEFORE UPDATE OF script ON orders WHEN \
               (SELECT COUNT(*) FROM orders WHERE script LIKE 'sealed:' || \
               (SELECT id FROM vault_keys WHERE state = 'present') || ':%') >= 150 \
               BEGIN SELECT RAISE(ABORT, 'full'); END"],
            &["DROP TRIGGER full"],
        )
    } else {
        (
            &[
                "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF (SELECT COUNT(*) FROM orders WHERE script LIKE 'sealed:' || \
                 (SELECT id FROM vault_keys WHERE state = 'present') || ':%') >= 150 \
                 THEN RAISE 'full'; END IF; RETURN NEW; END $$",
                "CREATE TRIGGER halt BEFORE UPDATE OF script ON orders FOR EACH ROW \
                 EXECUTE FUNCTION stop()",
            ],
            &["DROP TRIGGER halt ON orders"],
        )
    };
    for statement in break_it {
        execute(&bench, statement).await;
    }
    rotate(&bench).await;
    let done = "SELECT COUNT(*) FROM orders WHERE script LIKE 'sealed:' || \
                (SELECT id FROM vault_keys WHERE state = 'present') || ':%'";
    let wait = async {
        while number(&bench, done).await != 100 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, wait).await.expect("one batch is sealed");
    let bench = bench.kill_and_restart().await;
    assert_eq!(bench.command(&id).await, before, "both keys open");
    for statement in mend_it {
        execute(&bench, statement).await;
    }
    until_sealed(&bench).await;
    assert_eq!(number(&bench, done).await, 251);
    assert_eq!(bench.command(&id).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_writer_moves_no_second_factor_to_another_person() {
    let bench = bench().await;
    let nina = bench.person("nina", &["read@*"]).await;
    let otto = bench.person("otto", &["read@*"]).await;
    let sealed = "SELECT COUNT(*) FROM factors WHERE secret LIKE 'sealed:%' AND pending IS NULL";
    assert_eq!(number(&bench, sealed).await, 2);
    let moved = "UPDATE factors SET secret = (SELECT secret FROM factors WHERE operator = 'nina') \
                 WHERE operator = 'otto'";
    assert_eq!(execute(&bench, moved).await, 1);
    let given = bench.give_code(&otto.token, &nina.code(&bench, 0)).await;
    assert!(given.status().is_server_error(), "{}", given.status());
    bench.step_up(&nina).await;
}
