//! Sets up the node's network.

use std::path::PathBuf;

use anyhow::Context as _;
use rkube_config::{NodeConfig, paths};
use rkube_network::{Ipv6Config, NetworkConfig, NetworkError, NodeNetwork};

/// Name of the bridge that connects the node's pods.
const BRIDGE: &str = "rk0";
/// The node's network interface to its peers.
pub(crate) const UPLINK: &str = "eth0";
/// MTU of pod network interfaces, in bytes.
const MTU: u32 = 1500;

/// Sets up the node's network and adds the cluster DNS address to the node.
pub(crate) async fn open(config: &NodeConfig) -> anyhow::Result<NodeNetwork> {
    let cluster = &config.cluster;
    let network = NetworkConfig {
        node_ip: config.ip,
        node_cidr: cluster.node_cidr,
        pod_cidr: config.pod_cidr,
        cluster_cidr: cluster.pod_cidr,
        service_cidr: cluster.service_cidr,
        load_balancers: cluster.load_balancers,
        bridge: BRIDGE.into(),
        mtu: MTU,
        uplink: UPLINK.into(),
        state_dir: PathBuf::from(paths::STATE).join("network"),
        ipv4_pods: cluster.has_ipv4(),
        ipv6: match (cluster.ipv6, config.ipv6_pods()) {
            (Some(ipv6), Some(pod_cidr)) => Some(Ipv6Config {
                node_ip: ipv6.node_ip(config.ip, cluster.node_cidr),
                node_cidr: ipv6.node_cidr,
                pod_cidr,
                cluster_cidr: ipv6.pod_cidr,
                service_cidr: ipv6.service_cidr,
            }),
            (Some(ipv6), None) => {
                anyhow::bail!("{} has no /64 for the pods of this node", ipv6.pod_cidr)
            }
            (None, _) => None,
        },
    };
    let dns_ips = cluster.dns_ips();
    tokio::task::spawn_blocking(move || {
        let network = NodeNetwork::new(network)?;
        network.setup()?;
        for ip in dns_ips {
            network.add_local_address(ip)?;
        }
        Ok::<_, NetworkError>(network)
    })
    .await?
    .context("setting up the node's network")
}
