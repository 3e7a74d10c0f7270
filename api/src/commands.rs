//! Orders and commands: the heart of the control plane.
//!
//! Owns the life of a command from the order to the receipt. Invariants: an order is answered
//! `201` after its commit and never before; a command leaves for the broker only after that
//! commit; states move only as `model` says; what is undelivered is found again by the store
//! alone, whatever the broker lost.

use protocol::frame::CommandFrame;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

mod advanced;
mod cancel;
mod checkin;
mod create;
mod dispatch;
mod end;
mod exchange;
mod expiry;
mod freeze;
mod get;
mod get_order;
pub mod halt;
mod hold;
mod intake;
mod judge;
mod list;
pub mod model;
mod plan;
mod prepare;
mod proceed;
mod queue;
mod redelivery;
mod reports;
mod said;
mod sent;
mod store;
mod stream;
mod upstream;
mod waves;
pub mod wire;

pub use self::advanced::Advanced;
pub(crate) use self::cancel::{reject_waiting, withdraw_unapproved};
pub(crate) use self::dispatch::dispatch;
pub(crate) use self::end::end_enrollment;
pub(crate) use self::expiry::expire;
pub(crate) use self::freeze::{FREEZE_JOB, freeze};
pub use self::intake::Intake;
pub(crate) use self::intake::write_orders;
pub(crate) use self::prepare::{demand_written, prepare};
pub(crate) use self::queue::{Words, release};
pub(crate) use self::redelivery::redeliver;
pub use self::sent::Sent;
pub(crate) use self::sent::{flush_sent, record_waiting, write_sent};
pub(crate) use self::store::orders::{Order, find_order, order_view};
pub(crate) use self::upstream::read_upstream;
pub use self::waves::Waves;
pub(crate) use self::waves::waves;

/// The routes for operators.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create::create))
        .routes(routes!(get_order::get))
        .routes(routes!(get_order::manifest))
        .routes(routes!(cancel::cancel_order))
        .routes(routes!(proceed::proceed))
        .routes(routes!(list::list))
        .routes(routes!(get::get))
        .routes(routes!(cancel::cancel))
        .routes(routes!(stream::stream))
}

/// The routes for agents.
pub fn agent_router() -> axum::Router<App> {
    axum::Router::new()
        .route(protocol::frame::CHECK_IN_PATH, axum::routing::post(checkin::check_in))
}

/// A command that agents may have to be told of.
#[derive(Debug, Clone)]
struct Pending {
    device: protocol::id::DeviceId,
    frame: CommandFrame,
}

impl From<Pending> for crate::outbox::Delivery {
    fn from(pending: Pending) -> Self {
        Self { device: pending.device, frame: pending.frame }
    }
}
