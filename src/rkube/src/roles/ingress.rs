//! The ingress controller of the node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rkube_config::{NodeConfig, paths, roles};
use tokio_util::sync::CancellationToken;

/// The time in which open requests end at the stop.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the number of threads: one per processor, within reason.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8))
}

/// Serves the cluster's Ingresses until `stop`.
pub async fn run(config: NodeConfig, stop: CancellationToken) -> anyhow::Result<()> {
    let ca = Path::new(paths::PKI).join("ca.crt");
    let cluster = &config.cluster;
    let dns = cluster.dns_ips().first().copied();
    let dns = dns.unwrap_or(cluster.dns_ip.into());
    let log = PathBuf::from(format!("{}/{}.log", paths::LOGS, roles::INGRESS));
    let ingress = rkube_ingress::Config {
        api_server: SocketAddr::new(cluster.api_server_ip.into(), cluster.api_server_port),
        ca: std::fs::read(&ca).with_context(|| format!("cannot read {}", ca.display()))?,
        token: paths::INGRESS_TOKEN.into(),
        node: config.name.clone(),
        ip: config.first_ip(),
        dns: (dns, 53).into(),
        // A virtual machine's may be a port instead.
        log: log.exists().then_some(log),
    };
    rkube_ingress::run(ingress, stop).await
}
