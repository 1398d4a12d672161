//! The runtime's API for the node agent.
//!
//! [`Runtime`] is defined in `types`; the other modules implement its operations.

mod commands;
mod containers;
mod create;
mod images;
mod open;
mod resources;
mod sandboxes;
mod types;

pub use types::Runtime;
