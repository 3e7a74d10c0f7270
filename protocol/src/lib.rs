//! What agents, hubs and the control plane say to one another, and what each may believe.
//!
//! This crate owns the wire format, the signed documents (envelope, approval, trust root, proof,
//! escrow, receipt, notice) with their verification, and the two session machines. It does no I/O and has no
//! clock and no source of chance of its own: `now` and random bytes are parameters.
#![warn(missing_docs)]

pub mod action;
pub mod advance;
pub mod checkpoint;
pub mod close;
pub mod collection;
pub mod enrollment;
pub mod envelope;
pub mod escrow;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
pub mod frame;
pub mod grade;
pub mod id;
pub mod jws;
pub mod key;
pub mod ledger;
pub mod limits;
pub mod manifest;
pub mod notice;
pub mod offline;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod proof;
pub mod receipt;
pub mod run;
pub mod sealed;
pub mod session;
pub mod state;
pub mod time;
pub mod trust;
