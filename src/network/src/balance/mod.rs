//! Load balancers' addresses in the nodes' own network.
//!
//! The addresses lie in the range of the nodes, so that the host and everything else in that network
//! has a route to them already. For each address, one node answers ARP queries ([`choose`] says
//! which), and its service proxy leads the connections on. All nodes decide from the same objects,
//! so they agree without talking to each other. A node that does not answer ARP any more is passed
//! over at once by the next in line ([`watch`]), long before the control plane takes note of it.

mod announce;
mod arp;
mod choose;
#[cfg(test)]
mod tests;
mod watch;

pub use announce::Announcer;
pub use choose::{Balancer, Candidate, balancers, candidates};
pub use watch::Peers;
