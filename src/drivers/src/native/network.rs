//! The cluster's network: a bridge in the cluster's network namespace, one veth pair per node, and
//! one to the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use ipnet::{Ipv4Net, Ipv6Net};
use nix::unistd::Pid;
use rkube_network::netlink::{self, Netlink, Netns, Route, Veth};
use rkube_network::{HostNetwork, HostNetworkConfig};

use crate::types::{ClusterPlan, NodePlan};

/// The bridge that all nodes are attached to.
const BRIDGE: &str = "rkbr0";
/// MTU of the nodes' network, in bytes.
const MTU: u32 = 1500;
/// Directory of the network state that all profiles share.
const SHARED_STATE: &str = "/run/rkube";

/// Returns the host's side of the cluster's network.
pub fn host(plan: &ClusterPlan) -> HostNetwork {
    HostNetwork::new(HostNetworkConfig {
        profile: plan.name.clone(),
        bridge_name: BRIDGE.into(),
        gateway: plan.gateway(),
        node_cidr: plan.node_cidr,
        ipv6: plan.ipv6_of(plan.gateway()),
        mtu: MTU,
        loopback_ports: plan.loopback_ports.clone(),
        state_dir: SHARED_STATE.into(),
    })
}

/// Creates the bridge and the connection to the host. The caller must be in the cluster's network
/// namespace.
pub fn up(plan: &ClusterPlan, host_netns: BorrowedFd<'_>) -> anyhow::Result<()> {
    let cluster = netlink::current_netns()?;
    Netlink::open()?.set_up("lo")?;
    netlink::in_netns(host_netns, || host(plan).up(cluster.as_fd()))??;
    Ok(())
}

/// Removes the changes of [`up`] on the host.
pub fn down(plan: &ClusterPlan, host_netns: BorrowedFd<'_>) -> anyhow::Result<()> {
    netlink::in_netns(host_netns, || host(plan).down())??;
    Ok(())
}

/// Connects the network namespace of `pid` to the bridge and assigns the node's address.
pub fn connect(plan: &ClusterPlan, node: &NodePlan, pid: Pid) -> anyhow::Result<()> {
    let cluster = Netlink::open()?;
    let name = link_name(node.ip);
    // The namespace of a dead node, and with it its interface, disappears only after a delay.
    cluster.delete_link(&name)?;
    cluster.create_veth(&Veth {
        name: &name,
        master: Some(cluster.index_of(BRIDGE)?),
        mtu: Some(MTU),
        up: true,
        peer_name: "eth0",
        // Derived from the address, so that peers' ARP entries outlive a restart.
        peer_mac: Some(mac(node.ip)),
        peer_netns: Some(Netns::Pid(pid.as_raw())),
        ..Veth::default()
    })?;
    let inside = netlink::pid_netns(pid.as_raw())?;
    let inside = Netlink::open_in(inside.as_fd())?;
    inside.set_up("lo")?;
    inside.add_address("eth0", Ipv4Net::new(node.ip, plan.node_cidr.prefix_len())?)?;
    let ipv6 = plan.ipv6_of(node.ip);
    if let Some(ipv6) = ipv6 {
        inside.add_address("eth0", ipv6)?;
    }
    inside.set_up("eth0")?;
    let everywhere = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0)?;
    inside
        .add_route(&Route::via(everywhere, IpAddr::V4(plan.gateway())))
        .context("cannot set the node's default route")?;
    if let Some(gateway) = plan.ipv6_of(plan.gateway()).filter(|_| ipv6.is_some()) {
        let everywhere = Ipv6Net::new(Ipv6Addr::UNSPECIFIED, 0)?;
        inside
            .add_route(&Route::via(everywhere, gateway.addr()))
            .context("cannot set the node's default route of IPv6")?;
    }
    Ok(())
}

/// Removes the interface of a stopped node.
pub fn disconnect(node: &NodePlan) -> anyhow::Result<()> {
    Netlink::open()?.delete_link(&link_name(node.ip))?;
    Ok(())
}

/// Returns the name of the bridge port of a node. Addresses are unique within a cluster.
fn link_name(ip: Ipv4Addr) -> String {
    let [_, _, c, d] = ip.octets();
    format!("node{c}-{d}")
}

/// Returns a locally administered MAC address derived from the node's IP address.
fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x4b, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_macs_are_local_unicast() {
        let ip = Ipv4Addr::new(192, 168, 255, 254);
        assert!(link_name(ip).len() <= 15);
        assert_eq!(mac(ip)[0] & 0b11, 0b10);
    }
}
