//! The addresses of load balancers on a node's interface.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;

use super::arp::Arp;
use crate::error::{NetworkError, Result};
use crate::netlink::Netlink;

/// Time in which another node must answer an ARP query.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);

/// Answers for addresses on an interface of the calling thread's network namespace. All calls block.
pub struct Announcer {
    netlink: Netlink,
    arp: Arp,
    link: String,
    index: u32,
    own: Ipv4Addr,
    range: Ipv4Net,
    /// Addresses that the interface got and that were not announced yet.
    unannounced: Mutex<BTreeSet<Ipv4Addr>>,
}

impl Announcer {
    /// Opens the interface `link` of the node at `own`. All addresses in `range` on it belong to
    /// this module.
    ///
    /// # Errors
    /// Fails if the interface is missing or has no hardware address.
    pub fn open(link: &str, own: Ipv4Addr, range: Ipv4Net) -> Result<Self> {
        let netlink = Netlink::open()?;
        let found = netlink.link(link)?;
        let found = found.and_then(|link| Some((link.index, link.mac?)));
        let (index, mac) = found.ok_or_else(|| {
            NetworkError::Invalid(format!("{link} is no interface with a hardware address"))
        })?;
        Ok(Self {
            arp: Arp::open(index, mac).map_err(NetworkError::Arp)?,
            netlink,
            link: link.to_owned(),
            index,
            own,
            range,
            unannounced: Mutex::default(),
        })
    }

    /// Makes the addresses of the interface in the range exactly `wanted`: the kernel answers ARP
    /// queries for them from then on. Returns the new ones, which are announced once. After an error,
    /// the next call announces what this one did not.
    pub fn set(&self, wanted: &BTreeSet<Ipv4Addr>) -> Result<Vec<Ipv4Addr>> {
        let mut there = BTreeSet::new();
        for address in self.netlink.addresses()? {
            let IpAddr::V4(ip) = address.net.addr() else {
                continue;
            };
            if address.link != self.index || !self.range.contains(&ip) || ip == self.own {
                continue;
            }
            if wanted.contains(&ip) {
                there.insert(ip);
            } else {
                self.netlink
                    .delete_address(self.link.as_str(), address.net)?;
            }
        }
        let unannounced = self.unannounced.lock();
        let mut unannounced = unannounced.unwrap_or_else(PoisonError::into_inner);
        unannounced.retain(|ip| wanted.contains(ip));
        for ip in wanted.difference(&there) {
            self.netlink
                .add_address(self.link.as_str(), Ipv4Net::from(*ip))?;
            unannounced.insert(*ip);
        }
        let new: Vec<Ipv4Addr> = unannounced.iter().copied().collect();
        self.announce(&new)?;
        unannounced.clear();
        Ok(new)
    }

    /// Tells all machines of the network that this node has the addresses.
    pub fn announce(&self, addresses: &[Ipv4Addr]) -> Result<()> {
        for ip in addresses {
            self.arp.announce(*ip).map_err(NetworkError::Arp)?;
        }
        Ok(())
    }

    /// Returns which of the nodes answer an ARP query.
    pub fn ask(&self, nodes: &BTreeSet<Ipv4Addr>) -> Result<BTreeSet<Ipv4Addr>> {
        if nodes.is_empty() {
            return Ok(BTreeSet::new());
        }
        self.arp
            .ask(self.own, nodes, ANSWER_TIMEOUT)
            .map_err(NetworkError::Arp)
    }
}
