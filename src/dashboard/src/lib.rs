//! The dashboard: a page that is part of the binary, and the server between it and the clusters.
//!
//! The server listens on the loopback only. It admits the browser that opened its one-time link
//! ([`guard`]) and serves the page ([`assets`]). It forwards requests to a profile's API server
//! with the user's credentials ([`proxy`], [`streams`]). It also opens port-forwards ([`forwards`])
//! and shells on nodes ([`shell`]), and runs commands of `rkube` ([`commands`]).

// Links the serialization of typed objects that is compiled in that crate.
use rkube_client as _;

mod answer;
mod assets;
mod clusters;
mod commands;
mod forwards;
mod guard;
#[cfg(test)]
mod page_tests;
mod paths;
mod proxy;
mod server;
#[cfg(unix)]
mod shell;
#[cfg(not(unix))]
mod shell_elsewhere;
mod socket;
mod streams;
#[cfg(test)]
mod tests;

pub use server::{Dashboard, Options};
