//! Nodes that have gone silent, without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::choose::{Balancer, Candidate};

/// Number of queries in a row without an answer after which a node counts as silent.
const MAX_MISSES: u32 = 3;
/// Number of nodes that stand in for the first in line and watch those before them.
const STAND_INS: usize = 2;

/// What a node knows from asking other nodes.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    misses: BTreeMap<Ipv4Addr, u32>,
}

impl Peers {
    /// Returns whether a node did not answer several times in a row.
    pub fn is_silent(&self, ip: Ipv4Addr) -> bool {
        self.misses
            .get(&ip)
            .is_some_and(|misses| *misses >= MAX_MISSES)
    }

    /// Takes over which of the nodes that were `asked` have answered. Forgets all others. Returns
    /// whether a node became silent or is back.
    pub fn record(&mut self, asked: &BTreeSet<Ipv4Addr>, answered: &BTreeSet<Ipv4Addr>) -> bool {
        let silent = |misses: &BTreeMap<Ipv4Addr, u32>| -> Vec<Ipv4Addr> {
            let silent = misses.iter().filter(|(_, count)| **count >= MAX_MISSES);
            silent.map(|(ip, _)| *ip).collect()
        };
        let before = silent(&self.misses);
        self.misses.retain(|ip, _| asked.contains(ip));
        for ip in asked {
            let misses = self.misses.entry(*ip).or_default();
            *misses = match answered.contains(ip) {
                true => 0,
                false => misses.saturating_add(1),
            };
        }
        silent(&self.misses) != before
    }

    /// Returns the addresses that the node at `own` answers for, and the nodes to ask: those that
    /// answer before it, if it stands in for them.
    pub fn duties(
        &self,
        own: Ipv4Addr,
        balancers: &[Balancer],
        candidates: &[Candidate],
    ) -> (BTreeSet<Ipv4Addr>, BTreeSet<Ipv4Addr>) {
        let (mut addresses, mut ask) = (BTreeSet::new(), BTreeSet::new());
        for balancer in balancers {
            let line = balancer.line(candidates);
            let Some(place) = line.iter().position(|node| node.ip == own) else {
                continue;
            };
            let before = &line[..place];
            if before.iter().all(|node| self.is_silent(node.ip)) {
                addresses.insert(balancer.address);
            }
            if place <= STAND_INS {
                ask.extend(before.iter().map(|node| node.ip));
            }
        }
        (addresses, ask)
    }
}
