//! The files in `/etc` with a node's host name, peers and DNS servers.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use rkube_config::NodeConfig;

/// Sets the host name and writes `/etc/hostname`, `/etc/hosts` and
/// `/etc/resolv.conf` under `root` (`/` in a running node).
pub fn write_identity(root: &Path, config: &NodeConfig) -> anyhow::Result<()> {
    nix::unistd::sethostname(&config.name).context("cannot set the host name")?;
    let etc = root.join("etc");
    std::fs::create_dir_all(&etc).with_context(|| format!("cannot make {}", etc.display()))?;
    write(&etc.join("hostname"), &format!("{}\n", config.name))?;
    write(&etc.join("hosts"), &hosts(config))?;
    let resolvers = etc.join("resolv.conf");
    // Without upstream servers, the container keeps those that it was created with.
    if config.upstream_dns.is_empty() && resolvers.exists() {
        return Ok(());
    }
    write(&resolvers, &resolv_conf(config))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the content of `/etc/hosts`: this node, its peers, the API server and the machine
/// that the nodes run on.
fn hosts(config: &NodeConfig) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for ip in config.ips() {
        let _ = writeln!(text, "{ip} {}", config.name);
    }
    for peer in config
        .cluster
        .nodes
        .iter()
        .filter(|n| n.name != config.name)
    {
        for ip in config.cluster.node_ips(peer.ip) {
            let _ = writeln!(text, "{ip} {}", peer.name);
        }
    }
    let _ = writeln!(
        text,
        "{} control-plane.rkube.internal",
        config.cluster.api_server_ip
    );
    if let Some(host) = config.host_ip {
        let _ = writeln!(text, "{host} {}", rkube_config::HOST_NAMES.join(" "));
    }
    text
}

/// Returns the content of `/etc/resolv.conf`.
fn resolv_conf(config: &NodeConfig) -> String {
    config
        .upstream_dns
        .iter()
        .map(|ip| format!("nameserver {ip}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        serde_yaml::from_str(
            "cluster: {name: rkube, dnsDomain: cluster.local, serviceCidr: 10.96.0.0/12, dnsIp: 10.96.0.10, \
             podCidr: 10.244.0.0/16, nodeCidr: 192.168.58.0/24, apiServerIp: 192.168.58.2, apiServerPort: 8443, \
             nodes: [{name: rkube, ip: 192.168.58.2}, {name: rkube-m02, ip: 192.168.58.3}]}\n\
             name: rkube-m02\nip: 192.168.58.3\npodCidr: 10.244.1.0/24\ncontrolPlane: false\n\
             providerId: rkube://native/rkube/rkube-m02\nupstreamDns: [9.9.9.9]\nmaxPods: 110\n",
        )
        .unwrap()
    }

    #[test]
    fn every_node_is_named_once() {
        let text = hosts(&config());
        assert_eq!(text.matches("rkube-m02").count(), 1);
        assert!(text.contains("192.168.58.2 rkube\n"));
        assert!(!text.contains("host.rkube.internal"));
        let mut config = config();
        config.host_ip = Some(std::net::Ipv4Addr::new(192, 168, 58, 1));
        let line = "192.168.58.1 host.rkube.internal host.docker.internal host.minikube.internal registry.rkube.internal\n";
        assert!(hosts(&config).ends_with(line));
    }

    #[test]
    fn resolvers_are_listed() {
        assert_eq!(resolv_conf(&config()), "nameserver 9.9.9.9\n");
    }
}
