//! Routes of the host where there are none: outside of Linux no driver's nodes can
//! be routed to, and load balancers' addresses are carried over SSH.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rkube_failure::{Failure, Kind, Source};

/// Routes to single addresses over one node.
pub(super) struct Routes {
    /// The node.
    pub via: Ipv4Addr,
}

impl Routes {
    fn unsupported(&self) -> Failure {
        Failure::new(
            Source::LocalNetwork,
            Kind::Unsupported,
            format!(
                "rkube sets no routes on {} (to {})",
                std::env::consts::OS,
                self.via
            ),
        )
    }

    /// Removes routes of a tunnel that was killed.
    pub fn clear(&self, _range: Ipv4Net) -> Result<(), Failure> {
        Err(self.unsupported())
    }

    /// Leads `address` to the node.
    pub fn add(&self, _address: Ipv4Addr) -> Result<(), Failure> {
        Err(self.unsupported())
    }

    /// Takes that back.
    pub fn remove(&self, _address: Ipv4Addr) -> Result<(), Failure> {
        Err(self.unsupported())
    }
}
