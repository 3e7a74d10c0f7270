//! A hub of somebody else's, or a whole broker: what it says in devices' names, and where it says
//! that they are, ends nothing and moves nothing that only a device can; and it is an event.

use std::time::Duration;

use broker::{Arrival, Broker as _, Downstream, Presence, Upstream};
use protocol::frame::{AgentFrame, CommandFrame, Hello, HubFrame};
use protocol::id::{DeviceId, SessionId};
use protocol::jws::CompactJws;
use protocol::limits;
use protocol::receipt::{Evidence, Outcome, RefusalReason};
use protocol::state::PerLane;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{TestAgent, TestHub, ack, commands, confirmed, id_of};
use super::approvals::approved_wipe;
use super::bench::Bench;
use super::escrows::{escrowed, listed, taken as rotation_taken};

/// A device that is on a hub of somebody else's, with a command that was sent there.
struct Scene {
    bench: Bench,
    agent: TestAgent,
    /// A device that the hub has enrolled for itself.
    mallory: TestAgent,
    evil: TestHub,
    command: CommandFrame,
}

impl Scene {
    async fn new() -> Self {
        Box::pin(Self::start()).await
    }

    async fn start() -> Self {
        let bench = Bench::start().await;
        let (agent, mallory) = (bench.agent("a", None).await, bench.agent("mallory", None).await);
        let mut evil = bench.hub("hub-evil").await;
        evil.arrive(agent.id, bench.session()).await;
        bench.order("lock", &[agent.id]).await;
        let command = evil.command_for(agent.id).await;
        bench.until_state(&id_of(&command), "sent").await;
        bench.order("refresh", &[mallory.id]).await;
        Self { bench, agent, mallory, evil, command }
    }

    /// Says something in the device's name, and waits until it was judged.
    async fn says(&mut self, frames: Vec<AgentFrame>) {
        self.evil.say(&self.agent, frames).await;
        self.judged().await;
    }

    /// What was said before is written when an answer comes to what is said now.
    async fn judged(&mut self) {
        let mallory = &self.mallory;
        self.evil.say(mallory, vec![mallory.hello()]).await;
        self.evil.command_for(mallory.id).await;
    }

    async fn state(&self) -> Value {
        self.bench.command(&id_of(&self.command)).await["state"].clone()
    }

    async fn count(&self, kind: &str) -> usize {
        self.bench.events(kind).await.len()
    }

    /// The command that the device gets beside the first one.
    async fn other_command(&self) -> CommandFrame {
        let told = commands(&self.agent.check_in(&self.bench, Vec::new()).await);
        let mut others = told.into_iter().filter(|c| c.command_id != self.command.command_id);
        others.next().unwrap()
    }

    /// The device itself gets the command, carries it out, and is believed.
    async fn device_is_served(&self) {
        let told = commands(&self.agent.check_in(&self.bench, Vec::new()).await);
        let its = told.iter().find(|frame| frame.command_id == self.command.command_id).unwrap();
        self.agent.verify(&self.bench, &its.jws);
        let said = vec![ack(its), self.agent.receipt(its, |_| ())];
        let told = self.agent.check_in(&self.bench, said).await;
        assert_eq!(confirmed(&told).len(), 1);
        assert_eq!(self.state().await, "succeeded");
        api::audit::verify_db(&self.bench.api.app().db).await.unwrap();
    }
}

fn jws_of(frame: &AgentFrame) -> &CompactJws {
    let AgentFrame::Receipt { jws, .. } = frame else { panic!("{frame:?} is no receipt") };
    jws
}

