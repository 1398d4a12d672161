//! Addresses of network interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use libc::{RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressMessageBuffer,
    AddressScope,
};
use nix::errno::Errno;

use super::{LinkRef, Netlink, NetlinkError};

/// An address of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub link: u32,
    /// The address and the prefix length of its network.
    pub net: IpNet,
}

/// Returns the address family of `ip`.
pub(super) fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

impl Netlink {
    /// Lists all addresses of the namespace, IPv4 and IPv6.
    pub fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        self.socket
            .dump(
                RTM_GETADDR,
                |w| w.emit(&AddressMessage::default()),
                |kind, payload| {
                    (kind == RTM_NEWADDR)
                        .then(|| parse_address(payload))
                        .flatten()
                },
            )
            .map_err(|refusal| refusal.because("cannot list addresses"))
    }

    /// Adds an address to an interface. Succeeds if the interface already has it. Of an IPv6
    /// address, no duplicates are looked for, so it can be used at once.
    pub fn add_address<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        net: impl Into<IpNet>,
    ) -> Result<(), NetlinkError> {
        self.add_address_with(link.into(), net.into(), AddressFlags::empty())
    }

    /// Adds an address without the route to its network (`noprefixroute`). The caller must add
    /// routes to the interface's neighbours.
    pub fn add_address_without_route<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        net: impl Into<IpNet>,
    ) -> Result<(), NetlinkError> {
        self.add_address_with(link.into(), net.into(), AddressFlags::Noprefixroute)
    }

    fn add_address_with(
        &self,
        link: LinkRef<'_>,
        net: IpNet,
        flags: AddressFlags,
    ) -> Result<(), NetlinkError> {
        let mut message = address_message(self.index_of(link)?, net);
        let flags = match net {
            IpNet::V4(_) => flags,
            IpNet::V6(_) => flags | AddressFlags::Nodad,
        };
        if let IpNet::V4(net) = net
            && net.prefix_len() < 31
        {
            message
                .attributes
                .push(AddressAttribute::Broadcast(net.broadcast()));
        }
        if !flags.is_empty() {
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        self.socket
            .request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, |w| {
                w.emit(&message)
            })
            .map_err(|refusal| refusal.because(format!("cannot add address {net} to link {link}")))
    }

    /// Deletes an address of an interface. Returns whether it existed.
    pub fn delete_address<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        net: impl Into<IpNet>,
    ) -> Result<bool, NetlinkError> {
        let (link, net) = (link.into(), net.into());
        let message = address_message(self.index_of(link)?, net);
        match self.socket.request(RTM_DELADDR, 0, |w| w.emit(&message)) {
            Ok(()) => Ok(true),
            Err(refusal) if refusal.errno == Errno::EADDRNOTAVAIL => Ok(false),
            Err(refusal) => {
                Err(refusal.because(format!("cannot delete address {net} of link {link}")))
            }
        }
    }
}

fn address_message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: family(net.addr()),
        prefix_len: net.prefix_len(),
        scope: if net.addr().is_loopback() {
            AddressScope::Host
        } else {
            AddressScope::Universe
        },
        index,
        ..AddressHeader::default()
    };
    message.attributes = vec![
        AddressAttribute::Local(net.addr()),
        AddressAttribute::Address(net.addr()),
    ];
    message
}

/// Parses an `RTM_NEWADDR` message. Skips attributes that it cannot decode, so that attributes of
/// newer kernels do not hide the address.
pub(super) fn parse_address(payload: &[u8]) -> Option<Address> {
    let buffer = AddressMessageBuffer::new_checked(&payload).ok()?;
    let header = AddressHeader::parse(&buffer).ok()?;
    let (mut local, mut address) = (None, None);
    for attribute in buffer.attributes().map_while(Result::ok) {
        // The parser of others may panic if they are malformed.
        if ![libc::IFA_LOCAL, libc::IFA_ADDRESS].contains(&attribute.kind()) {
            continue;
        }
        match AddressAttribute::parse(&attribute) {
            Ok(AddressAttribute::Local(ip)) => local = Some(ip),
            Ok(AddressAttribute::Address(ip)) => address = Some(ip),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(address)?, header.prefix_len).ok()?;
    Some(Address {
        link: header.index,
        net,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = super::parse_address(&bytes);
        }
    }
}
