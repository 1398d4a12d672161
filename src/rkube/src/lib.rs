//! The command line of rkube.
//!
//! The binary (`main.rs`) adds the roles that it has inside a cluster.

mod cli;

pub use cli::{command, main};