fn hello_of(agent: &TestAgent, change: impl FnOnce(&mut Hello)) -> AgentFrame {
    let AgentFrame::Hello(mut hello) = agent.hello() else { unreachable!("it is a hello") };
    change(&mut hello);
    AgentFrame::Hello(hello)
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_forges_receipts_ends_no_command() {
    let mut scene = Scene::new().await;
    let (agent, mallory, command) = (&scene.agent, &scene.mallory, &scene.command);
    let forged = vec![
        mallory.receipt(command, |claims| claims.iss = agent.id),
        mallory.receipt(command, |_| ()),
        agent.receipt(command, |claims| claims.generation += 1),
        agent.receipt(command, |claims| claims.iss = mallory.id),
    ];
    scene.says(forged).await;
    assert_eq!(scene.state().await, "sent");
    assert_eq!(scene.count("receipt_forged").await, 1, "the first says it all");
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_broker_that_alters_receipts_ends_no_command() {
    let mut scene = Scene::new().await;
    let good = scene.agent.receipt(&scene.command, |_| ());
    let parts: Vec<_> = jws_of(&good).as_str().split('.').map(str::to_owned).collect();
    let altered = (0..3).map(|at| {
        let mut parts = parts.clone();
        let middle = parts[at].len() / 2;
        let other = if &parts[at][middle..=middle] == "A" { "B" } else { "A" };
        parts[at].replace_range(middle..=middle, other);
        let jws = CompactJws::from_text(parts.join("."));
        AgentFrame::Receipt { command_id: scene.command.command_id, jws }
    });
    let altered = altered.collect();
    scene.says(altered).await;
    assert_eq!(scene.state().await, "sent");
    assert_eq!(scene.count("receipt_forged").await, 1);
    assert_eq!(scene.count("command_finished").await, 0);
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_puts_a_receipt_under_another_commands_name_ends_neither() {
    let mut scene = Scene::new().await;
    let lock = scene.agent.receipt(&scene.command, |_| ());
    scene.bench.order("unlock", &[scene.agent.id]).await;
    let unlock = scene.evil.command_for(scene.agent.id).await;
    let jws = jws_of(&lock).clone();
    scene.says(vec![AgentFrame::Receipt { command_id: unlock.command_id, jws }]).await;
    let forged = scene.bench.events("receipt_forged").await;
    assert_eq!((forged.len(), &forged[0]["subject"]), (1, &id_of(&unlock)));
    assert_ne!(scene.bench.command(&id_of(&unlock)).await["state"], "succeeded");
    assert_eq!(scene.state().await, "sent");
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_broker_that_puts_a_devices_words_into_anothers_mouth_is_an_event() {
    let mut scene = Scene::new().await;
    let (agent, mallory, command) = (&scene.agent, &scene.mallory, &scene.command);
    let said = vec![ack(command), agent.receipt(command, |_| ())];
    scene.evil.say(mallory, said).await;
    scene.judged().await;
    assert_eq!(scene.state().await, "sent");
    let forged = scene.bench.events("receipt_forged").await;
    assert_eq!(forged.len(), 1);
    assert_eq!(forged[0]["subject"], json!(scene.mallory.id));
    assert_eq!(forged[0]["payload"]["command_id"], id_of(&scene.command));
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_forges_receipts_without_end_does_not_fill_the_audit_log() {
    let mut scene = Scene::new().await;
    let jws = || CompactJws::from_text("e30.e30.e30".to_owned());
    let made_up = |number: u64| {
        let command_id = protocol::fixture::command(u8::try_from(number).unwrap());
        AgentFrame::Receipt { command_id, jws: jws() }
    };
    scene.says((0..200).map(made_up).collect()).await;
    let events = scene.count("receipt_forged").await;
    assert!((1..=4).contains(&events), "{events}");
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_has_its_own_forgery_refused_does_not_end_the_real_command() {
    let mut scene = Scene::new().await;
    let refusal = scene.agent.receipt(&scene.command, |claims| {
        claims.envelope_sha256 = "of the forgery".to_owned();
        let detail = "signed by nobody".to_owned();
        claims.outcome = Outcome::Refused { reason: RefusalReason::BadSignature, detail };
    });
    scene.says(vec![refusal]).await;
    assert_eq!(scene.state().await, "sent");
    let alarms = scene.bench.events("envelope_forged").await;
    assert_eq!((alarms.len(), &alarms[0]["subject"]), (1, &json!(scene.agent.id)));
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_acks_what_it_swallowed_is_found_out_by_the_devices_own_numbers() {
    let mut scene = Scene::new().await;
    scene.says(vec![ack(&scene.command)]).await;
    assert_eq!(scene.state().await, "acked");
    scene.bench.hand.advance(Duration::from_secs(11));
    let told = commands(&scene.agent.check_in(&scene.bench, Vec::new()).await);
    assert_eq!(told.len(), 1, "it comes again");
    assert_eq!(scene.count("journal_rollback").await, 1);
    let lost = scene.bench.events("command_lost").await;
    assert_eq!((lost.len(), &lost[0]["subject"]), (1, &id_of(&scene.command)));
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_speaks_of_what_nobody_approved_moves_nothing() {
    let mut scene = Scene::new().await;
    let (ann, bob) = (super::approvals::key(1), super::approvals::key(2));
    scene.bench.set_approvers(&[(&ann, "ann"), (&bob, "bob")]).await;
    let wipe = scene.bench.order("wipe", &[scene.agent.id]).await["commands"][0]["id"].clone();
    let command_id = serde_json::from_value(wipe.clone()).unwrap();
    let stage = AgentFrame::stage(command_id, "apply".to_owned());
    let made_up = scene.agent.receipt(&scene.command, |claims| claims.command_id = command_id);
    let jws = jws_of(&made_up).clone();
    let receipt = AgentFrame::Receipt { command_id, jws };
    scene.says(vec![AgentFrame::Ack { command_id }, stage, receipt]).await;
    let story = scene.bench.command(&wipe).await;
    assert_eq!(story["state"], "awaiting_approval");
    assert_eq!(story["outcome"], Value::Null);
    let conflicts = scene.bench.events("receipt_conflict").await;
    assert_eq!((conflicts.len(), &conflicts[0]["subject"]), (1, &wipe));
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_forges_a_proof_grades_no_wipe() {
    let mut scene = Scene::new().await;
    approved_wipe(&scene.bench, &mut scene.agent).await;
    let wipe = scene.other_command().await;
    let (agent, mallory) = (&scene.agent, &scene.mallory);
    let proven = || Evidence::new().with(protocol::grade::GRADE, "proven");
    let forged = vec![
        mallory.proof(&wipe, |claims| (claims.iss, claims.evidence) = (agent.id, proven())),
        // The device's own, about another envelope.
        agent.proof(&wipe, |claims| {
            (claims.evidence, claims.envelope_sha256) = (proven(), "another".to_owned());
        }),
    ];
    scene.says(forged).await;
    let story = scene.bench.command(&id_of(&wipe)).await;
    assert_eq!((&story["grade"], &story["proof"]), (&Value::Null, &Value::Null));
    assert_eq!(scene.count("command_proved").await, 0);
    assert_eq!(scene.count("receipt_forged").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_forges_notices_ends_no_effect_and_is_told_apart() {
    let mut scene = Scene::new().await;
    let (agent, mallory, command) = (&scene.agent, &scene.mallory, &scene.command);
    let released = |claims: &mut protocol::notice::Notice| {
        (claims.iss, claims.what) = (agent.id, "released_offline".to_owned());
    };
    let forged = vec![
        mallory.notice(command, released),
        agent.notice(command, |claims| claims.generation += 1),
    ];
    scene.says(forged).await;
    assert_eq!(scene.count("effect_ended").await + scene.count("device_tampered").await, 0);
    assert_eq!(scene.count("receipt_forged").await, 1);
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_forges_an_escrow_has_nothing_kept() {
    let mut scene = Scene::new().await;
    rotation_taken(&scene.bench, &mut scene.agent).await;
    let rotation = scene.other_command().await;
    let (agent, mallory) = (&scene.agent, &scene.mallory);
    let forged = vec![
        escrowed(mallory, &rotation, |claims| claims.iss = agent.id),
        escrowed(agent, &rotation, |claims| claims.generation += 1),
    ];
    scene.says(forged).await;
    assert_eq!(listed(&scene.bench).await, Vec::<Value>::new());
    assert_eq!(scene.count("receipt_forged").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_speaks_for_another_enrollment_of_the_device_ends_nothing() {
    let mut scene = Scene::new().await;
    let enrolled = scene.agent.generation;
    let said = vec![ack(&scene.command), scene.agent.receipt(&scene.command, |_| ())];
    for generation in [0, enrolled + 1, u32::MAX] {
        scene.agent.generation = generation;
        scene.says(said.clone()).await;
        assert_eq!(scene.state().await, "sent", "{generation}");
    }
    scene.agent.generation = enrolled;
    assert_eq!(scene.count("receipt_forged").await, 3);
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_says_hello_for_a_revoked_device_gets_nothing_for_it() {
    let mut scene = Scene::new().await;
    let path = format!("/v1/devices/{}/revoke", scene.agent.id);
    let revoked = scene.bench.post_as(&scene.bench.token, &path, &json!({})).await;
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    scene.evil.say(&scene.agent, vec![scene.agent.hello(), ack(&scene.command)]).await;
    // Once because of the revocation, and again for an answer.
    let told =
        Downstream::Revoke { device: scene.agent.id, through_generation: scene.agent.generation };
    for _ in 0..2 {
        assert_eq!(scene.evil.next().await, told);
    }
    scene.judged().await;
    assert_ne!(scene.state().await, "acked");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_claims_a_newer_trust_root_for_a_device_keeps_none_from_it() {
    let mut scene = Scene::new().await;
    let lie = hello_of(&scene.agent, |hello| hello.trust_version = u32::MAX);
    scene.says(vec![lie]).await;
    let newer = scene.bench.change_trust(|_| ()).await;
    let told = scene.agent.check_in(&scene.bench, Vec::new()).await;
    let is_trust = |frame: &HubFrame| matches!(frame, HubFrame::Trust { .. });
    assert_eq!(told.iter().filter(|frame| is_trust(frame)).count(), 1);
    scene.agent.trust = newer;
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_raises_a_devices_numbers_is_an_event_and_stops_no_order() {
    let mut scene = Scene::new().await;
    let highest = PerLane { urgent: u64::MAX, bulk: u64::MAX };
    let lie = hello_of(&scene.agent, |hello| hello.last_seq = highest);
    scene.says(vec![lie.clone(), lie]).await;
    let raised = scene.bench.events("sequence_raised").await;
    assert_eq!(raised.len(), 2, "each lane once");
    assert_eq!(raised[0]["subject"], json!(scene.agent.id));
    let next = scene.bench.order("unlock", &[scene.agent.id]).await["commands"][0]["id"].clone();
    let told = commands(&scene.agent.check_in(&scene.bench, Vec::new()).await);
    let numbers: Vec<_> = told
        .iter()
        .map(|frame| scene.agent.verify(&scene.bench, &frame.jws).envelope().seq)
        .collect();
    assert_eq!(told.iter().map(id_of).collect::<Vec<_>>(), [id_of(&scene.command), next]);
    assert!(numbers[0] < numbers[1] && numbers[1] < u64::MAX / 2, "{numbers:?}");
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_hub_that_claims_presence_for_ever_keeps_no_order_from_the_device() {
    let mut scene = Scene::new().await;
    let honest = scene.bench.hub("hub-1").await;
    let forever = Presence::new(&scene.evil.lease, scene.bench.session(), limits::EPOCH_MAX);
    scene.evil.broker.arrive(scene.agent.id, forever).await.unwrap();
    let here = Presence::new(&honest.lease, scene.bench.session(), 7);
    let arrival = scene.evil.broker.arrive(scene.agent.id, here).await.unwrap();
    assert_eq!(arrival, Arrival::Stale, "its hub ends the session, which the device notices");
    scene.bench.order("unlock", &[scene.agent.id]).await;
    scene.evil.command_for(scene.agent.id).await;
    let told = commands(&scene.agent.check_in(&scene.bench, Vec::new()).await);
    assert_eq!(told.len(), 2, "the device itself asks");
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_broker_that_takes_devices_out_of_presence_loses_no_order() {
    let mut scene = Scene::new().await;
    let bus = scene.evil.broker.clone();
    let here = bus.locate(&[scene.agent.id]).await.unwrap().remove(0).unwrap();
    assert!(bus.depart(scene.agent.id, &here).await.unwrap());
    let next = scene.bench.order("unlock", &[scene.agent.id]).await["commands"][0]["id"].clone();
    let told = commands(&scene.agent.check_in(&scene.bench, Vec::new()).await);
    assert_eq!(told.iter().map(id_of).collect::<Vec<_>>(), [id_of(&scene.command), next]);
    scene.judged().await;
    scene.device_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_broker_that_replays_what_a_device_said_repeats_nothing() {
    let mut scene = Scene::new().await;
    let stage = AgentFrame::stage(scene.command.command_id, "apply".to_owned());
    let said = vec![ack(&scene.command), stage, scene.agent.receipt(&scene.command, |_| ())];
    for _ in 0..3 {
        scene.says(said.clone()).await;
    }
    assert_eq!(scene.state().await, "succeeded");
    for (kind, count) in [
        ("command_acked", 1),
        ("command_running", 1),
        ("command_finished", 1),
        ("receipt_conflict", 0),
    ] {
        assert_eq!(scene.count(kind).await, count, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_broker_that_reorders_what_a_device_said_takes_no_outcome_back() {
    let mut scene = Scene::new().await;
    let stage = AgentFrame::stage(scene.command.command_id, "apply".to_owned());
    let in_doubt = scene.agent.receipt(&scene.command, |claims| {
        claims.outcome = Outcome::InDoubt { stage: "apply".to_owned() };
    });
    scene.says(vec![scene.agent.receipt(&scene.command, |_| ())]).await;
    scene.says(vec![stage, ack(&scene.command)]).await;
    assert_eq!(scene.state().await, "succeeded");
    // Even what the device itself has signed, kept for later.
    scene.says(vec![in_doubt]).await;
    assert_eq!(scene.state().await, "succeeded");
    assert_eq!(scene.count("receipt_conflict").await, 1);
    assert_eq!(scene.count("command_finished").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_broker_that_strips_receipts_delays_an_outcome_and_loses_none() {
    let mut scene = Scene::new().await;
    // The ack passes, and nothing else that the device says.
    scene.says(vec![ack(&scene.command)]).await;
    assert_eq!(scene.state().await, "acked");
    let receipt = scene.agent.receipt(&scene.command, |_| ());
    let told = scene.agent.check_in(&scene.bench, vec![receipt.clone()]).await;
    assert_eq!(confirmed(&told), [jws_of(&receipt).sha256()]);
    assert_eq!(scene.state().await, "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_broker_that_invents_devices_makes_none() {
    let mut scene = Scene::new().await;
    let before = scene.bench.get("/v1/devices").await["items"].as_array().unwrap().len();
    let stranger: DeviceId = protocol::fixture::device(200);
    let message = |frame| Upstream {
        device: stranger,
        generation: 1,
        hub: scene.evil.lease.hub.clone(),
        session: SessionId::new(scene.bench.now(), [1; 10]),
        frame,
    };
    let batch = vec![message(scene.agent.hello()), message(ack(&scene.command))];
    scene.evil.broker.send_upstream(batch).await.unwrap();
    loop {
        if let Downstream::Revoke { device, .. } = scene.evil.next().await {
            break assert_eq!(device, stranger, "its hub is told to have nothing to do with it");
        }
    }
    scene.judged().await;
    assert_eq!(scene.bench.get("/v1/devices").await["items"].as_array().unwrap().len(), before);
    let events = scene.bench.get("/v1/events?limit=500").await["items"].clone();
    let is_about = |event: &Value| event["subject"] == json!(stranger);
    assert!(!events.as_array().unwrap().iter().any(is_about));
    assert_eq!(scene.state().await, "sent");
    scene.device_is_served().await;
}
