//! Routes.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use super::address::{family, read_ip, write_ip};
use super::message::{Attributes, Writer, ne32};
use super::{Netlink, NetlinkError};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTN_UNICAST: u8 = 1;
/// The table that addresses and `ip route` use.
const TABLE_MAIN: u32 = 254;
/// `rtm_protocol` "static": set by an administrator's tool.
const PROTOCOL_STATIC: u8 = 4;

/// How far away a route's destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteScope {
    /// Behind a gateway, anywhere.
    Universe,
    /// On the link itself.
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
    /// Where it leads; a prefix length of 0 is the default route.
    pub destination: IpNet,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Index of the link that it leaves by.
    pub link: Option<u32>,
    /// Source address of packets that this machine sends over it.
    pub source: Option<IpAddr>,
    /// Priority: the lowest wins.
    pub metric: Option<u32>,
    /// Routing table, 254 being the main one.
    pub table: u32,
    /// Scope.
    pub scope: RouteScope,
    /// Who made it (`rtm_protocol`): 2 the kernel, 4 an administrator.
    pub protocol: u8,
}

impl Route {
    /// A route through a gateway.
    pub fn via(destination: impl Into<IpNet>, gateway: impl Into<IpAddr>) -> Self {
        Self {
            destination: destination.into(),
            gateway: Some(gateway.into()),
            link: None,
            source: None,
            metric: None,
            table: TABLE_MAIN,
            scope: RouteScope::Universe,
            protocol: PROTOCOL_STATIC,
        }
    }

    /// A route to what is directly on a link.
    pub fn on_link(destination: impl Into<IpNet>, link: u32) -> Self {
        Self {
            destination: destination.into(),
            gateway: None,
            link: Some(link),
            source: None,
            metric: None,
            table: TABLE_MAIN,
            scope: RouteScope::Link,
            protocol: PROTOCOL_STATIC,
        }
    }

    fn write(&self, w: &mut Writer) {
        // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
        let table = u8::try_from(self.table).unwrap_or(0);
        w.raw(&[
            family(self.destination.addr()),
            self.destination.prefix_len(),
            0,
            0,
            table,
            self.protocol,
            self.scope.code(),
            RTN_UNICAST,
        ]);
        w.raw(&[0; 4]);
        w.u32(RTA_TABLE, self.table);
        if self.destination.prefix_len() > 0 {
            write_ip(w, RTA_DST, self.destination.network());
        }
        if let Some(gateway) = self.gateway {
            write_ip(w, RTA_GATEWAY, gateway);
        }
        if let Some(link) = self.link {
            w.u32(RTA_OIF, link);
        }
        if let Some(source) = self.source {
            write_ip(w, RTA_PREFSRC, source);
        }
        if let Some(metric) = self.metric {
            w.u32(RTA_PRIORITY, metric);
        }
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
    /// Every unicast route of every table, IPv4 and IPv6.
    pub fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        self.socket
            .dump(
                RTM_GETROUTE,
                |w| w.raw(&[0; 12]),
                |kind, payload| {
                    (kind == RTM_NEWROUTE)
                        .then(|| parse_route(payload))
                        .flatten()
                },
            )
            .map_err(|refusal| refusal.because("cannot list routes"))
    }

    /// Adds a route; one to the same destination with the same metric is an error.
    pub fn add_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.socket
            .request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, |w| route.write(w))
            .map_err(|refusal| refusal.because(format!("cannot add route {route}")))
    }

    /// Adds a route in place of the one to the same destination, if any.
    pub fn replace_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.socket
            .request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, |w| {
                route.write(w)
            })
            .map_err(|refusal| refusal.because(format!("cannot set route {route}")))
    }

    /// Deletes a route. Answers whether it was there.
    pub fn delete_route(&self, route: &Route) -> Result<bool, NetlinkError> {
        match self.socket.request(RTM_DELROUTE, 0, |w| route.write(w)) {
            Ok(()) => Ok(true),
            Err(refusal) if matches!(refusal.errno, Errno::ESRCH | Errno::ENODEV) => Ok(false),
            Err(refusal) => Err(refusal.because(format!("cannot delete route {route}"))),
        }
    }
}

fn parse_route(payload: &[u8]) -> Option<Route> {
    if *payload.get(7)? != RTN_UNICAST {
        return None;
    }
    let unspecified: IpAddr = match i32::from(*payload.first()?) {
        libc::AF_INET => std::net::Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut destination = unspecified;
    let mut route = Route {
        destination: IpNet::new(unspecified, 0).ok()?,
        gateway: None,
        link: None,
        source: None,
        metric: None,
        table: u32::from(*payload.get(4)?),
        scope: RouteScope::from(*payload.get(6)?),
        protocol: *payload.get(5)?,
    };
    for (kind, value) in Attributes(payload.get(12..)?) {
        match kind {
            RTA_DST => destination = read_ip(value)?,
            RTA_GATEWAY => route.gateway = read_ip(value),
            RTA_OIF => route.link = Some(ne32(value)),
            RTA_PREFSRC => route.source = read_ip(value),
            RTA_PRIORITY => route.metric = Some(ne32(value)),
            RTA_TABLE => route.table = ne32(value),
            _ => {}
        }
    }
    route.destination = IpNet::new(destination, *payload.get(1)?).ok()?;
    Some(route)
}
