//! The node's configuration and the facts about its machine.

use std::net::IpAddr;

use rkube_config::NodeConfig;
use rkube_resource_managers::Settings;

use crate::allocatable::Allocatable;
use crate::machine::Machine;
use crate::pods::sysctls::Sysctls;

/// Configuration and machine facts; they do not change while the agent runs.
#[derive(Debug)]
pub(crate) struct Host {
    pub config: NodeConfig,
    pub machine: Machine,
    /// The options about the node's resources.
    pub settings: Settings,
    /// The sysctls that pods may set.
    pub sysctls: Sysctls,
}

impl Host {
    /// Reads the machine's facts.
    ///
    /// # Errors
    ///
    /// Fails if an option about the node's resources is invalid.
    pub(crate) fn read(config: NodeConfig) -> anyhow::Result<Self> {
        Ok(Self {
            settings: Settings::parse(&config.kubelet.resources).map_err(anyhow::Error::msg)?,
            machine: Machine::read(&config),
            sysctls: Sysctls::new(&config.kubelet.allowed_unsafe_sysctls),
            config,
        })
    }

    /// Returns the node's name.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns the node's first address in the cluster.
    pub(crate) fn ip(&self) -> IpAddr {
        self.config.first_ip()
    }

    /// Returns all addresses of a pod by its first one.
    pub(crate) fn pod_ips(&self, first: Option<IpAddr>) -> Vec<IpAddr> {
        first.map_or_else(Vec::new, |first| self.config.pod_ips(first))
    }

    /// Returns the resources that the node offers to pods.
    pub(crate) fn allocatable(&self) -> Allocatable {
        let reserved = self.settings.reserved();
        Allocatable::new(&self.machine, self.config.max_pods, reserved)
    }
}
