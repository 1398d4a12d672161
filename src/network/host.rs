//! What a cluster of the native driver needs on its host: one link, one table.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use ipnet::Ipv4Net;

use crate::Result;

/// Where and how a cluster touches its host.
#[derive(Clone, Debug)]
pub struct HostNetworkConfig {
    /// The profile's name; link and table are named after it.
    pub profile: String,
    /// The bridge in the cluster's namespace that all nodes are ports of.
    pub bridge_name: String,
    /// The host's own address in the nodes' range (`node_cidr`'s first by custom).
    pub gateway: Ipv4Addr,
    /// Where the nodes' addresses come from.
    pub node_cidr: Ipv4Net,
    /// Largest packet of the host's link, in bytes.
    pub mtu: u32,
    /// Where what must be undone at delete is remembered (`ip_forward`): a folder
    /// shared by all profiles of the host.
    pub state_dir: std::path::PathBuf,
}

/// A cluster's link and rules on its host.
#[derive(Clone, Debug)]
pub struct HostNetwork {
    config: HostNetworkConfig,
}

impl HostNetwork {
    /// Describes the host's part; touches nothing yet.
    pub fn new(config: HostNetworkConfig) -> Self {
        Self { config }
    }

    /// Name of the host's link, at most 15 characters: `rk-` and a hash of the profile.
    pub fn link_name(&self) -> String {
        self.config.profile.clone()
    }

    /// Name of the table in the host's packet filter, `rkube-<profile>`.
    pub fn table_name(&self) -> String {
        format!("rkube-{}", self.config.profile)
    }

    /// Makes or completes everything: the bridge in the cluster's namespace (when it
    /// is not there), the pair of links between it and the host, the host's address,
    /// the table, forwarding. Can be repeated.
    pub fn up(&self, _cluster_netns: BorrowedFd<'_>) -> Result<()> {
        Ok(())
    }

    /// Removes all of it; what is gone already is fine.
    pub fn down(&self) -> Result<()> {
        Ok(())
    }

    /// Leads `destination` (service or pod range) from the host to a node.
    pub fn route_add(&self, _destination: Ipv4Net, _via: Ipv4Addr) -> Result<()> {
        Ok(())
    }

    /// Takes such a route back. Answers whether it was there.
    pub fn route_del(&self, _destination: Ipv4Net, _via: Ipv4Addr) -> Result<bool> {
        Ok(true)
    }
}

/// The first of `candidates` that collides with no address and no route of the host
/// (default routes and the links named in `ignore_links` aside).
pub fn find_free_range(_candidates: &[Ipv4Net], _ignore_links: &[&str]) -> Result<Option<Ipv4Net>> {
    Ok(None)
}

/// The host's link or route that `range` collides with, in words, if any.
pub fn range_conflict(_range: Ipv4Net, _ignore_links: &[&str]) -> Result<Option<String>> {
    Ok(None)
}
