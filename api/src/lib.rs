//! The control plane: the truth about devices, orders, commands and receipts.
//!
//! A small strict kernel (`db`, `audit`, `auth`, `http`, `jobs`, `pki`) carries vertical features;
//! features import the kernel and one another's roots only. Nothing is answered as accepted
//! before it is committed, and nothing is committed without its events.

pub mod config;
pub mod time;

pub mod app;
pub mod audit;
pub mod auth;
pub mod db;
pub mod http;
pub mod jobs;
pub mod keys;
pub mod metrics;
pub mod outbox;
pub mod pki;
