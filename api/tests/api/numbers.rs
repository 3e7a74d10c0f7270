//! What a device's own numbers say: that it lacks something, or that the store is an older copy.

use std::time::Duration;

use protocol::frame::{AgentFrame, CommandFrame};
use protocol::state::PerLane;
use reqwest::StatusCode;
use serde_json::json;

use super::actors::{TestAgent, ack, commands, id_of};
use super::bench::{Bench, order_body};

const LOST: u64 = 70;
/// By then a device has had what it acked for long enough for its own numbers to count.
const SETTLED: Duration = Duration::from_secs(11);

/// The urgent lane of a device, as its ledger keeps it.
#[derive(Default)]
struct Lane {
    last_seq: u64,
    taken: Vec<u64>,
}

impl Lane {
    /// Takes a command unless an earlier one is missing; says whether it did.
    fn offer(&mut self, bench: &Bench, agent: &TestAgent, command: &CommandFrame) -> bool {
        let seq = agent.verify(bench, &command.jws).envelope().seq;
        if command.after_seq > self.last_seq {
            return false;
        }
        if seq > self.last_seq {
            self.last_seq = seq;
            self.taken.push(seq);
        }
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_was_acked_and_lost_comes_again_in_order() {
    let (bench, _) = acked_and_lost(SETTLED).await;
    let alarms = bench.events("journal_rollback").await;
    assert_eq!(alarms.len(), 1);
    assert_eq!(alarms[0]["payload"]["commands"], LOST);
    assert_eq!(bench.events("command_lost").await.len() as u64, LOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acked_just_now_and_lost_comes_again_without_an_alarm_however_much_it_is() {
    let (bench, told) = acked_and_lost(Duration::ZERO).await;
    assert!(bench.events("journal_rollback").await.is_empty());
    assert_eq!(bench.events("command_lost").await.len() as u64, LOST - told, "what had no room");
}

/// A device that got nothing, whatever the hub has acked that long ago, gets everything, in order. How many came
/// at once.
async fn acked_and_lost(ago: Duration) -> (Bench, u64) {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;
    let mut ids = Vec::new();
    for _ in 0..LOST {
        bench.order("lock", &[agent.id]).await;
        let command = hub.command_for(agent.id).await;
        // The device never sees them, whatever the hub says.
        hub.say(&agent, vec![ack(&command)]).await;
        ids.push(id_of(&command));
    }
    for id in &ids {
        bench.until_state(id, "acked").await;
    }
    if !ago.is_zero() {
        bench.hand.advance(ago);
        // Nobody renewed the lease of the first.
        hub = bench.hub("hub-2").await;
        hub.arrive(agent.id, bench.session()).await;
    }

    let mut lane = Lane::default();
    bench.order("lock", &[agent.id]).await;
    let newest = hub.command_for(agent.id).await;
    assert!(!lane.offer(&bench, &agent, &newest), "it overtakes nothing");
    hub.say(&agent, vec![AgentFrame::Sync { last_seq: PerLane::default() }]).await;
    let told = loop {
        let told = commands(&hub.frames_for(agent.id).await);
        if told.len() > 1 {
            break told;
        }
    };
    assert!((told.len() as u64) < LOST, "one answer has no room for all");
    for command in &told {
        assert!(lane.offer(&bench, &agent, command));
    }
    // Without a further word of the device.
    bench.until_state(ids.last().unwrap(), "sent").await;
    bench.hand.advance(Duration::from_secs(3));
    while lane.last_seq <= LOST {
        lane.offer(&bench, &agent, &hub.command_for(agent.id).await);
    }
    assert_eq!(lane.taken, (1..=LOST + 1).collect::<Vec<_>>());
    (bench, told.len() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_device_that_speaks_from_before_what_it_had_is_reported_once_each_time() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let at = async |bench: &Bench, urgent: u64| {
        agent.check_in_with(bench, PerLane { urgent, bulk: 0 }).await;
        bench.events("journal_rollback").await.len()
    };
    for seq in 1..=3 {
        bench.order("lock", &[agent.id]).await;
        let told =
            commands(&agent.check_in_with(&bench, PerLane { urgent: seq - 1, bulk: 0 }).await);
        // The ack is lost; the receipt says as much.
        agent.check_in(&bench, vec![agent.receipt(&told[0], |_| ())]).await;
    }
    assert_eq!(at(&bench, 1).await, 0, "a hello may be older than what came after it");
    bench.hand.advance(Duration::from_secs(61));
    assert_eq!(at(&bench, 3).await, 0);
    for _ in 0..2 {
        assert_eq!(at(&bench, 1).await, 1, "each time it speaks, and told once");
        bench.hand.advance(Duration::from_secs(61));
    }
    let told = bench.events("journal_rollback").await;
    assert_eq!(told[0]["subject"], json!(agent.id));
    let payload = json!({
        "last_seq": { "urgent": 1, "bulk": 0 },
        "had_seq": { "urgent": 3, "bulk": 0 },
        "commands": 0,
    });
    assert_eq!(told[0]["payload"], payload);
    assert_eq!(at(&bench, 2).await, 2, "another snapshot");
    assert_eq!(at(&bench, 3).await, 2);
}

/// A `hello` that is taken after the ack of what followed it says less than the device has. Of one that
/// has lost it as fast nothing else is to be seen, so it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn hello_older_than_an_ack_is_no_alarm_and_what_was_acked_comes_all_the_same() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    bench.order("lock", &[agent.id]).await;
    let told = commands(&agent.check_in(&bench, Vec::new()).await);
    agent.check_in(&bench, vec![ack(&told[0])]).await;
    let older = PerLane::default();
    assert_eq!(commands(&agent.check_in_with(&bench, older).await), told);
    assert_eq!(bench.command(&id_of(&told[0])).await["state"], "acked");
    assert!(bench.events("journal_rollback").await.is_empty());
    assert!(bench.events("command_lost").await.is_empty());

    bench.hand.advance(SETTLED);
    assert_eq!(commands(&agent.check_in_with(&bench, older).await), told);
    assert_eq!(bench.command(&id_of(&told[0])).await["state"], "sent");
    assert_eq!(bench.events("journal_rollback").await.len(), 1);
    assert_eq!(bench.events("command_lost").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn store_that_is_an_older_copy_goes_on_above_what_devices_have_seen() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    bench.order("lock", &[agent.id]).await;
    let (bench, former) = bench.copied().await;
    for _ in 0..3 {
        bench.order("lock", &[agent.id]).await;
    }
    let told = commands(&agent.check_in(&bench, Vec::new()).await);
    let mut lane = Lane::default();
    for command in &told {
        assert!(lane.offer(&bench, &agent, command));
    }
    assert_eq!(lane.taken, [1, 2, 3, 4]);
    let bench = bench.put_back(former).await;
    assert_eq!(bench.get("/v1/commands").await["items"].as_array().unwrap().len(), 1);

    let last_seq = PerLane { urgent: lane.last_seq, bulk: 0 };
    agent.check_in_with(&bench, last_seq).await;
    bench.order("lock", &[agent.id]).await;
    let told = commands(&agent.check_in_with(&bench, last_seq).await);
    assert!(lane.offer(&bench, &agent, told.last().unwrap()));
    assert_eq!(lane.taken, [1, 2, 3, 4, 5], "nothing is refused as replayed");
    let raised = bench.events("sequence_raised").await;
    assert_eq!(raised.len(), 1);
    assert_eq!(raised[0]["subject"], json!(agent.id));
    assert_eq!(raised[0]["payload"], json!({ "lane": "urgent", "from": 1, "to": 4 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn lying_about_numbers_hurts_the_liar_alone() {
    let bench = Bench::start().await;
    let (liar, other) = (bench.agent("liar", None).await, bench.agent("other", None).await);
    for urgent in [u64::MAX, i64::MAX as u64, u64::MAX] {
        liar.check_in_with(&bench, PerLane { urgent, bulk: urgent }).await;
    }
    let most = 1_u64 << 32;
    let raised = bench.events("sequence_raised").await;
    let to: Vec<_> = raised.iter().map(|event| event["payload"]["to"].as_u64().unwrap()).collect();
    assert_eq!(to, [most, most], "both lanes, once a minute");

    // One order for both: the liar's numbers must not fail it.
    let body = order_body("lock", &[liar.id, other.id]);
    bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    let seq = async |agent: &TestAgent| {
        let told = commands(&agent.check_in(&bench, Vec::new()).await);
        agent.verify(&bench, &told[0].jws).envelope().seq
    };
    assert_eq!(seq(&other).await, 1);
    assert_eq!(seq(&liar).await, most + 1);
    bench.hand.advance(Duration::from_secs(61));
    liar.check_in_with(&bench, PerLane { urgent: 3, bulk: 0 }).await;
    assert_eq!(bench.events("sequence_raised").await.len(), 2, "never backwards");
}
