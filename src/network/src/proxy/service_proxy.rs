//! The proxy: rules, health checks and conntrack cleanup.

use parking_lot::Mutex;

use super::compile::{Ruleset, TABLE, UdpBackends, compile};
use super::conntrack::Conntrack;
use super::health::HealthServer;
use super::state::ServiceState;
use super::status::StatusServer;
use super::types::{ProxyConfig, SyncReport};
use crate::error::Result;
use crate::netlink::Netlink;
use crate::nft::{Family, Nftables};
use crate::sysctl;

/// Timeouts of tracked TCP connections, in seconds: kube-proxy's defaults. A connection that one side
/// has closed may go on for an hour; the kernel would forget it after a minute.
const TCP_TIMEOUTS: [(&str, &str); 2] = [("established", "86400"), ("close_wait", "3600")];

/// The service proxy of one network namespace.
pub struct ServiceProxy {
    config: ProxyConfig,
    nft: Nftables,
    conntrack: Conntrack,
    health: HealthServer,
    status: StatusServer,
    netlink: Netlink,
    state: Mutex<Synced>,
}

/// The state that was synced last.
#[derive(Default)]
struct Synced {
    /// The rules as last applied; `None` if unknown.
    rules: Option<Ruleset>,
    /// The endpoints for which stale conntrack entries were removed; `None` if unknown.
    conntrack: Option<UdpBackends>,
}

impl ServiceProxy {
    /// Returns a proxy for the calling thread's network namespace. Health checks are served only if
    /// it is called inside a tokio runtime.
    pub fn new(config: ProxyConfig) -> Result<Self> {
        for (name, seconds) in TCP_TIMEOUTS {
            let name = format!("net/netfilter/nf_conntrack_tcp_timeout_{name}");
            if let Err(error) = sysctl::write_if_present(&name, seconds) {
                tracing::warn!(%error, "connections are tracked with the kernel's timeouts");
            }
        }
        let any = config.any_address();
        Ok(Self {
            config,
            nft: Nftables::open()?,
            conntrack: Conntrack::open()?,
            health: HealthServer::new(any),
            status: StatusServer::new(any),
            netlink: Netlink::open()?,
            state: Mutex::default(),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &ProxyConfig {
        &self.config
    }

    /// Makes the kernel's rules equal to those of `state`, in one transaction. Writes nothing if
    /// they did not change. Then serves the health checks and deletes stale conntrack entries, also
    /// those that an earlier sync failed to delete.
    pub fn sync(&self, state: &ServiceState) -> Result<SyncReport> {
        let result = self.write(state);
        self.status.synced(result.is_ok());
        result
    }

    /// Sets whether the node is about to be deleted, which the health endpoint tells.
    pub fn set_node_leaving(&self, leaving: bool) {
        self.status.set_leaving(leaving);
    }

    fn write(&self, state: &ServiceState) -> Result<SyncReport> {
        let wanted = compile(state, &self.config);
        let mut synced = self.state.lock();
        let mut report = SyncReport::default();
        let old = synced.rules.take();
        for (number, table) in wanted.tables.iter().enumerate() {
            let old = old.as_ref().and_then(|old| old.tables.get(number));
            report.changed |= match self.nft.apply(old, table) {
                Ok(changed) => changed,
                // Another program changed or flushed the table, so replace it.
                Err(error) if old.is_some() => {
                    tracing::warn!(%error, "the service rules are not as left; replacing them");
                    self.nft.apply(None, table)?
                }
                Err(error) => return Err(error.into()),
            };
        }
        self.health.update(&wanted.health_checks);
        let udp = wanted.udp.clone();
        synced.rules = Some(wanted);
        // Only after the rules: otherwise the next packet could create the entry again.
        if synced.conntrack.as_ref() != Some(&udp) {
            synced.conntrack = None;
            report.conntrack_removed = self.remove_stale(&udp)?;
            synced.conntrack = Some(udp);
        }
        Ok(report)
    }

    fn remove_stale(&self, udp: &UdpBackends) -> Result<usize> {
        if udp.is_empty() {
            return Ok(0);
        }
        let addresses = self.netlink.addresses()?.into_iter();
        let local = addresses.map(|address| address.net.addr()).collect();
        let mut removed = 0;
        for (family, _) in self.config.families() {
            removed += self.conntrack.remove_stale(udp, &local, family)?;
        }
        Ok(removed)
    }

    /// Removes all rules and stops the health checks.
    pub fn cleanup(&self) -> Result<()> {
        let mut synced = self.state.lock();
        for family in [Family::Ip, Family::Ip6] {
            self.nft.delete_table(family, TABLE)?;
        }
        self.health.update(&Default::default());
        *synced = Synced::default();
        Ok(())
    }
}
