//! The agent: one per Linux device, the only part of Tocsin that acts on an endpoint.

pub mod execute;
pub mod host;
