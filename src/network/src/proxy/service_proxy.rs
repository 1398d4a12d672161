//! The proxy: rules, health checks and conntrack cleanup.

use parking_lot::Mutex;

use super::compile::{Ruleset, TABLE, compile};
use super::conntrack::Conntrack;
use super::health::HealthServer;
use super::state::ServiceState;
use super::types::{ProxyConfig, SyncReport};
use crate::error::Result;
use crate::nft::{Family, Nftables};

/// The service proxy of one network namespace.
pub struct ServiceProxy {
    config: ProxyConfig,
    nft: Nftables,
    conntrack: Conntrack,
    health: HealthServer,
    /// The rules as last applied; `None` if unknown.
    applied: Mutex<Option<Ruleset>>,
}

impl ServiceProxy {
    /// Returns a proxy for the calling thread's network namespace. Health checks are served only if
    /// it is called inside a tokio runtime.
    pub fn new(config: ProxyConfig) -> Result<Self> {
        Ok(Self {
            config,
            nft: Nftables::open()?,
            conntrack: Conntrack::open()?,
            health: HealthServer::new(),
            applied: Mutex::new(None),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &ProxyConfig {
        &self.config
    }

    /// Makes the kernel's rules equal to those of `state`, in one transaction. Writes nothing if
    /// they did not change. Then serves the health checks and deletes stale conntrack entries.
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
            // Another program changed or flushed the table, so replace it.
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
            // Only after the rules: otherwise the next packet could create the entry again.
            report.conntrack_removed = self.conntrack.remove_stale(&udp)?;
        }
        Ok(report)
    }

    /// Removes all rules and stops the health checks.
    pub fn cleanup(&self) -> Result<()> {
        let mut applied = self.applied.lock();
        self.nft.delete_table(Family::Ip, TABLE)?;
        self.health.update(&Default::default());
        *applied = None;
        Ok(())
    }
}
