//! Credentials in escrow: held before they are confirmed, shown to nobody beside their command, and
//! read with a reason that the audit log keeps.

use std::time::Duration;

use api::audit::Actor;
use protocol::action::Verb;
use protocol::escrow::{self, Escrow, Subject};
use protocol::fixture;
use protocol::frame::{AgentFrame, CommandFrame};
use protocol::receipt::{Evidence, Failure, FailureKind, Outcome};
use protocol::sealed::CaseSecret;
use protocol::trust::TrustRoot;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{TestAgent, ack, commands, confirmed, id_of};
use super::bench::{Bench, GUARD, PAUSE};

const SEALED: &str = "a-sealed-credential";

pub(crate) fn escrowed(
    agent: &TestAgent,
    command: &CommandFrame,
    change: impl FnOnce(&mut Escrow),
) -> AgentFrame {
    let mut claims = Escrow {
        iss: agent.id,
        generation: agent.generation,
        command_id: command.command_id,
        order_id: fixture::order(1),
        verb: Verb::RotateCredentials,
        subjects: vec![Subject::Account { name: "rescue".to_owned() }],
        recovery_key: CaseSecret::new([9; 32]).public().unwrap(),
        sealed: SEALED.to_owned(),
        made_at: fixture::NOW,
        envelope_sha256: command.jws.sha256(),
    };
    change(&mut claims);
    let random = aws_lc_rs::rand::SystemRandom::new();
    let jws = escrow::sign(&claims, &agent.signing.signer(&random)).unwrap();
    AgentFrame::Escrow { command_id: command.command_id, jws }
}

fn name(frame: &AgentFrame) -> String {
    let AgentFrame::Escrow { jws, .. } = frame else { unreachable!("it is an escrow") };
    jws.sha256()
}

/// A rotation that its device has taken.
pub(crate) async fn taken(bench: &Bench, agent: &mut TestAgent) -> CommandFrame {
    let action = json!({ "verb": "rotate_credentials", "params": {
        "credential": { "account": "rescue" },
        "recovery_key": CaseSecret::new([9; 32]).public().unwrap(),
    } });
    // One person must approve unless the trust root says otherwise.
    let nobody = |root: &mut TrustRoot| {
        root.approvals.insert("rotate_credentials".to_owned(), 0);
    };
    agent.trust = bench.change_trust(nobody).await;
    let body =
        json!({ "action": action, "targets": { "devices": [agent.id] }, "reason": "a test" });
    bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    let command = commands(&agent.check_in(bench, Vec::new()).await).remove(0);
    agent.check_in(bench, vec![ack(&command)]).await;
    command
}

pub(crate) async fn listed(bench: &Bench) -> Vec<Value> {
    bench.get("/v1/escrows").await["items"].as_array().unwrap().clone()
}

fn in_force(sealed: &str) -> Outcome {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, sealed.as_bytes());
    let name: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Outcome::Succeeded { evidence: Evidence::new().with("sealed_sha256", name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn escrow_is_held_once_confirmed_and_shown_only_to_who_says_why() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("a", None).await;
    let command = taken(&bench, &mut agent).await;
    let frame = escrowed(&agent, &command, |_| {});
    let told = agent.check_in(&bench, vec![frame.clone(), frame.clone()]).await;
    assert_eq!(confirmed(&told), vec![name(&frame); 2]);
    // Signed again after a crash: the same credential, held once.
    let again = escrowed(&agent, &command, |claims| {
        claims.made_at = fixture::NOW.plus(Duration::from_secs(1))
    });
    assert_eq!(confirmed(&agent.check_in(&bench, vec![again.clone()]).await), [name(&again)]);
    let found = listed(&bench).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["state"], "held");
    assert_eq!(found[0]["subjects"], json!([{ "kind": "account", "name": "rescue" }]));
    let story = bench.command(&id_of(&command)).await;
    assert_eq!((&story["state"], &story["stage"]), (&json!("running"), &json!("escrow")));

    let path = format!("/v1/escrows/{}/read", found[0]["id"].as_str().unwrap());
    bench.post(&path, &json!({ "reason": " " }), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(bench.events("escrow_read").await.is_empty());
    let read = bench.post(&path, &json!({ "reason": "case 7" }), StatusCode::OK).await;
    let AgentFrame::Escrow { jws, .. } = &frame else { unreachable!("it is an escrow") };
    assert_eq!(read["jws"], json!(jws));
    let events = bench.events("escrow_read").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["payload"]["reason"], "case 7");
    assert!(events[0]["actor"].as_str().unwrap().starts_with("operator:"));
    // Nowhere else, whatever a token may see.
    let all = [
        found[0].to_string(),
        story.to_string(),
        json!(bench.events("escrow_kept").await).to_string(),
    ];
    assert!(all.iter().all(|text| !text.contains(SEALED) && !text.contains(jws.as_str())));
}

