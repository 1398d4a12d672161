//! Nodes: are they alive, what taints that means, which pods must leave, and
//! where pod addresses come from.

pub mod eviction;
pub mod health;
pub mod ipam;
pub mod lifecycle;
pub mod taints;
