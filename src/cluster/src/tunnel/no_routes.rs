//! A substitute on systems other than Linux, where the host cannot route to nodes. Addresses are
//! forwarded over SSH there.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rkube_failure::{Failure, Kind, Source};

/// Routes to single addresses through one node.
pub(super) struct Routes {
    /// The node's address.
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

    /// Fails.
    pub fn clear(&self, _range: Ipv4Net) -> Result<(), Failure> {
        Err(self.unsupported())
    }

    /// Fails.
    pub fn add(&self, _address: Ipv4Addr) -> Result<(), Failure> {
        Err(self.unsupported())
    }

    /// Fails.
    pub fn has_all(&self, _addresses: &[Ipv4Addr]) -> Result<bool, Failure> {
        Err(self.unsupported())
    }

    /// Fails.
    pub fn remove(&self, _address: Ipv4Addr) -> Result<(), Failure> {
        Err(self.unsupported())
    }
}
