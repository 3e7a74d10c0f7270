//! A freeze: nothing that destroys begins until it ends, across restarts and whoever would like it
//! lifted.

use std::time::Duration;

use protocol::action::{Action, Freeze, Thaw};
use protocol::fixture::{lock, wipe};
use protocol::frame::{CommandFrame, HubFrame};
use protocol::receipt::{Outcome, Receipt, RefusalReason};
use protocol::time::Timestamp;
use protocol::trust::{SignedTrustRoot, TrustRoot};

use crate::bench::{Bench, now, reason, until};
use crate::server::HubSide;
use crate::undo::{held, held_told, outcome};

const HOUR: Duration = Duration::from_secs(3600);

fn freeze(bench: &Bench, number: u8, seq: u64, until: Timestamp) -> CommandFrame {
    bench.command(number, Action::Freeze(Freeze { until }), seq)
}

async fn order(bench: &Bench, hub: &mut HubSide, frame: CommandFrame) -> Receipt {
    hub.send(HubFrame::Command(frame.clone())).await;
    outcome(bench, hub, &frame).await
}

/// Whether that ended well.
fn succeeded(receipt: &Receipt) -> bool {
    matches!(receipt.outcome, Outcome::Succeeded { .. })
}

#[tokio::test]
async fn freeze_stops_what_destroys_across_restarts_and_two_persons_end_it() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let waiting = held(&bench, 1, 1, 3600);
    hub.send(HubFrame::Command(waiting.clone())).await;
    held_told(&mut hub, &waiting).await;
    let frozen = order(&bench, &mut hub, freeze(&bench, 2, 2, now().plus(HOUR))).await;
    let Outcome::Succeeded { evidence } = &frozen.outcome else { panic!("{frozen:?}") };
    assert_eq!(evidence.get("stopped").unwrap()[0], waiting.command_id.to_string());
    // What waited in its undo window is over.
    assert_eq!(reason(&outcome(&bench, &mut hub, &waiting).await), RefusalReason::Frozen);
    assert!(agent.status().commands.frozen_until.is_some());
    bench.kill(agent).await;
    drop(hub);
    let agent = bench.start();
    let mut hub = server.session().await;
    let refused = order(&bench, &mut hub, held(&bench, 3, 3, 0)).await;
    assert_eq!(reason(&refused), RefusalReason::Frozen);
    // What can be undone goes on.
    assert!(succeeded(&order(&bench, &mut hub, bench.command(4, lock(), 4)).await));

    let thaw = bench.envelope(5, Action::Thaw(Thaw {}), 5);
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    let thaw = bench.organisation.deliver(&bench.organisation.approved(thaw, &approvers), 0);
    assert!(succeeded(&order(&bench, &mut hub, thaw).await));
    until(|| agent.status().commands.frozen_until.is_none()).await;
    assert!(succeeded(&order(&bench, &mut hub, held(&bench, 6, 6, 0)).await));
    assert_eq!(bench.effects().len(), 2);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_control_plane_cannot_end_a_freeze() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    // It would be over within a hub's word about the time.
    let until = now().plus(Duration::from_secs(60));
    assert!(succeeded(&order(&bench, &mut hub, freeze(&bench, 1, 1, until)).await));
    // Nobody approved, or one person with two keys.
    let thaw = bench.command(2, Action::Thaw(Thaw {}), 2);
    assert_eq!(reason(&order(&bench, &mut hub, thaw).await), RefusalReason::MissingApproval);
    let thaw = bench.envelope(3, Action::Thaw(Thaw {}), 3);
    let alice = [&bench.organisation.alice, &bench.organisation.alice_spare];
    let thaw = bench.organisation.deliver(&bench.organisation.approved(thaw, &alice), 0);
    assert_eq!(reason(&order(&bench, &mut hub, thaw).await), RefusalReason::DoubledApproval);
    // A shorter freeze after it.
    let shorter = freeze(&bench, 4, 4, now().plus(Duration::from_secs(5)));
    assert!(succeeded(&order(&bench, &mut hub, shorter).await));
    // One that nobody may order, so long is it.
    let longer = freeze(&bench, 5, 5, now().plus(25 * HOUR));
    assert_eq!(reason(&order(&bench, &mut hub, longer).await), RefusalReason::ValidityTooLong);
    // A lie about the time.
    drop(hub);
    server.says.lock().unwrap().server_time = Some(now().plus(48 * HOUR));
    let mut hub = server.session().await;
    let refused = order(&bench, &mut hub, held(&bench, 6, 6, 0)).await;
    assert_eq!(reason(&refused), RefusalReason::Frozen);
    assert!(bench.effects().is_empty());
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn trust_root_ends_the_freezes_of_before() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    assert!(succeeded(&order(&bench, &mut hub, freeze(&bench, 1, 1, now().plus(HOUR))).await));
    let thawed_at = Some(now().plus(Duration::from_secs(1)));
    let root = TrustRoot { version: 2, thawed_at, ..bench.organisation.trust.clone() };
    let root = SignedTrustRoot::sign(&root, &[&bench.organisation.root_key]).unwrap();
    hub.send(HubFrame::Trust { root }).await;
    until(|| agent.status().commands.frozen_until.is_none()).await;
    assert!(succeeded(&order(&bench, &mut hub, held(&bench, 2, 2, 0)).await));

    // A later one that is shorter ends when it says.
    until(|| Some(now()) > thawed_at.map(|at| at.plus(Duration::from_secs(1)))).await;
    let soon = now().plus(Duration::from_secs(600));
    assert!(succeeded(&order(&bench, &mut hub, freeze(&bench, 3, 3, soon)).await));
    let refused = order(&bench, &mut hub, held(&bench, 4, 4, 0)).await;
    let Outcome::Refused { reason: RefusalReason::Frozen, detail } = &refused.outcome else {
        panic!("{refused:?}")
    };
    assert!(detail.contains(&soon.rfc3339()), "{detail}");
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn freeze_works_where_executors_are_not_armed() {
    let mut bench = Bench::new();
    bench.config.host.arming = agent::config::ArmingConfig::Off;
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    assert!(succeeded(&order(&bench, &mut hub, freeze(&bench, 1, 1, now().plus(HOUR))).await));
    let wipe = bench.command(2, wipe(), 2);
    assert_eq!(reason(&order(&bench, &mut hub, wipe).await), RefusalReason::MissingApproval);
    agent.drain().await.unwrap();
}
