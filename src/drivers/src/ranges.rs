//! Address ranges for nodes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rkube_failure::{Failure, Kind, Source};

use crate::types::ClusterPlan;

/// Returns the ranges for a new cluster's nodes that do not overlap with `taken`, best first.
pub(crate) fn candidates(taken: &[Ipv4Net]) -> Vec<Ipv4Net> {
    (0..=20)
        .filter_map(|i| Ipv4Net::new([192, 168, 58 + 9 * i, 0].into(), 24).ok())
        .filter(|c| !taken.iter().any(|t| t.contains(c) || c.contains(t)))
        .collect()
}

/// Returns the first candidate that no interface and no route of the host uses.
pub(crate) fn free_on_host(taken: &[Ipv4Net]) -> Result<Ipv4Net, Failure> {
    host::free(&candidates(taken))?.ok_or_else(none_free)
}

fn none_free() -> Failure {
    Failure::new(
        Source::LocalNetwork,
        Kind::Conflict,
        "no free address range among 192.168.58.0/24 … 192.168.238.0/24",
    )
    .advise("choose one with --subnet")
}

/// Returns the failure of a cluster whose range `by` uses, with advice that fits whether the
/// cluster exists already.
pub(crate) fn taken(plan: &ClusterPlan, by: &str) -> Failure {
    let exists = plan.nodes.iter().any(|n| plan.node_dir(&n.name).exists());
    let advice = if exists {
        format!(
            "the range of a cluster cannot be changed: free it, or delete the cluster ({}) and choose another with --subnet",
            rkube_failure::command("delete", &plan.name)
        )
    } else {
        "choose another range with --subnet".to_owned()
    };
    Failure::new(
        Source::LocalNetwork,
        Kind::Conflict,
        format!("the address range {} is taken{by}", plan.node_cidr),
    )
    .advise(advice)
}

/// Returns a description of the host's interface or route that overlaps with `range`.
pub(crate) fn conflict_on_host(range: Ipv4Net) -> Result<Option<String>, Failure> {
    host::conflict(range)
}

/// Whether `address` is an address of the host, so that the range around it is directly reachable.
pub(crate) fn is_ours(address: Ipv4Addr) -> bool {
    host::has(address)
}

/// Queries of the host's interfaces and routes.
#[cfg(target_os = "linux")]
mod host {
    use std::net::IpAddr;

    use rkube_network::host;
    use rkube_network::netlink::Netlink;

    use super::{Failure, Ipv4Addr, Ipv4Net, Kind, Source};

    fn failure(e: impl std::fmt::Display) -> Failure {
        Failure::new(Source::LocalNetwork, Kind::Error, e.to_string())
    }

    /// Returns the first candidate that does not conflict with the host's networks.
    pub fn free(candidates: &[Ipv4Net]) -> Result<Option<Ipv4Net>, Failure> {
        host::find_free_range(candidates, &[]).map_err(failure)
    }

    /// Returns a description of the network that conflicts with `range`.
    pub fn conflict(range: Ipv4Net) -> Result<Option<String>, Failure> {
        host::range_conflict(range, &[]).map_err(failure)
    }

    /// Whether `address` is assigned to an interface of the host.
    pub fn has(address: Ipv4Addr) -> bool {
        let addresses = Netlink::open().and_then(|n| n.addresses());
        addresses.is_ok_and(|all| all.iter().any(|a| a.net.addr() == IpAddr::V4(address)))
    }
}

/// On this platform, the nodes' addresses exist only inside a virtual machine. The host neither
/// routes to them nor conflicts with them: all traffic goes through published ports.
#[cfg(not(target_os = "linux"))]
mod host {
    use super::{Failure, Ipv4Addr, Ipv4Net};

    /// Returns the first candidate.
    #[allow(clippy::unnecessary_wraps, reason = "same signature as on Linux")]
    pub fn free(candidates: &[Ipv4Net]) -> Result<Option<Ipv4Net>, Failure> {
        Ok(candidates.first().copied())
    }

    /// Returns no conflict.
    #[allow(clippy::unnecessary_wraps, reason = "same signature as on Linux")]
    pub fn conflict(_range: Ipv4Net) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Returns false.
    pub fn has(_address: Ipv4Addr) -> bool {
        false
    }
}
