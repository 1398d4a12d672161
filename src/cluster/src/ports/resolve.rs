//! The way from this machine to a port's target.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use rkube_drivers::NodeState;

use super::spec::{PortForward, PortTarget};
use crate::access;
use crate::files::Home;
use crate::profile::Profile;

/// The time that the API server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A way to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// This machine reaches the address.
    Direct(SocketAddr),
    /// A node reaches the address, over SSH.
    Ssh(SocketAddr),
}

/// Why there is no way to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoWay {
    /// The target does not exist. A way from before may lead to another one by now.
    Gone(String),
    /// The cluster does not say what the target is at the moment.
    Unknown(String),
}

/// Finds ways during one look at the cluster, and asks for everything once.
pub(super) struct Finder<'a> {
    home: &'a Home,
    profile: &'a Profile,
    /// Whether this machine reaches the nodes' addresses.
    routable: Result<bool, NoWay>,
    client: Option<Result<kube::Client, NoWay>>,
    /// By namespace and name.
    services: BTreeMap<(String, String), Result<Service, NoWay>>,
    /// The address of the first node that runs.
    node: Option<Ipv4Addr>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(home: &'a Home, profile: &'a Profile) -> Self {
        let endpoints = access::endpoints(home, profile);
        Self {
            home,
            profile,
            routable: endpoints
                .map(|endpoints| endpoints.routable)
                .map_err(|e| NoWay::Unknown(e.message)),
            client: None,
            services: BTreeMap::new(),
            node: None,
        }
    }

    /// Finds the way to a port's target.
    ///
    /// # Errors
    /// Fails if there is none, or if that is not known.
    pub(super) async fn way(&mut self, port: &PortForward) -> Result<Way, NoWay> {
        let routable = self.routable.clone()?;
        match &port.to {
            PortTarget::Node(name) => {
                let node = self.profile.nodes.iter().find(|node| node.name == *name);
                let node =
                    node.ok_or_else(|| NoWay::Gone(format!("the node {name} does not exist")))?;
                to_node(SocketAddr::from((node.ip, port.port)), routable, port.udp)
                    .map_err(NoWay::Gone)
            }
            PortTarget::Service { namespace, name } => {
                let service = self.service(namespace, name).await?;
                let node = match routable {
                    true => self.running_node().await,
                    false => self.profile.control_plane().ip,
                };
                to_service(&service, self.profile, node, routable, port).map_err(NoWay::Gone)
            }
        }
    }

    async fn service(&mut self, namespace: &str, name: &str) -> Result<Service, NoWay> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(found) = self.services.get(&key) {
            return found.clone();
        }
        if self.client.is_none() {
            let client = access::client(self.home, self.profile).await;
            self.client = Some(client.map_err(|e| NoWay::Unknown(e.message)));
        }
        let found = match &self.client {
            Some(Ok(client)) => get(client.clone(), namespace, name).await,
            Some(Err(why)) => Err(why.clone()),
            None => Err(NoWay::Unknown("there is no API client".to_owned())),
        };
        // A server that does not answer is not asked for the other services in this look.
        if let Err(why @ NoWay::Unknown(_)) = &found {
            self.client = Some(Err(why.clone()));
        }
        self.services.insert(key, found.clone());
        found
    }

    /// Returns the address of the first node that runs; of the first one if that is not known.
    async fn running_node(&mut self) -> Ipv4Addr {
        if let Some(node) = self.node {
            return node;
        }
        let nodes = &self.profile.nodes;
        let mut found = self.profile.control_plane().ip;
        if nodes.len() > 1
            && let Ok(driver) = rkube_drivers::by_name(&self.profile.driver)
            && let Ok(states) = driver.states(&self.profile.plan(self.home)).await
            && let Some((node, _)) = nodes
                .iter()
                .zip(states)
                .find(|(_, state)| *state == NodeState::Running)
        {
            found = node.ip;
        }
        self.node = Some(found);
        found
    }
}

async fn get(client: kube::Client, namespace: &str, name: &str) -> Result<Service, NoWay> {
    let services: Api<Service> = Api::namespaced(client, namespace);
    match tokio::time::timeout(TIMEOUT, services.get(name)).await {
        Ok(found) => found.map_err(|e| no_way(&e)),
        Err(_) => Err(NoWay::Unknown("the API server does not answer".to_owned())),
    }
}

/// Tells a service that is not there from a server that cannot say so at the moment.
fn no_way(error: &kube::Error) -> NoWay {
    match error {
        kube::Error::Api(status) if status.code == 404 => NoWay::Gone(status.message.clone()),
        kube::Error::Api(status) => NoWay::Unknown(status.message.clone()),
        other => NoWay::Unknown(other.to_string()),
    }
}

fn to_node(address: SocketAddr, routable: bool, udp: bool) -> Result<Way, String> {
    match (routable, udp) {
        (true, _) => Ok(Way::Direct(address)),
        (false, false) => Ok(Way::Ssh(address)),
        (false, true) => Err(
            "this machine has no route to the nodes, and SSH carries no UDP; use rkube start --ports"
                .to_owned(),
        ),
    }
}

fn to_service(
    service: &Service,
    profile: &Profile,
    node: Ipv4Addr,
    routable: bool,
    port: &PortForward,
) -> Result<Way, String> {
    let spec = service.spec.clone().unwrap_or_default();
    let protocol = if port.udp { "UDP" } else { "TCP" };
    let mut ports = spec.ports.iter().flatten();
    let found = ports.find(|own| {
        own.port == i32::from(port.port) && own.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    let Some(found) = found else {
        return Err(format!("the service has no port {}/{protocol}", port.port));
    };
    let status = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let ingress = status
        .iter()
        .flat_map(|status| status.ingress.iter().flatten());
    let balancer = ingress
        .filter_map(|ingress| ingress.ip.as_deref()?.parse::<IpAddr>().ok())
        .find(|ip| matches!(ip, IpAddr::V4(ip) if profile.node_cidr.contains(ip)));
    if let Some(ip) = balancer.filter(|_| routable) {
        return Ok(Way::Direct(SocketAddr::new(ip, port.port)));
    }
    let node_port = found.node_port.and_then(|port| u16::try_from(port).ok());
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    if let Some(node_port) = node_port.filter(|_| routable && !local) {
        return Ok(Way::Direct(SocketAddr::from((node, node_port))));
    }
    if port.udp {
        return Err("UDP needs a service with a node port or a load balancer's address, and a route to the nodes".to_owned());
    }
    let cluster_ip = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok());
    let cluster_ip = cluster_ip.ok_or("the service has no cluster IP")?;
    Ok(Way::Ssh(SocketAddr::new(cluster_ip, port.port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16) -> kube::Error {
        let status =
            serde_json::json!({"code": code, "message": "no", "reason": "", "status": "Failure"});
        kube::Error::Api(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn an_outage_is_told_from_a_target_that_is_gone() {
        assert_eq!(no_way(&api(404)), NoWay::Gone("no".into()));
        for code in [401, 403, 429, 500, 503] {
            assert_eq!(no_way(&api(code)), NoWay::Unknown("no".into()), "{code}");
        }
    }
}
