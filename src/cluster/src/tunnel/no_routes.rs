//! A substitute on systems other than Linux, where the host cannot route to nodes. Addresses are
//! forwarded over SSH there.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rkube_failure::{Failure, Kind, Source};

/// Routes to single addresses through nodes.
pub(super) struct Routes {
    /// The nodes' addresses.
    pub nodes: Ipv4Net,
}

impl Routes {
    fn unsupported(&self) -> Failure {
        Failure::new(
            Source::LocalNetwork,
            Kind::Unsupported,
            format!(
                "rkube sets no routes on {} (to {})",
                std::env::consts::OS,
                self.nodes
            ),
        )
    }

    /// Fails.
    pub fn clear(&self, _range: Ipv4Net) -> Result<(), Failure> {
        Err(self.unsupported())
    }

    /// Fails.
    pub fn check(&self, _range: Ipv4Net) -> Result<(), Failure> {
        Err(self.unsupported())
    }

    /// Fails.
    pub fn add(&self, _address: Ipv4Addr, _via: Ipv4Addr) -> Result<(), Failure> {
        Err(self.unsupported())
    }

    /// Fails.
    pub fn has_all(&self, _addresses: &[(Ipv4Addr, Ipv4Addr)]) -> Result<bool, Failure> {
        Err(self.unsupported())
    }

    /// Fails.
    pub fn remove(&self, _address: Ipv4Addr, _via: Ipv4Addr) -> Result<(), Failure> {
        Err(self.unsupported())
    }
}
