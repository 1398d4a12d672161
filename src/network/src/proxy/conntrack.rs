//! Removal of stale conntrack entries of UDP services.
//!
//! As long as a UDP client keeps sending, conntrack forwards its packets to the endpoint of the
//! first one, regardless of later rule changes. Therefore entries to a known service are deleted if
//! the responding side is not one of its endpoints. TCP connections need no such cleanup, as they
//! fail by themselves.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::compile::UdpBackends;
use crate::netlink::{Attributes, NetlinkError, Socket, Writer};
use crate::nft::Family;

// Message and attribute numbers of `linux/netfilter/nfnetlink_conntrack.h`.
const CTNETLINK: u16 = 1 << 8;
const NEW: u16 = CTNETLINK;
const GET: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const IP_V6_SOURCE: u16 = 3;
const IP_V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;
const UDP: u8 = 17;

/// A connection to conntrack in one network namespace.
pub(super) struct Conntrack {
    socket: Socket,
}

/// A conntrack entry: its original tuple as encoded by the kernel, and the parsed fields.
struct Entry {
    original: Vec<u8>,
    id: Option<Vec<u8>>,
    destination: IpAddr,
    port: u16,
    answered_by: (IpAddr, u16),
}

impl Conntrack {
    /// Opens a connection in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Socket::open(SockProtocol::NetlinkNetFilter)
            .map(|socket| Self { socket })
            .map_err(|errno| NetlinkError::new("cannot open a netfilter socket", errno))
    }

    /// Deletes entries of a family that lead to none of their service's endpoints. `local` are the addresses of
    /// the node, at which node ports are open. Returns the number of deleted entries.
    pub(super) fn remove_stale(
        &self,
        udp: &UdpBackends,
        local: &BTreeSet<IpAddr>,
        family: Family,
    ) -> Result<usize, NetlinkError> {
        let number = match family {
            Family::Ip6 => libc::AF_INET6,
            Family::Ip | Family::Inet | Family::Bridge => libc::AF_INET,
        };
        let family = |w: &mut Writer| w.raw(&[number as u8, 0, 0, 0]);
        let entries = self
            .socket
            .dump(GET, family, |kind, payload| {
                let entry = (kind == NEW).then(|| parse(payload.get(4..)?)).flatten()?;
                stale(&entry, udp, local).then_some(entry)
            })
            .map_err(|refusal| refusal.because("cannot list tracked connections"))?;
        let mut removed = 0;
        for entry in entries {
            let result = self.socket.request(DELETE, 0, |w| {
                family(w);
                w.nest(TUPLE_ORIGINAL, |w| w.raw(&entry.original));
                if let Some(id) = &entry.id {
                    w.attr(ID, id);
                }
            });
            match result {
                Ok(()) => removed += 1,
                // The entry expired, or was replaced by one with the same tuple.
                Err(refusal) if refusal.errno == Errno::ENOENT => {}
                Err(refusal) => return Err(refusal.because("cannot remove a tracked connection")),
            }
        }
        Ok(removed)
    }
}

/// Returns whether an entry belongs to a known service but none of its endpoints.
fn stale(entry: &Entry, udp: &UdpBackends, local: &BTreeSet<IpAddr>) -> bool {
    // A connection to another machine may have the number of a node port, too.
    let by_node_port = || {
        let family = UdpBackends::index(Family::of(entry.destination));
        let port = udp.by_node_port[family].get(&entry.port);
        port.filter(|_| local.contains(&entry.destination))
    };
    udp.by_address
        .get(&(entry.destination, entry.port))
        .or_else(by_node_port)
        .is_some_and(|endpoints| !endpoints.contains(&entry.answered_by))
}

/// Parses the attributes of an entry. Returns `None` for protocols other than UDP.
fn parse(attributes: &[u8]) -> Option<Entry> {
    let find = |kind| {
        Attributes(attributes)
            .find(|(k, _)| *k == kind)
            .map(|(_, v)| v)
    };
    let inner = |within: &[u8], outer, kind| -> Option<Vec<u8>> {
        let (_, value) = Attributes(within).find(|(k, _)| *k == outer)?;
        Attributes(value)
            .find(|(k, _)| *k == kind)
            .map(|(_, v)| v.to_vec())
    };
    let ip = |tuple, v4, v6| {
        let v4 = || -> Option<IpAddr> {
            let bytes = <[u8; 4]>::try_from(inner(tuple, TUPLE_IP, v4)?).ok()?;
            Some(Ipv4Addr::from(bytes).into())
        };
        let v6 = || -> Option<IpAddr> {
            let bytes = <[u8; 16]>::try_from(inner(tuple, TUPLE_IP, v6)?).ok()?;
            Some(Ipv6Addr::from(bytes).into())
        };
        v4().or_else(v6)
    };
    let original = find(TUPLE_ORIGINAL)?;
    if inner(original, TUPLE_PROTOCOL, PROTOCOL_NUMBER)?.first() != Some(&UDP) {
        return None;
    }
    let port = |tuple, kind| {
        inner(tuple, TUPLE_PROTOCOL, kind)
            .and_then(|v| <[u8; 2]>::try_from(v).ok())
            .map(u16::from_be_bytes)
    };
    let reply = find(TUPLE_REPLY)?;
    Some(Entry {
        original: original.to_vec(),
        id: find(ID).map(<[u8]>::to_vec),
        destination: ip(original, IP_V4_DESTINATION, IP_V6_DESTINATION)?,
        port: port(original, PROTOCOL_DESTINATION_PORT)?,
        answered_by: (
            ip(reply, IP_V4_SOURCE, IP_V6_SOURCE)?,
            port(reply, PROTOCOL_SOURCE_PORT)?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_stale_if_no_endpoint_of_their_service_answers() {
        let ip = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
        let (service, node, pod, other) = (ip(1), ip(2), ip(3), ip(4));
        let udp = UdpBackends {
            by_address: [((service, 53), [(pod, 5353)].into())].into(),
            by_node_port: [[(30053, [(pod, 5353)].into())].into(), Default::default()],
        };
        for (destination, port, answered_by, expected) in [
            (service, 53, (pod, 5353), false),
            (service, 53, (other, 5353), true),
            // The target port of the service has changed.
            (service, 53, (pod, 53), true),
            (service, 54, (other, 5353), false),
            (node, 30053, (pod, 5353), false),
            (node, 30053, (other, 5353), true),
            // Not a node port: the same number on another machine.
            (other, 30053, (other, 30053), false),
        ] {
            let entry = Entry {
                original: vec![],
                id: None,
                destination,
                port,
                answered_by,
            };
            let answer = stale(&entry, &udp, &[node].into());
            assert_eq!(answer, expected, "{destination}:{port} {answered_by:?}");
        }
    }
}
