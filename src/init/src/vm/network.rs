//! The machine's two network interfaces: `eth0` to the other nodes, `eth1` to the host and
//! external networks.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context;
use ipnet::Ipv4Net;
use rkube_config::NodeConfig;
use rkube_network::netlink::{Netlink, Route};

use rkube_config::machine::MachineFacts;

/// Renames the interfaces, sets their addresses and adds the default route.
pub fn set_up(config: &NodeConfig, facts: &MachineFacts) -> anyhow::Result<()> {
    let netlink = Netlink::open()?;
    netlink.set_up("lo")?;
    let links = netlink.links()?;
    let find = |mac: [u8; 6], what: &str| {
        links
            .iter()
            .find(|l| l.mac == Some(mac))
            .with_context(|| format!("the machine has no link to {what}"))
    };
    let nodes = find(facts.node_mac, "the other nodes")?;
    let outside = find(facts.outside_mac, "the world")?;
    // Temporary names first: each may currently have the other's final name.
    for (link, name) in [(nodes, "rk-nodes"), (outside, "rk-outside")] {
        netlink.set_down(link.index)?;
        netlink.rename(link.index, name)?;
    }
    for (link, name) in [(nodes, "eth0"), (outside, "eth1")] {
        netlink.rename(link.index, name)?;
        netlink.set_up(link.index)?;
    }
    netlink.add_address(
        nodes.index,
        Ipv4Net::new(config.ip, config.cluster.node_cidr.prefix_len())?,
    )?;
    netlink.add_address(outside.index, facts.outside_ip)?;
    let everywhere = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0)?;
    netlink
        .add_route(&Route::via(everywhere, IpAddr::V4(facts.outside_gateway)))
        .context("cannot set the default route")?;
    Ok(())
}
