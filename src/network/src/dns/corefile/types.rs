//! A Corefile that was understood.

use std::net::SocketAddr;

use hickory_proto::rr::Name;

use super::hosts::Hosts;
use super::rewrite::Rule;
use super::template::Template;

/// A problem of a Corefile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Corefile:{line} - Error during parsing: {what}")]
pub struct Problem {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl Problem {
    pub(super) fn at(line: usize, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
        }
    }
}

/// A Corefile that was understood.
#[derive(Clone, Debug)]
pub struct Corefile {
    pub(in super::super) blocks: Vec<Block>,
}

/// A server block.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Block {
    /// The zones whose queries it answers.
    pub zones: Vec<Name>,
    /// Whether failed queries are logged.
    pub errors: bool,
    /// Whether all queries are logged.
    pub log: bool,
    /// The limits of the cache; without it, nothing is cached.
    pub cache: Option<Cache>,
    pub rewrites: Vec<Rule>,
    pub templates: Vec<Template>,
    pub hosts: Option<Hosts>,
    /// The records of the cluster, if the block serves them.
    pub kubernetes: Option<Kubernetes>,
    pub forwards: Vec<Forward>,
}

/// The options of the plugin `kubernetes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Kubernetes {
    /// Time to live of records, in seconds.
    pub ttl: u32,
    /// Whether names of pods' addresses are answered.
    pub pods: bool,
    /// Whether the names of addresses are answered.
    pub reverse: bool,
    /// Zones in which names that do not exist are left to the next plugins.
    pub fallthrough: Vec<Name>,
}

/// The options of the plugin `cache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Cache {
    /// Of answers with records.
    pub success: CacheLimits,
    /// Of negative answers.
    pub denial: CacheLimits,
}

/// What is kept of one kind of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct CacheLimits {
    /// Maximum time that they are kept, in seconds.
    pub ttl: u32,
    /// Maximum number of them.
    pub capacity: usize,
    /// Zones of which none are kept.
    pub disabled: Vec<Name>,
}

impl CacheLimits {
    /// Whether answers about a name, in lower case, are kept.
    pub fn keeps(&self, name: &Name) -> bool {
        !self.disabled.iter().any(|zone| zone.zone_of(name))
    }
}

/// The order in which servers are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Policy {
    /// From a random one on.
    #[default]
    Random,
    /// From the next one on.
    RoundRobin,
    /// From the first one on.
    Sequential,
}

/// An entry of the plugin `forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Forward {
    /// The zone whose names are forwarded.
    pub from: Name,
    /// Zones below it whose names are not.
    pub except: Vec<Name>,
    /// The servers.
    pub to: Vec<SocketAddr>,
    /// Whether the servers of the node's `resolv.conf` are asked, too.
    pub resolv_conf: bool,
    pub policy: Policy,
    /// Whether servers are asked over TCP only.
    pub force_tcp: bool,
    /// Maximum number of concurrent queries.
    pub concurrent: Option<usize>,
}

impl Forward {
    /// Whether a name is forwarded.
    pub fn takes(&self, name: &Name) -> bool {
        self.from.zone_of(name) && !self.except.iter().any(|zone| zone.zone_of(name))
    }
}

impl Corefile {
    /// Returns the block with the longest zone that contains the name.
    pub(in super::super) fn block_of(&self, name: &Name) -> Option<usize> {
        let length = |block: &Block| {
            let zones = block.zones.iter().filter(|zone| zone.zone_of(name));
            zones.map(Name::num_labels).max()
        };
        let found = self.blocks.iter().enumerate();
        found
            .filter_map(|(index, block)| Some((length(block)?, index)))
            .max()
            .map(|(_, index)| index)
    }
}
