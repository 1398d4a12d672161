//! `rkube shim`: one process a running container.
//!
//! The parent and reaper of the container's first process and of commands run in
//! it. It writes the log, keeps standard input, serves a socket, and leaves the
//! container's exit on disk. It outlives the agent, so it is small: one thread,
//! one poll loop, no runtime.

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
pub use types::ShimConfig;
