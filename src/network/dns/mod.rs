//! The cluster's name server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::Result;

/// How names are served.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where to listen, UDP and TCP: the cluster DNS's address, port 53.
    pub listen: SocketAddr,
    /// Suffix of the cluster's names, `cluster.local`.
    pub domain: String,
    /// Servers for other names; empty: those of `resolv_conf`.
    pub upstreams: Vec<IpAddr>,
    /// Read for servers when `upstreams` is empty, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// Names and addresses of services, made from API objects.
#[derive(Clone, Debug, Default)]
pub struct DnsState {}

impl DnsState {
    /// Reads names from API objects.
    pub fn from_objects(_services: &[Arc<Service>], _slices: &[Arc<EndpointSlice>]) -> Self {
        Self {}
    }
}

/// A running name server; it stops when dropped.
pub struct DnsServer {}

impl DnsServer {
    /// Starts serving, with no names of the cluster yet (`SERVFAIL` for those until the first update).
    pub async fn start(_config: DnsConfig) -> Result<Self> {
        Ok(Self {})
    }

    /// Replaces the cluster's names.
    pub fn update(&self, _state: DnsState) {}
}
