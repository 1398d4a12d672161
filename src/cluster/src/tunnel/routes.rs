//! Load-balancer addresses as routes of the host.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use rkube_failure::{Failure, Kind, Source};
use rkube_network::netlink::{Netlink, Route};

/// Routes to single addresses through one node.
pub(super) struct Routes {
    /// The node's address.
    pub via: Ipv4Addr,
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
                && route.gateway == Some(self.via.into())
            {
                netlink.delete_route(&route).map_err(network_failure)?;
            }
        }
        Ok(())
    }

    /// Adds a route to `address` through the node.
    pub fn add(&self, address: Ipv4Addr) -> Result<(), Failure> {
        Netlink::open()
            .map_err(network_failure)?
            .replace_route(&self.route(address)?)
            .map_err(network_failure)
    }

    /// Whether all of the addresses have their routes.
    pub fn has_all(&self, addresses: &[Ipv4Addr]) -> Result<bool, Failure> {
        let netlink = Netlink::open().map_err(network_failure)?;
        let routes = netlink.routes().map_err(network_failure)?;
        let via = Some(IpAddr::V4(self.via));
        Ok(addresses.iter().all(|address| {
            routes.iter().any(|route| {
                route.gateway == via
                    && matches!(route.destination, ipnet::IpNet::V4(net)
                        if net.prefix_len() == 32 && net.addr() == *address)
            })
        }))
    }

    /// Removes the route. A missing route is not an error.
    pub fn remove(&self, address: Ipv4Addr) -> Result<(), Failure> {
        Netlink::open()
            .map_err(network_failure)?
            .delete_route(&self.route(address)?)
            .map(|_| ())
            .map_err(network_failure)
    }

    fn route(&self, address: Ipv4Addr) -> Result<Route, Failure> {
        let net = Ipv4Net::new(address, 32)
            .map_err(|e| Failure::new(Source::LocalNetwork, Kind::Error, e.to_string()))?;
        Ok(Route::via(net, IpAddr::V4(self.via)))
    }
}
