//! Small models that a checker goes through to the end: every order of steps, every crash.
//!
//! Each model is checked as it is built, and once with the mistake that it exists against: a model
//! that does not refute its mistake proves nothing.

mod journal;
mod lease;
mod presence;
