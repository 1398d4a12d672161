//! IPv4 and IPv6 unicast routes.

use std::net::IpAddr;

use ipnet::IpNet;
use libc::{RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE};
use netlink_packet_core::{
    NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Parseable, ParseableParametrized,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteLwEnCapType, RouteMessage, RouteMessageBuffer,
    RouteProtocol, RouteType,
};
use nix::errno::Errno;

use super::address::family;
use super::{Netlink, NetlinkError};

/// The main routing table, which `ip route` uses by default.
const TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// The scope of a route: how far away its destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteScope {
    /// Anywhere, behind a gateway.
    Universe,
    /// Directly on the interface.
    Link,
    /// This machine.
    Host,
    /// Another value.
    Other(u8),
}

impl RouteScope {
    fn code(self) -> u8 {
        match self {
            Self::Universe => 0,
            Self::Link => 253,
            Self::Host => 254,
            Self::Other(code) => code,
        }
    }
}

impl From<u8> for RouteScope {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Universe,
            253 => Self::Link,
            254 => Self::Host,
            other => Self::Other(other),
        }
    }
}

/// A unicast route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination; a prefix length of 0 is the default route.
    pub destination: IpNet,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing interface.
    pub link: Option<u32>,
    /// Source address of packets that this machine sends along the route.
    pub source: Option<IpAddr>,
    /// Priority: the lowest wins.
    pub metric: Option<u32>,
    /// Routing table, 254 being the main one.
    pub table: u32,
    /// Scope.
    pub scope: RouteScope,
    /// Origin (`rtm_protocol`): 2 for the kernel, 4 for an administrator.
    pub protocol: u8,
}

impl Route {
    /// Returns a route through a gateway.
    pub fn via(destination: impl Into<IpNet>, gateway: impl Into<IpAddr>) -> Self {
        Self {
            destination: destination.into(),
            gateway: Some(gateway.into()),
            link: None,
            source: None,
            metric: None,
            table: TABLE_MAIN,
            scope: RouteScope::Universe,
            protocol: RouteProtocol::Static.into(),
        }
    }

    /// Returns a route to hosts directly on an interface.
    pub fn on_link(destination: impl Into<IpNet>, link: u32) -> Self {
        Self {
            destination: destination.into(),
            gateway: None,
            link: Some(link),
            source: None,
            metric: None,
            table: TABLE_MAIN,
            scope: RouteScope::Link,
            protocol: RouteProtocol::Static.into(),
        }
    }

    /// Converts the route to a netlink message.
    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(self.destination.addr()),
            destination_prefix_length: self.destination.prefix_len(),
            // Larger numbers are in the attribute alone.
            table: u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
            protocol: self.protocol.into(),
            scope: self.scope.code().into(),
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(self.table));
        if self.destination.prefix_len() > 0 {
            let network = self.destination.network().into();
            attributes.push(RouteAttribute::Destination(network));
        }
        attributes.extend(self.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
        attributes.extend(self.link.map(RouteAttribute::Oif));
        attributes.extend(self.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        attributes.extend(self.metric.map(RouteAttribute::Priority));
        message
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(link) = self.link {
            write!(f, " on link #{link}")?;
        }
        Ok(())
    }
}

impl Netlink {
    /// Lists the unicast routes of every table, IPv4 and IPv6.
    pub fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        self.socket
            .dump(
                RTM_GETROUTE,
                |w| w.emit(&RouteMessage::default()),
                |kind, payload| {
                    (kind == RTM_NEWROUTE)
                        .then(|| parse_route(payload))
                        .flatten()
                },
            )
            .map_err(|refusal| refusal.because("cannot list routes"))
    }

    /// Adds a route. Fails with `EEXIST` if a route to the same destination has the same metric.
    pub fn add_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.socket
            .request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, |w| {
                w.emit(&route.message())
            })
            .map_err(|refusal| refusal.because(format!("cannot add route {route}")))
    }

    /// Adds a route, or replaces the one to the same destination with the same metric.
    pub fn replace_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.socket
            .request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, |w| {
                w.emit(&route.message())
            })
            .map_err(|refusal| refusal.because(format!("cannot set route {route}")))
    }

    /// Deletes a route. Returns whether it existed.
    pub fn delete_route(&self, route: &Route) -> Result<bool, NetlinkError> {
        match self
            .socket
            .request(RTM_DELROUTE, 0, |w| w.emit(&route.message()))
        {
            Ok(()) => Ok(true),
            Err(refusal) if matches!(refusal.errno, Errno::ESRCH | Errno::ENODEV) => Ok(false),
            Err(refusal) => Err(refusal.because(format!("cannot delete route {route}"))),
        }
    }
}

/// The attributes of a route that are read.
const ROUTE_ATTRIBUTES: [u16; 6] = [
    libc::RTA_DST,
    libc::RTA_OIF,
    libc::RTA_GATEWAY,
    libc::RTA_PRIORITY,
    libc::RTA_PREFSRC,
    libc::RTA_TABLE,
];

/// Parses an `RTM_NEWROUTE` message. Returns `None` for anything but a unicast IP route.
///
/// Skips attributes that it cannot decode, so that attributes of newer kernels do not hide the
/// route. Returns `None` if the destination cannot be decoded.
pub(super) fn parse_route(payload: &[u8]) -> Option<Route> {
    let buffer = RouteMessageBuffer::new_checked(&payload).ok()?;
    let header = RouteHeader::parse(&buffer).ok()?;
    if header.kind != RouteType::Unicast {
        return None;
    }
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut destination = unspecified;
    let mut route = Route {
        destination: IpNet::new(unspecified, 0).ok()?,
        gateway: None,
        link: None,
        source: None,
        metric: None,
        table: u32::from(header.table),
        scope: RouteScope::from(u8::from(header.scope)),
        protocol: header.protocol.into(),
    };
    let context = (
        header.address_family,
        header.kind,
        RouteLwEnCapType::default(),
    );
    for attribute in buffer.attributes().map_while(Result::ok) {
        // The parser of others may panic if they are malformed.
        if !ROUTE_ATTRIBUTES.contains(&attribute.kind()) {
            continue;
        }
        let Ok(attribute) = RouteAttribute::parse_with_param(&attribute, context) else {
            continue;
        };
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(&address)?,
            RouteAttribute::Gateway(address) => route.gateway = ip(&address),
            RouteAttribute::Oif(link) => route.link = Some(link),
            RouteAttribute::PrefSource(address) => route.source = ip(&address),
            RouteAttribute::Priority(metric) => route.metric = Some(metric),
            RouteAttribute::Table(table) => route.table = table,
            _ => {}
        }
    }
    route.destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = super::parse_route(&bytes);
        }
    }
}
