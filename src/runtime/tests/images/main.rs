//! Images through the public interface: archives, hostile layers, a registry.
//!
//! Unpacking sets owners, so all tests except those of refused pulls need root.

mod archives;
mod layers;
mod pulls;
mod registry;
mod support;
