//! Host ports of pods.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::resource::is_sidecar;

/// The wildcard address, which covers every address of the node.
pub const ANY_ADDRESS: &str = "0.0.0.0";

/// A host port that a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Address; [`ANY_ADDRESS`] occupies the port on every address.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port number, at least 1.
    pub port: i32,
}

impl HostPort {
    /// Returns whether two pods with these ports cannot run on the same node.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ANY_ADDRESS || other.ip == ANY_ADDRESS)
    }
}

/// Returns the containers that run for the whole lifetime of the pod: the regular ones and the
/// sidecars.
pub fn long_running_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten();
    spec.containers
        .iter()
        .chain(sidecars.filter(|container| is_sidecar(container)))
}

/// Returns the host ports that a pod occupies.
///
/// With host networking these are all container ports, as API defaulting sets them.
pub fn host_ports(spec: &PodSpec) -> impl Iterator<Item = HostPort> {
    let host_network = spec.host_network == Some(true);
    long_running_containers(spec)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(move |port| {
            let number = port
                .host_port
                .or_else(|| host_network.then_some(port.container_port))
                .filter(|number| *number > 0)?;
            let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
            Some(HostPort {
                ip: ip.unwrap_or(ANY_ADDRESS).to_owned(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_owned(),
                port: number,
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn port(ip: &str, protocol: &str, port: i32) -> HostPort {
        HostPort {
            ip: ip.into(),
            protocol: protocol.into(),
            port,
        }
    }

    #[test]
    fn occupied_ports() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"},
                {"containerPort": 90},
            ]}],
            "initContainers": [
                {"name": "i", "ports": [{"containerPort": 1, "hostPort": 1}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 2, "hostPort": 2}]},
            ],
        }))
        .unwrap();
        let expected = [
            port(ANY_ADDRESS, "TCP", 8080),
            port("10.0.0.1", "UDP", 53),
            port(ANY_ADDRESS, "TCP", 2),
        ];
        assert_eq!(host_ports(&spec).collect::<Vec<_>>(), expected);
        let spec = PodSpec {
            host_network: Some(true),
            ..spec
        };
        assert_eq!(host_ports(&spec).count(), 4);
    }

    #[test]
    fn conflicts() {
        let any = port(ANY_ADDRESS, "TCP", 80);
        assert!(any.conflicts(&port("10.0.0.1", "TCP", 80)));
        assert!(port("10.0.0.1", "TCP", 80).conflicts(&any));
        assert!(!any.conflicts(&port(ANY_ADDRESS, "UDP", 80)));
        assert!(!any.conflicts(&port(ANY_ADDRESS, "TCP", 81)));
        assert!(!port("10.0.0.1", "TCP", 80).conflicts(&port("10.0.0.2", "TCP", 80)));
    }
}
