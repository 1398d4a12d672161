//! The service proxy: what kube-proxy's nftables mode does.
//!
//! [`ServiceState`] is read from API objects, [`compile`] turns it into a [`Ruleset`]
//! without any I/O, and [`ServiceProxy::sync`] makes the kernel's table equal to it in
//! one transaction that writes only what differs.

mod compile;
mod conntrack;
mod endpoints;
mod health;
mod state;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use parking_lot::Mutex;

use crate::Result;
use crate::nft::{Family, Nftables};
pub use compile::{HealthCheck, Ruleset, TABLE, UdpBackends, compile};
pub use endpoints::{Categories, categorize};
pub(crate) use state::SERVICE_NAME_LABEL;
pub use state::{Endpoint, ServicePort, ServiceState};

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
    nft: Nftables,
    conntrack: conntrack::Conntrack,
    health: health::HealthServer,
    applied: Mutex<Option<Ruleset>>,
}

impl ServiceProxy {
    /// A proxy in the calling thread's network namespace. Health checks are served
    /// when this is called inside a tokio runtime.
    pub fn new(config: ProxyConfig) -> Result<Self> {
        Ok(Self {
            config,
            nft: Nftables::open()?,
            conntrack: conntrack::Conntrack::open()?,
            health: health::HealthServer::new(),
            applied: Mutex::new(None),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ProxyConfig {
        &self.config
    }

    /// Makes the rules those of `state`, in one transaction; does nothing when they are.
    pub fn sync(&self, state: &ServiceState) -> Result<SyncReport> {
        let wanted = compile(state, &self.config);
        let mut applied = self.applied.lock();
        let mut report = SyncReport::default();
        let old = applied.take();
        report.changed = match self
            .nft
            .apply(old.as_ref().map(|old| &old.table), &wanted.table)
        {
            Ok(changed) => changed,
            // Someone else changed the table (or flushed all): make it anew.
            Err(error) if old.is_some() => {
                tracing::warn!(%error, "the service rules are not as left; replacing them");
                self.nft.apply(None, &wanted.table)?
            }
            Err(error) => return Err(error.into()),
        };
        let stale = old.is_none_or(|old| old.udp != wanted.udp) && !wanted.udp.is_empty();
        let udp = stale.then(|| wanted.udp.clone());
        self.health.update(&wanted.health_checks);
        *applied = Some(wanted);
        drop(applied);
        if let Some(udp) = udp {
            // Only after the rules: a packet in between would make the entry anew.
            report.conntrack_removed = self.conntrack.remove_stale(&udp)?;
        }
        Ok(report)
    }

    /// Removes all rules.
    pub fn cleanup(&self) -> Result<()> {
        let mut applied = self.applied.lock();
        self.nft.delete_table(Family::Ip, TABLE)?;
        self.health.update(&Default::default());
        *applied = None;
        Ok(())
    }
}
