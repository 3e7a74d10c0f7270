//! The composition root and the operator's command line.
//!
//! Owns the `tocsin` binary: the operator's verbs, which talk to a control plane as any other
//! client does, and the roles, which run it. The only crate that imports hub and api together.

pub mod casefile;
pub mod cli;
pub mod client;
pub mod codefile;
pub mod demo;
pub mod keyfile;
pub mod output;
pub mod platform;
pub mod profile;
pub mod proof;
pub mod roles;
pub mod sealing;
pub mod unpack;
pub mod up;
