//! The plugin protocols of a node: what the kubelet speaks with the programs that offer devices.
//!
//! - [`registry`] finds plugins by the sockets they make, and registers them.
//! - [`devices`] serves device plugins (API `v1beta1`): which devices there are, who has which.
//! - [`claims`] serves drivers of dynamic resource allocation: prepares and unprepares claims.
//! - [`cdi`] reads the specifications of the Container Device Interface.
//! - [`pod_resources`] tells monitoring programs which container has which device.
//! - [`grpc`] and [`wire`] are the transport, [`api`] the messages.
//!
//! Nothing here knows the API server: pods and claims come as plain values from the node agent.
//! Decisions are functions of the known state ([`devices::state`], [`claims::cache`],
//! [`registry::plan`]); sockets and files are at the edges. A plugin that hangs, dies or lies holds
//! up only the pods that use it.

#![warn(missing_docs)]

pub mod api;
pub mod cdi;
pub mod claims;
pub mod devices;
pub mod grpc;
pub mod pod_resources;
pub mod registry;
#[cfg(test)]
mod testing;
pub mod wire;
