//! What devices claim, and what of it is believed.

use protocol::frame::{AgentFrame, CommandFrame};
use protocol::receipt::{Outcome, RefusalReason};
use protocol::time::Timestamp;
use serde_json::json;

use super::actors::{TestAgent, ack, commands, confirmed, id_of};
use super::bench::Bench;

async fn taken(bench: &Bench, agent: &TestAgent) -> CommandFrame {
    bench.order("lock", &[agent.id]).await;
    let command = commands(&agent.check_in(bench, Vec::new()).await).remove(0);
    agent.check_in(bench, vec![ack(&command)]).await;
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_receipts_are_events_and_never_outcomes() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let other = bench.agent("b", None).await;
    let command = taken(&bench, &agent).await;
    let forged = [
        other.receipt(&command, |claims| claims.iss = agent.id),
        other.receipt(&command, |_| {}),
        agent.receipt(&command, |claims| claims.generation += 1),
        agent.receipt(&command, |claims| claims.iss = other.id),
        agent.receipt(&command, |claims| claims.command_id = other.id.to_string().parse().unwrap()),
    ];
    let told = agent.check_in(&bench, forged.to_vec()).await;
    assert!(confirmed(&told).is_empty());
    assert_eq!(bench.command(&id_of(&command)).await["state"], "acked");
    let told = agent.check_in(&bench, forged.to_vec()).await;
    assert!(confirmed(&told).is_empty());
    assert_eq!(bench.events("receipt_forged").await.len(), 1, "the first says it all");
    // Another device may not even speak of it.
    let told = other.check_in(&bench, vec![agent.receipt(&command, |_| {})]).await;
    assert!(confirmed(&told).is_empty());
    assert_eq!(bench.command(&id_of(&command)).await["state"], "acked");
}

/// So many that they are checked on a thread of their own.
#[tokio::test(flavor = "multi_thread")]
async fn one_forged_receipt_among_many_leaves_the_others_as_they_are() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let other = bench.agent("b", None).await;
    for _ in 0..8 {
        bench.order("lock", &[agent.id]).await;
    }
    let commands = commands(&agent.check_in(&bench, Vec::new()).await);
    assert_eq!(commands.len(), 8);
    agent.check_in(&bench, commands.iter().map(ack).collect()).await;
    let forged = 5;
    let receipts = commands.iter().enumerate().map(|(n, command)| {
        let whose = if n == forged { &other } else { &agent };
        whose.receipt(command, |claims| claims.iss = agent.id)
    });
    let told = agent.check_in(&bench, receipts.collect()).await;
    assert_eq!(confirmed(&told).len(), commands.len() - 1);
    for (n, command) in commands.iter().enumerate() {
        let state = if n == forged { "acked" } else { "succeeded" };
        assert_eq!(bench.command(&id_of(command)).await["state"], state, "{n}");
    }
    assert_eq!(bench.events("receipt_forged").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_receipt_wins_and_others_are_recorded() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let command = taken(&bench, &agent).await;
    let first = agent.receipt(&command, |_| {});
    agent.check_in(&bench, vec![first.clone()]).await;
    let told = agent.check_in(&bench, vec![first.clone(), first]).await;
    assert_eq!(confirmed(&told).len(), 2, "a repetition is confirmed again");
    assert!(bench.events("receipt_conflict").await.is_empty());

    let second = agent.receipt(&command, |claims| {
        claims.outcome = Outcome::InDoubt { stage: "apply".to_owned() };
    });
    let told = agent.check_in(&bench, vec![second]).await;
    assert_eq!(confirmed(&told).len(), 1, "the device need not insist");
    assert_eq!(bench.command(&id_of(&command)).await["state"], "succeeded");
    let conflicts = bench.events("receipt_conflict").await;
    assert_eq!(conflicts[0]["payload"]["receipt_says"], "in_doubt");
    assert_eq!(conflicts[0]["subject"], id_of(&command));
    assert_eq!(conflicts[0]["payload"]["receipt"], json!(null), "its hash, not its text");
    assert!(conflicts[0]["payload"]["receipt_sha256"].is_string());
    let third = agent.receipt(&command, |claims| {
        claims.outcome = Outcome::InDoubt { stage: "prove".to_owned() };
    });
    agent.check_in(&bench, vec![third]).await;
    assert_eq!(bench.events("receipt_conflict").await.len(), 1, "the first says it all");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_of_a_forged_envelope_does_not_end_the_real_command() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let command = taken(&bench, &agent).await;
    let refusal = agent.receipt(&command, |claims| {
        claims.envelope_sha256 = "of another envelope".to_owned();
        claims.outcome = Outcome::Refused {
            reason: RefusalReason::BadSignature,
            detail: "signed by nobody".to_owned(),
        };
    });
    let told = agent.check_in(&bench, vec![refusal]).await;
    assert_eq!(confirmed(&told).len(), 1);
    assert_eq!(bench.command(&id_of(&command)).await["state"], "acked");
    let alarms = bench.events("envelope_forged").await;
    assert_eq!(alarms[0]["subject"], json!(agent.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_signed_outranks_a_cancel() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    bench.order("lock", &[agent.id]).await;
    let command = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
    let path = format!("/v1/commands/{}/cancel", command.command_id);
    bench.post(&path, &json!({}), reqwest::StatusCode::OK).await;
    let progress = AgentFrame::stage(command.command_id, "apply".to_owned());
    let late = agent.receipt(&command, |_| {});
    agent.check_in(&bench, vec![ack(&command), progress, late.clone()]).await;
    agent.check_in(&bench, vec![late]).await;
    let story = bench.command(&id_of(&command)).await;
    assert_eq!(story["state"], "succeeded");
    assert_eq!(story["outcome"]["state"], "succeeded");
    assert_eq!(story["ended_by"], serde_json::Value::Null);
    assert_eq!(bench.events("command_cancelled").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn notice_of_a_device_is_an_event_and_no_outcome() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let other = bench.agent("b", None).await;
    let command = taken(&bench, &agent).await;
    let said = agent.notice(&command, |_| {});
    let AgentFrame::Notice { jws, .. } = &said else { unreachable!("a notice") };
    let told = agent.check_in(&bench, vec![said.clone()]).await;
    assert_eq!(confirmed(&told), [jws.sha256()]);
    assert_eq!(bench.command(&id_of(&command)).await["state"], "acked");
    let events = bench.events("device_tampered").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["payload"]["what"], "quarantine_flushed");
    // Words of a device are cut, and hide nothing.
    let long = agent.notice(&command, |notice| notice.what = format!("\u{202e}{}", "x".repeat(99)));
    agent.check_in(&bench, vec![long]).await;
    let events = bench.events("device_tampered").await;
    let what = events[1]["payload"]["what"].as_str().unwrap();
    assert!(what.starts_with("\u{fffd}x") && what.chars().count() == 64, "{what}");
    // Nobody else speaks for it, and it not for another enrollment.
    let forged = [
        other.notice(&command, |claims| claims.iss = agent.id),
        agent.notice(&command, |claims| claims.generation += 1),
    ];
    let told = agent.check_in(&bench, forged.to_vec()).await;
    assert!(confirmed(&told).is_empty());
    assert_eq!(bench.events("device_tampered").await.len(), 2);
    // However often: the log does not fill.
    for number in 0..100 {
        let more = agent.notice(&command, |claims| claims.at = Timestamp::from_millis(number));
        agent.check_in(&bench, vec![more]).await;
    }
    assert_eq!(bench.events("device_tampered").await.len(), 64);
}