async fn sealed(bench: &Bench) -> i64 {
    let mut conn = bench.api.app().db.read().await.unwrap();
    let count = "SELECT COUNT(*) FROM escrows WHERE jws LIKE 'sealed:%'";
    api::fixture::number(&mut conn, count).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn escrows_are_sealed_and_those_of_an_earlier_version_by_its_next_start() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("a", None).await;
    let command = taken(&bench, &mut agent).await;
    let frame = escrowed(&agent, &command, |_| {});
    agent.check_in(&bench, vec![frame.clone()]).await;
    assert_eq!(sealed(&bench).await, 1);
    let AgentFrame::Escrow { jws, .. } = &frame else { unreachable!("it is an escrow") };
    let mut tx = bench.api.app().db.write(Actor::System, bench.now()).await.unwrap();
    let clear = format!("UPDATE escrows SET jws = '{}'", jws.as_str());
    for statement in
        [clear.as_str(), include_str!("../../migrations/sqlite/0022_sealed_escrows.sql")]
    {
        assert_eq!(api::fixture::execute(&mut tx, statement).await.unwrap(), 1);
    }
    tx.commit().await.unwrap();
    assert_eq!(sealed(&bench).await, 0);

    let bench = bench.restart_with(|_| ()).await;
    let pass = async {
        while sealed(&bench).await == 0 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, pass).await.expect("the vault passes it");
    let path = format!("/v1/escrows/{}/read", listed(&bench).await[0]["id"].as_str().unwrap());
    let read = bench.post(&path, &json!({ "reason": "case 7" }), StatusCode::OK).await;
    assert_eq!(read["jws"], json!(jws));
}

#[tokio::test(flavor = "multi_thread")]
async fn receipt_says_which_escrow_is_in_force() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("a", None).await;
    let states = async || {
        let found = listed(&bench).await;
        found.iter().map(|escrow| escrow["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let ends = [
        (in_force("first"), vec!["in_force"]),
        (withdrawn("escrow"), vec!["in_force", "withdrawn"]),
        (in_force("third"), vec!["superseded", "withdrawn", "in_force"]),
        (withdrawn("finish"), vec!["superseded", "withdrawn", "in_force", "held"]),
    ];
    for ((outcome, expected), sealed) in ends.into_iter().zip(["first", "second", "third", "last"])
    {
        bench.hand.advance(Duration::from_secs(1));
        let command = taken(&bench, &mut agent).await;
        let frame = escrowed(&agent, &command, |claims| claims.sealed = sealed.to_owned());
        agent.check_in(&bench, vec![frame]).await;
        let receipt = agent.receipt(&command, |claims| claims.outcome = outcome);
        agent.check_in(&bench, vec![receipt]).await;
        assert_eq!(states().await, expected);
    }
}

fn withdrawn(stage: &str) -> Outcome {
    let (kind, stage, detail) = (FailureKind::Timeout, stage.to_owned(), "late".to_owned());
    Outcome::Failed { failure: Failure { kind, stage, detail }, evidence: Evidence::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_could_open_later_is_not_confirmed() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("a", None).await;
    let command = taken(&bench, &mut agent).await;
    let other = bench.agent("b", None).await;
    for frame in [
        escrowed(&other, &command, |claims| claims.iss = agent.id),
        escrowed(&agent, &command, |claims| claims.generation += 1),
        escrowed(&agent, &command, |claims| claims.envelope_sha256 = "another".to_owned()),
        escrowed(&agent, &command, |claims| {
            claims.subjects = vec![Subject::Account { name: "\u{202e}eman".to_owned() }];
        }),
    ] {
        assert!(confirmed(&agent.check_in(&bench, vec![frame]).await).is_empty());
    }
    // More than a device has reason for.
    for (number, is_held) in [(1, true), (2, true), (3, true), (4, true), (5, false)] {
        let sealed = format!("sealed {number}");
        let frame = escrowed(&agent, &command, |claims| claims.sealed = sealed);
        let told = confirmed(&agent.check_in(&bench, vec![frame]).await);
        assert_eq!(!told.is_empty(), is_held, "{number}");
    }
    let receipt = agent.receipt(&command, |claims| claims.outcome = withdrawn("escrow"));
    agent.check_in(&bench, vec![receipt]).await;
    let late = escrowed(&agent, &command, |claims| claims.sealed = "late".to_owned());
    assert!(confirmed(&agent.check_in(&bench, vec![late]).await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_ability_reads_an_escrow_and_within_its_groups() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("a", Some("berlin")).await;
    let command = taken(&bench, &mut agent).await;
    agent.check_in(&bench, vec![escrowed(&agent, &command, |_| {})]).await;
    let id = listed(&bench).await[0]["id"].as_str().unwrap().to_owned();
    for (scope, status) in [
        ("read@*", StatusCode::FORBIDDEN),
        ("escrows@paris", StatusCode::NOT_FOUND),
        ("escrows@berlin", StatusCode::OK),
    ] {
        let token = bench.token_for(&[scope]).await;
        let path = format!("/v1/escrows/{id}/read");
        let answer = bench.post_as(&token, &path, &json!({ "reason": "a test" })).await;
        assert_eq!(answer.status(), status, "{scope}");
    }
    assert_eq!(bench.events("escrow_read").await.len(), 1);
}
