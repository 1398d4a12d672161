//! `rkube shim`: one process per running container.
//!
//! The shim is the parent and reaper of the container's first process and of commands that run in
//! it. It writes the log, keeps standard input open, serves a socket, and records the container's
//! exit on disk. It keeps running when the agent exits, so it must be small: a single thread with a
//! poll loop, without an async runtime.

mod client;
mod error;
mod fork;
pub mod frame;
mod launch;
pub mod log;
pub mod plan;
mod process;
mod serve;
mod start;
pub mod sys;
mod types;

pub use start::main;
pub use types::{ShimConfig, UserNamespace};
