//! From the order to the receipt, and what happens on the way when things fail.

use std::time::Duration;

use api::app::App;
use protocol::frame::AgentFrame;
use protocol::state::{Lane, PerLane};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{ack, commands, confirmed, id_of};
use super::bench::{Bench, GUARD, PAUSE, json_of, order_body};

#[tokio::test(flavor = "multi_thread")]
async fn order_reaches_the_device_and_its_receipt_ends_it() {
    let bench = Bench::start().await;
    let agent = bench.agent("web-17", Some("berlin")).await;
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;

    let created = bench.order("lock", &[agent.id]).await;
    let command = hub.command_for(agent.id).await;
    assert_eq!(created["commands"][0]["id"], id_of(&command));
    assert_eq!(command.after_seq, 0);
    let verified = agent.verify(&bench, &command.jws);
    assert_eq!(verified.envelope().seq, 1);
    bench.until_state(&id_of(&command), "sent").await;

    hub.say(&agent, vec![ack(&command)]).await;
    bench.until_state(&id_of(&command), "acked").await;
    let progress = AgentFrame::stage(command.command_id, "apply".to_owned());
    hub.say(&agent, vec![progress]).await;
    bench.until_state(&id_of(&command), "running").await;

    let receipt = agent.receipt(&command, |_| {});
    hub.say(&agent, vec![receipt.clone()]).await;
    let told = hub.frames_for(agent.id).await;
    let AgentFrame::Receipt { jws, .. } = &receipt else { unreachable!() };
    assert_eq!(confirmed(&told), [jws.sha256()]);
    let done = bench.until_state(&id_of(&command), "succeeded").await;
    assert_eq!(done["outcome"]["evidence"]["sessions"], 0);
    assert_eq!(done["receipt"], jws.as_str());
    for time in ["created_at", "queued_at", "sent_at", "acked_at", "running_at", "finished_at"] {
        assert!(done[time].as_str().unwrap().ends_with('Z'), "{time}");
    }
    assert!(api::audit::verify_db(&bench.api.app().db).await.unwrap().seq > 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_duplicates_have_one_effect() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let body = order_body("lock", &[agent.id]);
    let send = |body: Value| {
        let request = bench.http.post(bench.url("/v1/orders")).bearer_auth(&bench.token);
        async move { request.header("idempotency-key", "k1").json(&body).send().await.unwrap() }
    };
    let answers = futures_util::future::join_all((0..12).map(|_| send(body.clone()))).await;
    let mut ids = Vec::new();
    for answer in answers {
        ids.push(json_of(answer, StatusCode::CREATED).await["order"]["id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let all = bench.get("/v1/commands").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 1);

    let other =
        json_of(send(order_body("unlock", &[agent.id])).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(other.await["type"], "urn:tocsin:problem:idempotency-key-reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_are_written_together_are_answered_one_by_one() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let leaver = bench.agent("b", None).await;
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;

    // While somebody else writes, everything that comes waits for the same transaction.
    let app = bench.api.app();
    let mut tx = app.db.write(api::audit::Actor::System, bench.now()).await.unwrap();
    let revoke = "UPDATE devices SET revoked_through = generation WHERE name = 'b'";
    api::fixture::execute(&mut tx, revoke).await.unwrap();
    tx.append(api::audit::Kind::DeviceRevoked, leaver.id, json!({}));
    let send = |key: usize, devices: &[_]| {
        let request = bench.http.post(bench.url("/v1/orders")).bearer_auth(&bench.token);
        let request = request.header("idempotency-key", format!("k{key}"));
        request.json(&order_body("refresh", devices)).send()
    };
    let mut requests: Vec<_> = (0..12).map(|key| send(key, &[agent.id])).collect();
    requests.push(send(3, &[agent.id]));
    requests.push(send(12, &[agent.id, leaver.id]));
    requests.push(send(5, &[leaver.id, agent.id]));
    // Who names devices otherwise than by their ids has a plan already when they change.
    let mut by_name = order_body("refresh", &[]);
    by_name["targets"] = json!({ "names": ["b"] });
    let by_name = bench.http.post(bench.url("/v1/orders")).bearer_auth(&bench.token).json(&by_name);
    requests.push(by_name.send());
    // The first of them is not in the queue any more: it waits for its turn to write, and the others
    // are planned later than it asked for that.
    let others = requests.split_off(2);
    let all = requests.len() + others.len();
    let (first, rest) = tokio::join!(futures_util::future::join_all(requests), async {
        waiting(app, 1).await;
        bench.hand.advance(Duration::from_secs(5));
        let let_go = async {
            waiting(app, all - 1).await;
            tx.commit().await.unwrap();
        };
        tokio::join!(futures_util::future::join_all(others), let_go).0
    },);
    let answers = first.into_iter().chain(rest);

    let mut answers: Vec<_> = answers.map(Result::unwrap).collect();
    // Whichever of two came first, they cannot both have had one key.
    let [refused, other, by_name] = [answers.remove(13), answers.remove(13), answers.remove(13)];
    assert_eq!(other.status(), StatusCode::UNPROCESSABLE_ENTITY);
    for (refused, why) in [(refused, "is revoked"), (by_name, "changed meanwhile")] {
        let refused = json_of(refused, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(refused["errors"][0]["detail"], why);
    }
    let mut orders = Vec::new();
    for answer in answers {
        let created = json_of(answer, StatusCode::CREATED).await;
        assert_eq!(created["order"]["states"], json!({ "queued": 1 }));
        orders.push(created["order"]["id"].to_string());
    }
    assert_eq!(orders.pop(), Some(orders[3].clone()), "one key, one order");

    let mut follows = 0;
    for number in 1..=12 {
        let command = hub.command_for(agent.id).await;
        // A refresh is valid for a day at most, and that is what it is given.
        assert_eq!(agent.verify(&bench, &command.jws).envelope().seq, number);
        assert_eq!(command.after_seq, follows);
        follows = number;
    }
    let all = bench.get("/v1/commands").await;
    assert_eq!(all["items"].as_array().unwrap().len(), 12);
    api::audit::verify_db(&app.db).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_is_answered_before_its_sending_is_written_was_sent_all_the_same() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;
    bench.order("refresh", &[agent.id]).await;
    let command = hub.command_for(agent.id).await;
    let id = id_of(&command);
    let noted = async {
        while bench.api.app().sent.waiting() == 0 && bench.command(&id).await["state"] == "queued" {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, noted).await.unwrap();
    hub.say(&agent, vec![ack(&command)]).await;
    let acked = bench.until_state(&id, "acked").await;
    assert_eq!(acked["sends"], 1);
    assert!(acked["sent_at"].is_string(), "{acked}");
    let [sent, acked] = [bench.events("command_sent").await, bench.events("command_acked").await];
    assert_eq!((sent.len(), acked.len()), (1, 1));
    assert!(sent[0]["seq"].as_i64() < acked[0]["seq"].as_i64());
}

#[tokio::test(flavor = "multi_thread")]
async fn order_that_the_store_does_not_take_harms_no_other_of_its_batch() {
    let bench = Bench::start().await;
    let good = bench.agent("good", None).await;
    let odd = bench.agent("odd", None).await;
    bench.order("refresh", &[odd.id]).await;
    let app = bench.api.app();
    // Numbers that were put back by hand: the next command of the device gets one that exists.
    let mut tx = app.db.write(api::audit::Actor::System, bench.now()).await.unwrap();
    let put_back = "UPDATE lane_seqs SET last_seq = 0 WHERE lane = 'bulk'";
    api::fixture::execute(&mut tx, put_back).await.unwrap();
    tx.append(api::audit::Kind::SequenceRaised, odd.id, json!({}));
    let send = |device| {
        let request = bench.http.post(bench.url("/v1/orders")).bearer_auth(&bench.token);
        request.json(&order_body("refresh", &[device])).send()
    };
    let orders = futures_util::future::join_all([good.id, odd.id, good.id].map(send));
    let let_go = async {
        waiting(app, 2).await;
        tx.commit().await.unwrap();
    };
    let (answers, ()) = tokio::join!(orders, let_go);
    let statuses: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().status()).collect();
    let taken = StatusCode::CREATED;
    assert_eq!(statuses, [taken, StatusCode::SERVICE_UNAVAILABLE, taken]);
}

/// Waits until that many orders wait to be written.
async fn waiting(app: &App, count: usize) {
    let waiting = async {
        while app.intake.waiting(Lane::Bulk) < count {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, waiting).await.expect("they wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn order_for_one_device_out_of_scope_is_no_order() {
    let bench = Bench::start().await;
    let mine = bench.agent("mine", Some("a")).await;
    let theirs = bench.agent("theirs", Some("b")).await;
    let token = bench.token_for(&["order:lock@a", "read@a"]).await;
    let body = order_body("lock", &[mine.id, theirs.id]);
    let refused = bench.post_as(&token, "/v1/orders", &body).await;
    json_of(refused, StatusCode::FORBIDDEN).await;
    for targets in [json!({ "names": ["mine", "theirs"] }), json!({ "group": "b" })] {
        let mut body = body.clone();
        body["targets"] = targets;
        let refused = bench.post_as(&token, "/v1/orders", &body).await;
        json_of(refused, StatusCode::FORBIDDEN).await;
    }
    let verb = bench.post_as(&token, "/v1/orders", &order_body("wipe", &[mine.id])).await;
    json_of(verb, StatusCode::FORBIDDEN).await;
    assert_eq!(bench.get("/v1/commands").await["items"], json!([]));

    let own = bench.post_as(&token, "/v1/orders", &order_body("lock", &[mine.id])).await;
    json_of(own, StatusCode::CREATED).await;
    bench.order("lock", &[theirs.id]).await;
    let seen = bench.http.get(bench.url("/v1/commands")).bearer_auth(&token).send().await.unwrap();
    let seen = json_of(seen, StatusCode::OK).await;
    assert_eq!(seen["items"].as_array().unwrap().len(), 1);
    let stranger = bench.http.get(bench.url(&format!("/v1/devices/{}", theirs.id)));
    let stranger = stranger.bearer_auth(&token).send().await.unwrap();
    json_of(stranger, StatusCode::NOT_FOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_between_commit_and_publish_only_delays() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    // No hub: the commit stands, and nothing can be published.
    let created = bench.order("lock", &[agent.id]).await;
    let id = created["commands"][0]["id"].clone();
    assert_eq!(bench.command(&id).await["state"], "queued");
    let bench = bench.kill_and_restart().await;
    let mut hub = bench.hub("hub-1").await;
    bench.hand.advance(Duration::from_secs(400));
    bench.broker_lease(&mut hub).await;
    hub.arrive(agent.id, bench.session()).await;
    let command = hub.command_for(agent.id).await;
    assert_eq!(id_of(&command), id);
    bench.until_state(&id, "sent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unacked_commands_are_sent_again_and_acked_ones_are_not() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;
    bench.order("lock", &[agent.id]).await;
    let first = hub.command_for(agent.id).await;
    bench.until_state(&id_of(&first), "sent").await;
    bench.hand.advance(Duration::from_secs(3));
    let again = hub.command_for(agent.id).await;
    assert_eq!(first, again);
    hub.say(&agent, vec![ack(&first)]).await;
    bench.until_state(&id_of(&first), "acked").await;
    bench.order("unlock", &[agent.id]).await;
    let next = hub.command_for(agent.id).await;
    assert_ne!(next.command_id, first.command_id);
    assert_eq!(next.after_seq, 1, "the first has not ended");
    let third = bench.order("lock", &[agent.id]).await;
    let third_frame = hub.command_for(agent.id).await;
    assert_eq!(third["commands"][0]["id"], id_of(&third_frame));
    assert_eq!(third_frame.after_seq, 2);
    let receipts = [&first, &third_frame].map(|command| agent.receipt(command, |_| {}));
    hub.say(&agent, receipts.to_vec()).await;
    bench.until_state(&id_of(&third_frame), "succeeded").await;
    bench.order("lock", &[agent.id]).await;
    let fourth = loop {
        let command = hub.command_for(agent.id).await;
        if command.command_id != next.command_id {
            break command;
        }
    };
    assert_eq!(fourth.after_seq, 2, "what ended is nothing to wait for");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_in_needs_no_broker_and_brings_everything_in_order() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    for verb in ["refresh", "lock", "unlock"] {
        bench.order(verb, &[agent.id]).await;
    }
    let told = commands(&agent.check_in(&bench, Vec::new()).await);
    let order: Vec<_> = told
        .iter()
        .map(|c| (c.lane.as_str(), agent.verify(&bench, &c.jws).envelope().seq, c.after_seq))
        .collect();
    assert_eq!(order, [("urgent", 1, 0), ("urgent", 2, 1), ("bulk", 1, 0)]);
    assert_eq!(bench.command(&id_of(&told[0])).await["state"], "sent");
    let acks = told.iter().map(ack).collect();
    assert!(commands(&agent.check_in(&bench, acks).await).is_empty(), "just acked");
    let receipts: Vec<_> = told.iter().map(|c| agent.receipt(c, |_| {})).collect();
    assert_eq!(confirmed(&agent.check_in(&bench, receipts).await).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acked_and_is_not_on_disk_comes_again() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;
    bench.order("lock", &[agent.id]).await;
    let first = hub.command_for(agent.id).await;
    // The hub lies: the device never saw it.
    hub.say(&agent, vec![ack(&first)]).await;
    bench.until_state(&id_of(&first), "acked").await;
    bench.order("unlock", &[agent.id]).await;
    let second = hub.command_for(agent.id).await;
    bench.hand.advance(Duration::from_secs(11));
    hub.say(&agent, vec![AgentFrame::Sync { last_seq: PerLane::default() }]).await;
    let told = loop {
        let told = commands(&hub.frames_for(agent.id).await);
        if told.len() > 1 {
            break told;
        }
    };
    let order: Vec<_> = told.iter().map(|c| (c.command_id, c.after_seq)).collect();
    assert_eq!(order, [(first.command_id, 0), (second.command_id, 1)]);
    let again = commands(&agent.check_in(&bench, Vec::new()).await);
    assert_eq!(again, told);
    let alarms = bench.events("journal_rollback").await;
    assert_eq!(alarms[0]["subject"], json!(agent.id));
    assert_eq!(
        alarms[0]["payload"],
        json!({
            "last_seq": { "urgent": 0, "bulk": 0 },
            "had_seq": { "urgent": 1, "bulk": 0 },
            "commands": 1,
        })
    );

    let acks = told.iter().map(ack).collect();
    assert!(commands(&agent.check_in(&bench, acks).await).is_empty());
    let seen = bench.events("journal_rollback").await.len();
    let last_seq = PerLane { urgent: 2, bulk: 0 };
    let told = agent.check_in_with(&bench, last_seq).await;
    assert!(commands(&told).is_empty(), "by its own numbers it has them");
    assert_eq!(bench.events("journal_rollback").await.len(), seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_has_no_room_for_follows_soon() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    for _ in 0..66 {
        bench.order("lock", &[agent.id]).await;
    }
    // Nobody is there: the redelivery job puts all of them off for minutes.
    bench.hand.advance(Duration::from_secs(3));
    let soon = bench.now().plus(Duration::from_secs(60));
    let later = async || {
        let mut conn = bench.api.app().db.read().await.unwrap();
        let count = "SELECT COUNT(*) FROM commands WHERE redeliver_at >";
        let count = format!("{count} {}", soon.as_millis());
        api::fixture::number(&mut conn, &count).await.unwrap()
    };
    let wait = async {
        while later().await < 66 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, wait).await.unwrap();
    let mut hub = bench.hub("hub-1").await;
    hub.say(&agent, vec![agent.hello()]).await;
    let told = commands(&hub.frames_for(agent.id).await);
    hub.arrive(agent.id, bench.session()).await;
    bench.hand.advance(Duration::from_secs(3));
    let mut seen: std::collections::BTreeSet<_> = told.iter().map(|c| c.command_id).collect();
    assert!(seen.len() < 66);
    while seen.len() < 66 {
        seen.insert(hub.command_for(agent.id).await.command_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn order_for_too_many_devices_is_to_be_split() {
    let bench = Bench::start().await;
    let now = bench.now();
    let mut tx = bench.api.app().db.write(api::audit::Actor::System, now).await.unwrap();
    let id = |_| protocol::id::DeviceId::new(now, bench.entropy.bytes());
    let ids: Vec<_> = (0..10_001).map(id).collect();
    api::fixture::insert_devices(&mut tx, &ids, Some("big")).await.unwrap();
    tx.commit().await.unwrap();
    let mut body = order_body("refresh", &[]);
    body["targets"] = json!({ "group": "big" });
    let refused = bench.post("/v1/orders", &body, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(refused["detail"].as_str().unwrap().contains("split"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn validity_ends_what_no_device_took_and_spares_what_one_has() {
    let bench = Bench::start().await;
    let (taken, missed) = (bench.agent("taken", None).await, bench.agent("missed", None).await);
    let created = bench.order("lock", &[taken.id, missed.id]).await;
    let told = commands(&taken.check_in(&bench, Vec::new()).await);
    taken.check_in(&bench, told.iter().map(ack).collect()).await;
    bench.hand.advance(Duration::from_secs(25 * 60 * 60));
    let commands = created["commands"].as_array().unwrap();
    let of = |id: protocol::id::DeviceId| {
        commands.iter().find(|c| c["device_id"] == json!(id)).unwrap()["id"].clone()
    };
    bench.until_state(&of(missed.id), "expired").await;
    let out = bench.command(&of(taken.id)).await;
    assert_eq!((&out["state"], &out["overdue"]), (&json!("acked"), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_works_until_the_device_has_it() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let created = bench.order("lock", &[agent.id]).await;
    let id = created["commands"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/commands/{id}/cancel");
    let gone = bench.post(&path, &json!({ "reason": "mistake" }), StatusCode::OK).await;
    assert_eq!(gone["state"], "cancelled");
    assert_eq!(gone["ended_by"], "cancelled by admin: mistake");
    assert!(commands(&agent.check_in(&bench, Vec::new()).await).is_empty());

    let created = bench.order("lock", &[agent.id]).await;
    let told = commands(&agent.check_in(&bench, Vec::new()).await);
    agent.check_in(&bench, told.iter().map(ack).collect()).await;
    let id = created["commands"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/commands/{id}/cancel");
    let late = bench.post(&path, &json!({}), StatusCode::CONFLICT).await;
    assert!(late["detail"].as_str().unwrap().contains("on disk"));
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    bench.post(&format!("/v1/orders/{order}/cancel"), &json!({}), StatusCode::CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_says_what_it_would_hit_and_writes_nothing() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", Some("berlin")).await;
    let mut body = order_body("wipe", &[]);
    body["targets"] = json!({ "group": "berlin" });
    body["dry_run"] = json!(true);
    let dry = bench.post("/v1/orders", &body, StatusCode::OK).await;
    assert_eq!(dry["approvals_needed"], 2);
    assert_eq!(dry["devices"][0]["id"], json!(agent.id));
    let kinds: Vec<_> =
        dry["warnings"].as_array().unwrap().iter().map(|w| w["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["too_few_approvers", "offline", "no_encrypted_volume"]);
    assert_eq!(bench.get("/v1/commands").await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_cover_everything_once() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut expected = Vec::new();
    for _ in 0..7 {
        let created = bench.order("refresh", &[agent.id]).await;
        expected.push(created["commands"][0]["id"].clone());
        bench.hand.advance(Duration::from_millis(2));
    }
    let mut seen = Vec::new();
    let mut path = "/v1/commands?limit=3".to_owned();
    loop {
        let page = bench.get(&path).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/commands?limit=3&after={next}");
    }
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_statement_is_never_committed() {
    let bench = Bench::start().await;
    let db = &bench.api.app().db;
    let mut tx = db.write(api::audit::Actor::System, bench.now()).await.unwrap();
    let insert = "INSERT INTO operators (name, created_at) VALUES ('nobody', 0)";
    api::fixture::execute(&mut tx, insert).await.unwrap();
    api::fixture::execute(&mut tx, insert).await.unwrap_err();
    // PostgreSQL would answer this commit with a rollback, and no error.
    tx.commit().await.unwrap_err();
    let count = "SELECT COUNT(*) FROM operators WHERE name = 'nobody'";
    let mut conn = db.read().await.unwrap();
    assert_eq!(api::fixture::number(&mut conn, count).await.unwrap(), 0);
}
