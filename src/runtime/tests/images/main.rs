//! Tests of images through the public API: archives, malicious layers, a registry.
//!
//! Unpacking sets owners, so all tests except those of rejected pulls require root.

mod archives;
mod builds;
mod bundles;
mod cache;
mod layers;
mod mirrors;
mod pulls;
mod pushes;
mod registry;
mod support;
