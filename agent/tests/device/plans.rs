//! Plans that devices sign, and orders that are bound to them.

use std::fs;
use std::process::Command;

use agent::config::ArmingConfig;
use protocol::action::{Action, Plan, Quarantine};
use protocol::fixture::{device, wipe};
use protocol::frame::{AgentFrame, CommandFrame, HubFrame};
use protocol::manifest::Hash;
use protocol::receipt::{Evidence, Outcome, RefusalReason};

use crate::bench::{Bench, confirmed};
use crate::netns::Lan;
use crate::notices::stands;
use crate::power::scene_of;
use crate::server::HubSide;

/// An approved wipe that is bound to a plan of that hash, of that device.
fn bound(bench: &Bench, number: u8, (of, hash): (u8, &Hash)) -> CommandFrame {
    let mut envelope = bench.envelope(number, wipe(), u64::from(number));
    envelope.manifest.plans.insert(device(of), *hash);
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    bench.organisation.deliver(&bench.organisation.approved(envelope, &approvers), 0)
}

async fn outcome(bench: &Bench, hub: &mut HubSide, command: CommandFrame) -> Outcome {
    let id = command.command_id;
    hub.send(HubFrame::Command(command)).await;
    // That of an earlier command may come once more.
    let is_its =
        |f: &AgentFrame| matches!(f, AgentFrame::Receipt { command_id, .. } if *command_id == id);
    let receipt = hub.wait_for(is_its).await;
    hub.send(confirmed(&receipt)).await;
    bench.receipt(&receipt).outcome
}

pub(crate) fn hash_of(evidence: &Evidence) -> Hash {
    serde_json::from_value(evidence.get("plan_hash").unwrap().clone()).unwrap()
}

#[tokio::test]
async fn order_that_is_bound_to_a_plan_is_refused_once_the_device_would_do_something_else() {
    let (mut bench, _) = scene_of(wipe(), std::time::Duration::from_secs(3600));
    let volume = bench.config.host.wipe_targets[0].clone();
    let before = fs::read(&volume).unwrap();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let plan = Action::Plan(Plan { of: Box::new(wipe()) });
    let Outcome::Succeeded { evidence } =
        outcome(&bench, &mut hub, bench.command(1, plan.clone(), 1)).await
    else {
        panic!("a plan is looked at by anybody who may order it")
    };
    assert_eq!(fs::read(&volume).unwrap(), before, "a plan changes nothing");
    let planned = hash_of(&evidence);
    assert!(!evidence.get("steps").unwrap().as_array().unwrap().is_empty());
    assert_eq!(evidence.get("facts").unwrap()["targets"].as_array().unwrap().len(), 1);

    // Another key than the one that was seen when it was approved.
    let key = volume.with_file_name("key");
    let weak = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let added = Command::new("/usr/sbin/cryptsetup")
        .args(["-q", "luksAddKey", "--key-file"])
        .arg(&key)
        .args(weak)
        .args([&volume, &key])
        .output()
        .unwrap();
    assert!(added.status.success(), "{added:?}");
    let changed = fs::read(&volume).unwrap();
    for (number, of) in [(2, 1), (3, 2)] {
        let refused = outcome(&bench, &mut hub, bound(&bench, number, (of, &planned))).await;
        let Outcome::Refused { reason, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(reason, RefusalReason::PlanChanged);
        assert_eq!(fs::read(&volume).unwrap(), changed, "nothing was touched");
    }

    let Outcome::Succeeded { evidence } =
        outcome(&bench, &mut hub, bench.command(4, plan, 2)).await
    else {
        panic!("it is planned anew")
    };
    let done = outcome(&bench, &mut hub, bound(&bench, 5, (1, &hash_of(&evidence)))).await;
    assert!(matches!(done, Outcome::Succeeded { .. }), "{done:?}");
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn plan_is_signed_also_where_executors_are_not_armed() {
    let (mut bench, command) = scene_of(wipe(), std::time::Duration::from_secs(3600));
    bench.config.host.arming = ArmingConfig::Off;
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let plan = Action::Plan(Plan { of: Box::new(wipe()) });
    let planned = outcome(&bench, &mut hub, bench.command(2, plan, 1)).await;
    assert!(matches!(planned, Outcome::Succeeded { .. }), "{planned:?}");
    let refused = outcome(&bench, &mut hub, command).await;
    assert!(matches!(refused, Outcome::Refused { reason: RefusalReason::NotArmed, .. }));
    agent.drain().await.unwrap();
}

#[test]
fn plan_of_a_quarantine_is_signed_and_leaves_the_network_as_it_is() {
    let lan = Lan::new();
    lan.endpoint.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::sandboxed();
            let mut server = bench.server().await;
            let agent = bench.start();
            let mut hub = server.session().await;
            let of =
                Action::Quarantine(Quarantine { allow: Vec::new(), resolver: false, until: None });
            let plan = Action::Plan(Plan { of: Box::new(of) });
            let planned = outcome(&bench, &mut hub, bench.command(1, plan, 1)).await;
            let Outcome::Succeeded { evidence } = planned else { panic!("{planned:?}") };
            let steps = evidence.get("steps").unwrap().as_array().unwrap();
            assert_eq!(steps.len(), 4);
            let ours = format!("keep {} reachable for the agent", server.address);
            assert_eq!(steps[1], *ours);
            assert!(!stands());
            agent.drain().await.unwrap();
        });
    });
}
