//! HTTP conventions that every endpoint shares.
//!
//! Owns problems (RFC 9457), bodies, idempotency, pages, streams and headers. Must not know any
//! feature. Client addresses come from the connection, never from a header.

pub mod body;
pub mod extract;
pub mod idempotency;
pub mod layers;
pub mod page;
pub mod problem;

pub use body::Body;
pub use extract::{Path, Query};
pub use idempotency::{Begun, Once};
pub use page::{Page, PageQuery, Paged};
pub use problem::{FieldError, Problem, ProblemKind};
