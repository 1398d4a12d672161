//! Ports of this machine that lead to services and pods.

use std::str::FromStr;

use k8s_openapi::api::core::v1::{Pod, Service};

/// What a port leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A service.
    Service,
    /// A deployment.
    Deployment,
    /// A stateful set.
    StatefulSet,
    /// A daemon set.
    DaemonSet,
    /// A pod.
    Pod,
}

impl Kind {
    /// Returns the kind as manifests name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Pod => "Pod",
        }
    }
}

/// A port that is forwarded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forwarded {
    /// The kind of the target.
    pub kind: Kind,
    /// The name of the target.
    pub name: String,
    /// The namespace of the target, unless it is that of the session.
    pub namespace: Option<String>,
    /// The port of this machine, if the user wants a certain one.
    pub local: Option<u16>,
    /// The port of the target, by number or name.
    pub remote: String,
}

impl FromStr for Forwarded {
    type Err = String;

    /// Reads `KIND/NAME:[LOCAL:]PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not KIND/NAME:[LOCAL:]PORT, such as svc/app:8080:80");
        let (target, ports) = text.split_once(':').ok_or_else(wrong)?;
        let (kind, name) = target.split_once('/').ok_or_else(wrong)?;
        let kind = match kind.to_ascii_lowercase().as_str() {
            "svc" | "service" | "services" => Kind::Service,
            "deploy" | "deployment" | "deployments" => Kind::Deployment,
            "sts" | "statefulset" | "statefulsets" => Kind::StatefulSet,
            "ds" | "daemonset" | "daemonsets" => Kind::DaemonSet,
            "po" | "pod" | "pods" => Kind::Pod,
            other => {
                return Err(format!(
                    "'{text}': ports of '{other}' cannot be forwarded; use svc, deployment, statefulset, daemonset or pod"
                ));
            }
        };
        let (local, remote) = match ports.split_once(':') {
            Some((local, remote)) => (Some(local), remote),
            None => (None, ports),
        };
        if name.is_empty() || remote.is_empty() || remote.contains(':') {
            return Err(wrong());
        }
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        if remote.bytes().all(|b| b.is_ascii_digit()) && number(remote).is_none() {
            return Err(format!("'{text}': '{remote}' is not a port"));
        }
        let local = match local {
            Some(local) => {
                Some(number(local).ok_or_else(|| format!("'{text}': '{local}' is not a port"))?)
            }
            None => None,
        };
        Ok(Self {
            kind,
            name: name.to_owned(),
            namespace: None,
            local,
            remote: remote.to_owned(),
        })
    }
}

/// Returns the ports of this machine to try for a port of a target, the best first. Zero stands for
/// any free port. Ports below 1024 need root, so 80 becomes 8080 and 443 becomes 8443.
pub fn candidates(remote: u16) -> [u16; 2] {
    match remote {
        80 => [8080, 0],
        0..1024 => [8000 + remote, 0],
        _ => [remote, 0],
    }
}

/// Returns a service's port by number or name.
pub fn of_service(service: &Service, wanted: &str) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.iter().flatten();
    let mut ports = ports
        .filter(|port| port.port.to_string() == wanted || port.name.as_deref() == Some(wanted));
    u16::try_from(ports.next()?.port).ok()
}

/// Returns the port of a pod that one of its containers gives a name.
pub fn of_pod(pod: &Pod, name: &str) -> Option<u16> {
    let containers = pod.spec.as_ref()?.containers.iter();
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let found = ports.find(|port| port.name.as_deref() == Some(name))?;
    u16::try_from(found.container_port).ok()
}

/// Returns the TCP ports of a service, as they are forwarded by default.
pub fn all_of(service: &Service) -> Vec<Forwarded> {
    let tcp = |protocol: &Option<String>| protocol.as_deref().is_none_or(|p| p == "TCP");
    let spec = service.spec.iter();
    let external = |kind: &Option<String>| kind.as_deref() == Some("ExternalName");
    let ports = spec.filter(|spec| !external(&spec.type_));
    let ports = ports.flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter(|port| tcp(&port.protocol))
        .map(|port| Forwarded {
            kind: Kind::Service,
            name: service.metadata.name.clone().unwrap_or_default(),
            namespace: service.metadata.namespace.clone(),
            local: None,
            remote: port.port.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_or_refused() {
        let read = |text: &str| text.parse::<Forwarded>();
        let port = read("svc/app:8080:80").unwrap();
        assert_eq!((port.kind, port.name.as_str()), (Kind::Service, "app"));
        assert_eq!((port.local, port.remote.as_str()), (Some(8080), "80"));
        let port = read("Deployment/app:http").unwrap();
        assert_eq!((port.local, port.remote.as_str()), (None, "http"));
        for (text, part) in [
            ("app:80", "is not KIND/NAME"),
            ("svc/app", "is not KIND/NAME"),
            ("svc/:80", "is not KIND/NAME"),
            ("svc/app:1:2:3", "is not KIND/NAME"),
            ("svc/app:0:80", "'0' is not a port"),
            ("svc/app:x:80", "'x' is not a port"),
            ("svc/app:99999", "'99999' is not a port"),
            ("job/app:80", "ports of 'job' cannot be forwarded"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn privileged_ports_move_up() {
        assert_eq!(candidates(80), [8080, 0]);
        assert_eq!(candidates(443), [8443, 0]);
        assert_eq!(candidates(3000), [3000, 0]);
    }

    #[test]
    fn services_have_the_ports_that_tcp_reaches() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "namespace": "n"},
            "spec": {"ports": [{"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP"}]},
        }))
        .unwrap();
        let all = all_of(&service);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].remote, "80");
        assert_eq!(of_service(&service, "http"), Some(80));
        assert_eq!(of_service(&service, "80"), Some(80));
        assert_eq!(of_service(&service, "81"), None);
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [
            {"name": "a"}, {"name": "b", "ports": [{"name": "web", "containerPort": 8000}]},
        ]}}))
        .unwrap();
        assert_eq!(of_pod(&pod, "web"), Some(8000));
        assert_eq!(of_pod(&pod, "other"), None);
    }
}
