//! Address ranges that nodes may have.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rkube_failure::{Failure, Kind, Source};

/// Ranges for a new cluster's nodes that `taken` does not hold, best first.
pub(crate) fn candidates(taken: &[Ipv4Net]) -> Vec<Ipv4Net> {
    (0..=20)
        .filter_map(|i| Ipv4Net::new([192, 168, 58 + 9 * i, 0].into(), 24).ok())
        .filter(|c| !taken.iter().any(|t| t.contains(c) || c.contains(t)))
        .collect()
}

/// The first candidate that collides with no link and no route of this machine.
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

/// What of this machine's links and routes collides with `range`.
pub(crate) fn conflict_on_host(range: Ipv4Net) -> Result<Option<String>, Failure> {
    host::conflict(range)
}

/// Whether `address` is one of this machine's own, so that the range around it
/// is on a link here.
pub(crate) fn is_ours(address: Ipv4Addr) -> bool {
    host::has(address)
}

/// What this machine's links and routes say.
#[cfg(target_os = "linux")]
mod host {
    use std::net::IpAddr;

    use rkube_network::host;
    use rkube_network::netlink::Netlink;

    use super::{Failure, Ipv4Addr, Ipv4Net, Kind, Source};

    fn failure(e: impl std::fmt::Display) -> Failure {
        Failure::new(Source::LocalNetwork, Kind::Error, e.to_string())
    }

    pub fn free(candidates: &[Ipv4Net]) -> Result<Option<Ipv4Net>, Failure> {
        host::find_free_range(candidates, &[]).map_err(failure)
    }

    pub fn conflict(range: Ipv4Net) -> Result<Option<String>, Failure> {
        host::range_conflict(range, &[]).map_err(failure)
    }

    pub fn has(address: Ipv4Addr) -> bool {
        let addresses = Netlink::open().and_then(|n| n.addresses());
        addresses.is_ok_and(|all| all.iter().any(|a| a.net.addr() == IpAddr::V4(address)))
    }
}

/// Here nodes' addresses are those of a virtual machine's inside, which this
/// machine neither routes to nor collides with: everything goes through ports of
/// the loopback.
#[cfg(not(target_os = "linux"))]
mod host {
    use super::{Failure, Ipv4Addr, Ipv4Net};

    #[allow(clippy::unnecessary_wraps)] // As where the machine is asked.
    pub fn free(candidates: &[Ipv4Net]) -> Result<Option<Ipv4Net>, Failure> {
        Ok(candidates.first().copied())
    }

    #[allow(clippy::unnecessary_wraps)] // As where the machine is asked.
    pub fn conflict(_range: Ipv4Net) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    pub fn has(_address: Ipv4Addr) -> bool {
        false
    }
}
