//! Commands that are held, because two machines hold the identity of their device.
//!
//! Owns which ones: those that change the device, of orders that nobody gave knowing of the second
//! machine. They stay where they are, and end by their validity, when they are withdrawn, or with the
//! enrollment. Every way out asks: what approvals release, what a device asks for, what is sent again.

use std::collections::BTreeSet;

use protocol::action::Verb;
use protocol::id::DeviceId;
use protocol::state::VerbClass;
use serde_json::json;

use super::queue::Fresh;
use super::store::delivery;
use super::store::orders::Order;
use crate::audit::Kind;
use crate::db::{DbError, Tx};
use crate::devices;

/// Whether commands of that verb wait for somebody who knows. What stops something waits for nobody.
pub(super) const fn concerns(verb: Verb) -> bool {
    match verb.class() {
        VerbClass::Disruptive | VerbClass::Destructive => true,
        VerbClass::Routine | VerbClass::Stop => false,
    }
}

/// Those of an order's commands that may leave, whoever their devices are.
pub(super) async fn let_go(
    tx: &mut Tx,
    order: &Order,
    mut fresh: Vec<Fresh>,
) -> Result<Vec<Fresh>, DbError> {
    let ids: Vec<_> = fresh.iter().map(|fresh| fresh.device).collect();
    let cloned = of_cloned(tx, order, &ids).await?;
    fresh.retain(|fresh| !cloned.contains(&fresh.device));
    Ok(fresh)
}

/// Those of these devices for which the order's commands are held.
pub(super) async fn of_cloned(
    tx: &mut Tx,
    order: &Order,
    ids: &[DeviceId],
) -> Result<BTreeSet<DeviceId>, DbError> {
    if order.accept_cloned || !concerns(order.manifest.action.verb()) {
        return Ok(BTreeSet::new());
    }
    devices::cloned(tx.conn(), ids).await
}

/// Tells which commands are held from now on, of a device that was found to be two.
pub(super) async fn tell(tx: &mut Tx, device: DeviceId) -> Result<(), DbError> {
    for (command, order) in delivery::held(tx, device).await? {
        let payload = json!({ "order_id": order, "device_id": device, "why": "device cloned" });
        tx.append(Kind::CommandHeld, command, payload);
    }
    Ok(())
}
