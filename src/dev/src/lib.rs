//! The decisions of `rkube dev`: which images and workloads a changed file concerns, and what
//! is copied into running containers instead.
//!
//! The command line builds, applies and copies. What it does follows from the functions here, which
//! do I/O only to read the user's files ([`manifests`], [`scan`], [`watch`], [`record`]).

pub mod copies;
pub mod manifests;
pub mod plan;
pub mod pods;
pub mod ports;
pub mod record;
pub mod reference;
pub mod rollout;
pub mod scan;
pub mod settings;
pub mod watch;
