//! Address ranges that nodes may have.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use rkube_config::Failure;
use rkube_config::failure::{Kind, Source};

/// Ranges for a new cluster's nodes that `taken` does not hold, best first.
pub(crate) fn candidates(taken: &[Ipv4Net]) -> Vec<Ipv4Net> {
    (0..=20)
        .filter_map(|i| Ipv4Net::new([192, 168, 58 + 9 * i, 0].into(), 24).ok())
        .filter(|c| !taken.iter().any(|t| t.contains(c) || c.contains(t)))
        .collect()
}

/// The first candidate that collides with no link and no route of this machine.
pub(crate) fn free_on_host(taken: &[Ipv4Net]) -> Result<Ipv4Net, Failure> {
    rkube_network::host::find_free_range(&candidates(taken), &[])
        .map_err(|e| Failure::new(Source::LocalNetwork, Kind::Error, e.to_string()))?
        .ok_or_else(none_free)
}

fn none_free() -> Failure {
    Failure::new(
        Source::LocalNetwork,
        Kind::Conflict,
        "no free address range among 192.168.58.0/24 … 192.168.238.0/24",
    )
    .advise("choose one with --subnet")
}

/// Whether `address` is one of this machine's own, so that the range around it
/// is on a link here.
pub(crate) fn is_ours(address: Ipv4Addr) -> bool {
    let addresses = rkube_network::netlink::Netlink::open().and_then(|n| n.addresses());
    addresses.is_ok_and(|all| all.iter().any(|a| a.net.addr() == IpAddr::V4(address)))
}
