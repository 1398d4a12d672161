//! The settings of the controllers.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

/// Settings of the controllers.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's CA certificate in PEM, published in every namespace and used to sign
    /// certificates.
    pub ca_cert_pem: String,
    /// The CA key in PEM (PKCS#8). Without it no certificates are signed.
    pub ca_key_pem: Option<String>,
    /// The key in PEM (PKCS#8) that signs tokens of service accounts. Without it, secrets with such
    /// tokens are not filled in.
    pub token_key_pem: Option<String>,
    /// Ranges from which nodes without pod CIDRs get one each, in the order of the families.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of services of type LoadBalancer. Without it, none are assigned, and those that were
    /// assigned from `node_cidr` are taken back.
    pub load_balancers: Option<Ipv4Net>,
    /// Range of the nodes' addresses, which contains `load_balancers`.
    pub node_cidr: Ipv4Net,
    /// IP address of the API server, published for joining nodes.
    pub api_server_ip: IpAddr,
    /// Port of the API server, published for joining nodes.
    pub api_server_port: u16,
    /// Whether to create the storage class `standard` if no class exists.
    pub default_storage_class: bool,
    /// Directory on each node for volumes of the built-in provisioner.
    pub volumes: PathBuf,
    /// Time without heartbeats after which a node is considered unreachable.
    pub node_grace_period: Duration,
    /// Maximum number of terminated pods that are kept.
    pub terminated_pods: usize,
    /// Maximum lifetime of issued certificates.
    pub certificate_lifetime: Duration,
}

impl Config {
    /// Returns the default settings for a cluster with this CA and pod CIDR. Time and count limits
    /// are upstream's.
    pub fn new(ca_cert_pem: String, ca_key_pem: Option<String>, pod_cidr: Ipv4Net) -> Self {
        Self {
            ca_cert_pem,
            ca_key_pem,
            token_key_pem: None,
            pod_cidrs: vec![pod_cidr.into()],
            load_balancers: None,
            node_cidr: Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 32),
            api_server_ip: Ipv4Addr::LOCALHOST.into(),
            api_server_port: 8443,
            default_storage_class: true,
            volumes: PathBuf::from("/var/lib/rkube/volumes"),
            node_grace_period: Duration::from_secs(50),
            terminated_pods: 12_500,
            certificate_lifetime: Duration::from_secs(365 * 24 * 3600),
        }
    }
}
