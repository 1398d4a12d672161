//! Nodes: health, taints, evictions and pod CIDRs.

pub mod eviction;
pub mod health;
pub mod ipam;
pub mod lifecycle;
pub mod taints;
