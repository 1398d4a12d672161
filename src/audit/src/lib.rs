//! The audit log's policy and files.
//!
//! The policy decides how much of a request is logged ([`Policy::judge`]). The
//! log appends lines to a file in a thread of its own and rotates it. Building
//! events is left to the server, which knows requests and responses.

mod config;
mod log;
mod policy;

pub use config::Config;
pub use log::Log;
pub use policy::{Level, Policy, Stage, Verdict};
