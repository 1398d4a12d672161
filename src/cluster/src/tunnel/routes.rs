//! Load-balancer addresses as routes of the host.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use rkube_failure::{Failure, Kind, Source};
use rkube_network::netlink::{Netlink, Route};

/// Routes to single addresses through nodes.
pub(super) struct Routes {
    /// The nodes' addresses.
    pub nodes: Ipv4Net,
}

fn network_failure(e: impl std::fmt::Display) -> Failure {
    let text = e.to_string();
    let failure = Failure::new(Source::LocalNetwork, Kind::Error, text.clone());
    if text.contains("EPERM") || text.contains("not permitted") {
        return failure.advise("routes need root: repeat the command with sudo");
    }
    failure
}

impl Routes {
    /// Removes the routes of a tunnel that was killed.
    pub fn clear(&self, range: Ipv4Net) -> Result<(), Failure> {
        let netlink = Netlink::open().map_err(network_failure)?;
        for route in netlink.routes().map_err(network_failure)? {
            if let ipnet::IpNet::V4(net) = route.destination
                && net.prefix_len() == 32
                && range.contains(&net)
                && matches!(route.gateway, Some(IpAddr::V4(via)) if self.nodes.contains(&via))
            {
                netlink.delete_route(&route).map_err(network_failure)?;
            }
        }
        Ok(())
    }

    /// Fails if this process may not change routes: the kernel refuses even to remove one that is
    /// not there. None leads to the first address of the range through the host itself.
    pub fn check(&self, range: Ipv4Net) -> Result<(), Failure> {
        match self.nodes.hosts().next() {
            Some(host) => self.remove(range.network(), host),
            None => Ok(()),
        }
    }

    /// Adds the route to `address` through a node, or leads it through that node.
    pub fn add(&self, address: Ipv4Addr, via: Ipv4Addr) -> Result<(), Failure> {
        Netlink::open()
            .map_err(network_failure)?
            .replace_route(&route(address, via)?)
            .map_err(network_failure)
    }

    /// Whether all of the addresses have their routes, each through its node.
    pub fn has_all(&self, addresses: &[(Ipv4Addr, Ipv4Addr)]) -> Result<bool, Failure> {
        let netlink = Netlink::open().map_err(network_failure)?;
        let routes = netlink.routes().map_err(network_failure)?;
        Ok(addresses.iter().all(|(address, via)| {
            routes.iter().any(|route| {
                route.gateway == Some(IpAddr::V4(*via))
                    && matches!(route.destination, ipnet::IpNet::V4(net)
                        if net.prefix_len() == 32 && net.addr() == *address)
            })
        }))
    }

    /// Removes the route. A missing route is not an error.
    pub fn remove(&self, address: Ipv4Addr, via: Ipv4Addr) -> Result<(), Failure> {
        Netlink::open()
            .map_err(network_failure)?
            .delete_route(&route(address, via)?)
            .map(|_| ())
            .map_err(network_failure)
    }
}

fn route(address: Ipv4Addr, via: Ipv4Addr) -> Result<Route, Failure> {
    let net = Ipv4Net::new(address, 32)
        .map_err(|e| Failure::new(Source::LocalNetwork, Kind::Error, e.to_string()))?;
    Ok(Route::via(net, IpAddr::V4(via)))
}
