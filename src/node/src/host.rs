//! The node's configuration and the machine under it.

use std::net::IpAddr;

use rkube_config::NodeConfig;

use crate::allocatable::Allocatable;
use crate::machine::Machine;

/// Facts that stay the same while the agent runs.
#[derive(Debug)]
pub(crate) struct Host {
    pub config: NodeConfig,
    pub machine: Machine,
}

impl Host {
    /// Reads the machine's facts.
    pub(crate) fn read(config: NodeConfig) -> Self {
        Self {
            machine: Machine::read(&config),
            config,
        }
    }

    /// Returns the node's name.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns the node's address in the cluster.
    pub(crate) fn ip(&self) -> IpAddr {
        self.config.ip.into()
    }

    /// Returns what the node offers to pods.
    pub(crate) fn allocatable(&self) -> Allocatable {
        Allocatable::new(&self.machine, self.config.max_pods)
    }
}
