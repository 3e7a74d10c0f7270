//! How far a wipe is proven, as the control plane tells it: by the device's signature, or by
//! silence, and never the one for the other.

use std::time::Duration;

use protocol::frame::{AgentFrame, CommandFrame};
use protocol::grade::GRADE;
use protocol::receipt::{Evidence, Failure, FailureKind, Outcome, RefusalReason};
use serde_json::{Value, json};

use super::actors::{TestAgent, ack, confirmed, id_of};
use super::approvals::approved_wipe;
use super::bench::Bench;

fn graded(word: &str) -> Evidence {
    Evidence::new().with(GRADE, word)
}

async fn taken(bench: &Bench) -> (TestAgent, CommandFrame) {
    let mut agent = bench.agent("a", None).await;
    let command = approved_wipe(bench, &mut agent).await;
    agent.check_in(bench, vec![ack(&command)]).await;
    (agent, command)
}

async fn grade(bench: &Bench, command: &CommandFrame) -> Value {
    bench.command(&id_of(command)).await["grade"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn proof_before_the_end_is_kept_confirmed_and_outlives_a_failure() {
    let bench = Bench::start().await;
    let (agent, command) = taken(&bench).await;
    assert_eq!(grade(&bench, &command).await, Value::Null);
    let other = bench.agent("b", None).await;
    let strange = |agent: &TestAgent| {
        agent.proof(&command, |claims| claims.envelope_sha256 = "of another envelope".to_owned())
    };
    for frame in [
        other.proof(&command, |claims| claims.iss = agent.id),
        agent.proof(&command, |claims| claims.generation += 1),
        strange(&agent),
    ] {
        assert!(confirmed(&agent.check_in(&bench, vec![frame]).await).is_empty());
    }
    assert_eq!(grade(&bench, &command).await, Value::Null, "a forged proof proves nothing");

    let proof = agent.proof(&command, |claims| claims.evidence = graded("proven"));
    let AgentFrame::Proof { jws, .. } = &proof else { unreachable!("it is a proof") };
    let told = agent.check_in(&bench, vec![proof.clone(), proof.clone()]).await;
    assert_eq!(confirmed(&told), vec![jws.sha256(); 2]);
    let story = bench.command(&id_of(&command)).await;
    assert_eq!(story["state"], "running");
    assert_eq!(story["grade"], "proven");
    assert_eq!(story["proof"], json!(jws));
    let events = bench.events("command_proved").await;
    assert_eq!(events.len(), 1, "the first says it all");
    assert_eq!(events[0]["payload"]["grade"], "proven");

    let failed = agent.receipt(&command, |claims| {
        let failure = Failure {
            kind: FailureKind::Io,
            stage: "finish".to_owned(),
            detail: "the disk is gone".to_owned(),
        };
        claims.outcome = Outcome::Failed { failure, evidence: Evidence::new() };
    });
    agent.check_in(&bench, vec![failed]).await;
    let story = bench.command(&id_of(&command)).await;
    assert_eq!((&story["state"], &story["grade"]), (&json!("failed"), &json!("proven")));
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_after_the_ack_is_presumed_until_the_device_speaks() {
    let bench = Bench::start().await;
    let (agent, command) = taken(&bench).await;
    bench.hand.advance(Duration::from_secs(29 * 60));
    assert_eq!(grade(&bench, &command).await, Value::Null, "it may just be busy");
    bench.hand.advance(Duration::from_secs(2 * 60));
    assert_eq!(grade(&bench, &command).await, "presumed");
    let receipt = agent.receipt(&command, |claims| {
        claims.outcome = Outcome::Succeeded { evidence: graded("proven_media") };
    });
    agent.check_in(&bench, vec![receipt]).await;
    assert_eq!(grade(&bench, &command).await, "proven_media");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_proves_nothing_is_never_graded_as_proven() {
    let outcomes = [
        (Outcome::Succeeded { evidence: Evidence::new() }, "unproven"),
        (Outcome::Succeeded { evidence: graded("presumed") }, "unproven"),
        (Outcome::InDoubt { stage: "apply".to_owned() }, "unproven"),
        (Outcome::Refused { reason: RefusalReason::NotArmed, detail: "off".to_owned() }, "refused"),
    ];
    for (outcome, expected) in outcomes {
        let bench = Bench::start().await;
        let (agent, command) = taken(&bench).await;
        let receipt = agent.receipt(&command, |claims| claims.outcome = outcome.clone());
        agent.check_in(&bench, vec![receipt]).await;
        assert_eq!(grade(&bench, &command).await, expected, "{outcome:?}");
    }
}
