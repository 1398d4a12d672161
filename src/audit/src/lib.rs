//! The policy and the files of the API server's audit log.
//!
//! [`Policy::judge`] decides how much of a request is logged. [`Log`] appends lines from a
//! dedicated thread and rotates its file. The API server builds the events, because it has the
//! requests and the responses.

mod config;
mod log;
mod policy;

pub use config::Config;
pub use log::Log;
pub use policy::{Level, Policy, Stage, Verdict};
