//! Addresses of links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::errno::Errno;

use super::message::{Attributes, Writer, ne32};
use super::{LinkRef, Netlink, NetlinkError};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_HOST: u8 = 254;

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// The address with the length of its network's prefix.
    pub net: IpNet,
}

/// `AF_INET` or `AF_INET6` as rtnetlink's family byte.
pub(super) fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// An address attribute.
pub(super) fn write_ip(w: &mut Writer, kind: u16, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => w.attr(kind, &ip.octets()),
        IpAddr::V6(ip) => w.attr(kind, &ip.octets()),
    }
}

/// Reads an address attribute.
pub(super) fn read_ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(value)
        .ok()
        .map(|octets| Ipv6Addr::from(octets).into())
}

impl Netlink {
    /// Every address of the namespace.
    pub fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        self.socket
            .dump(
                RTM_GETADDR,
                |w| w.raw(&[0; 8]),
                |kind, payload| {
                    (kind == RTM_NEWADDR)
                        .then(|| parse_address(payload))
                        .flatten()
                },
            )
            .map_err(|refusal| refusal.because("cannot list addresses"))
    }

    /// Adds an address to a link; one that is there already is fine.
    pub fn add_address<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        net: impl Into<IpNet>,
    ) -> Result<(), NetlinkError> {
        self.add_address_with(link.into(), net.into(), 0)
    }

    /// Adds an address without the route to its network: the link's neighbours are
    /// then reached as other routes say.
    pub fn add_address_without_route<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        net: impl Into<IpNet>,
    ) -> Result<(), NetlinkError> {
        self.add_address_with(link.into(), net.into(), IFA_F_NOPREFIXROUTE)
    }

    fn add_address_with(
        &self,
        link: LinkRef<'_>,
        net: IpNet,
        flags: u32,
    ) -> Result<(), NetlinkError> {
        let index = self.index_of(link)?;
        self.socket
            .request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, |w| {
                write_address(w, index, net);
                if let IpNet::V4(net) = net
                    && net.prefix_len() < 31
                {
                    w.attr(IFA_BROADCAST, &net.broadcast().octets());
                }
                if flags != 0 {
                    w.u32(IFA_FLAGS, flags);
                }
            })
            .map_err(|refusal| refusal.because(format!("cannot add address {net} to link {link}")))
    }

    /// Takes an address from a link. Answers whether it was there.
    pub fn delete_address<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        net: impl Into<IpNet>,
    ) -> Result<bool, NetlinkError> {
        let (link, net) = (link.into(), net.into());
        let index = self.index_of(link)?;
        match self
            .socket
            .request(RTM_DELADDR, 0, |w| write_address(w, index, net))
        {
            Ok(()) => Ok(true),
            Err(refusal) if refusal.errno == Errno::EADDRNOTAVAIL => Ok(false),
            Err(refusal) => {
                Err(refusal.because(format!("cannot delete address {net} of link {link}")))
            }
        }
    }
}

fn write_address(w: &mut Writer, index: u32, net: IpNet) {
    let scope = if net.addr().is_loopback() {
        RT_SCOPE_HOST
    } else {
        RT_SCOPE_UNIVERSE
    };
    w.raw(&[family(net.addr()), net.prefix_len(), 0, scope]);
    w.raw(&index.to_ne_bytes());
    write_ip(w, IFA_LOCAL, net.addr());
    write_ip(w, IFA_ADDRESS, net.addr());
}

fn parse_address(payload: &[u8]) -> Option<Address> {
    let (prefix, link) = (*payload.get(1)?, ne32(payload.get(4..)?));
    let (mut local, mut address) = (None, None);
    for (kind, value) in Attributes(payload.get(8..)?) {
        match kind {
            IFA_LOCAL => local = read_ip(value),
            IFA_ADDRESS => address = read_ip(value),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(address)?, prefix).ok()?;
    Some(Address { link, net })
}
