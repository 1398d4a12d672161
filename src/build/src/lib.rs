//! Builds images from Dockerfiles.
//!
//! - The front end has no I/O: [`plan::Plan`] parses a Dockerfile as BuildKit reads it and finds the
//!   stages to build. It compiles on every system.
//! - [`context`] sends the files of a directory, and [`protocol`] says what goes over the wire.
//! - `exec`, on Linux, runs a plan in a node: stages at the same time, each step as a layer of the
//!   node's image store.

#![warn(missing_docs)]

pub mod context;
mod error;
#[cfg(target_os = "linux")]
pub mod exec;
mod glob;
pub mod image;
pub mod instruction;
pub mod lex;
pub mod lines;
pub mod pattern;
pub mod plan;
pub mod protocol;

pub use error::{BuildError, Result};
