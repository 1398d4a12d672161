//! Environment variables that describe services.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::watch;

use crate::kinds::*;
use crate::static_pods;

/// All services by namespace.
pub(crate) type ServiceEnv = Arc<HashMap<String, Vec<Arc<Service>>>>;
/// Receives the current services; `None` before their first list.
pub(crate) type ServiceEnvReceiver = watch::Receiver<Option<ServiceEnv>>;

/// Returns the service variables for a pod's containers. Waits for the first list of services, except
/// for static pods, which do not need the API.
pub(crate) async fn service_environment(
    services: &ServiceEnvReceiver,
    pod: &Pod,
) -> Vec<(String, String)> {
    let mut services = services.clone();
    if static_pods::is_static(pod) && services.borrow().is_none() {
        return Vec::new();
    }
    let Ok(services) = services.wait_for(Option::is_some).await.map(|s| s.clone()) else {
        return Vec::new();
    };
    let links = pod.spec().enable_service_links.unwrap_or(true);
    pod_variables(&services.unwrap_or_default(), pod.namespace(), links)
}

/// Returns the variables of service `default/kubernetes` and, with `links`, of all services in the
/// namespace.
///
/// A service `kubernetes` in the pod's own namespace takes precedence.
fn pod_variables(services: &ServiceEnv, namespace: &str, links: bool) -> Vec<(String, String)> {
    let in_namespace = |namespace: &str| services.get(namespace).into_iter().flatten();
    let name = |s: &Service| s.metadata.name.clone().unwrap_or_default();
    let mut wanted: BTreeMap<String, &Service> = BTreeMap::new();
    for service in in_namespace("default") {
        if name(service) == "kubernetes" {
            wanted.insert(name(service), service);
        }
    }
    if links {
        for service in in_namespace(namespace) {
            wanted.insert(name(service), service);
        }
    }
    wanted.values().flat_map(|s| service_variables(s)).collect()
}

/// Returns the variables of one service, in the form of Docker's container links. Empty for a
/// headless service.
fn service_variables(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let ip = match spec.cluster_ip.as_deref() {
        Some(ip) if !ip.is_empty() && ip != "None" => ip,
        _ => return Vec::new(),
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else {
        return Vec::new();
    };
    let upper = |s: &str| s.to_uppercase().replace('-', "_");
    let prefix = upper(service.metadata.name.as_deref().unwrap_or_default());
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    let mut vars = vec![
        (format!("{prefix}_SERVICE_HOST"), ip.to_owned()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            vars.push((
                format!("{prefix}_SERVICE_PORT_{}", upper(name)),
                port.port.to_string(),
            ));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if i == 0 {
            vars.push((format!("{prefix}_PORT"), url.clone()));
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        vars.push((link.clone(), url));
        vars.push((format!("{link}_PROTO"), protocol.to_lowercase()));
        vars.push((format!("{link}_PORT"), port.port.to_string()));
        vars.push((format!("{link}_ADDR"), ip.to_owned()));
    }
    vars
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};

    fn service(name: &str, ip: &str, ports: &[(Option<&str>, i32, Option<&str>)]) -> Service {
        Service {
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..Default::default()
            },
            spec: Some(ServiceSpec {
                cluster_ip: Some(ip.into()),
                ports: Some(
                    ports
                        .iter()
                        .map(|(name, port, protocol)| ServicePort {
                            name: name.map(Into::into),
                            port: *port,
                            protocol: protocol.map(Into::into),
                            ..Default::default()
                        })
                        .collect(),
                ),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Cases of upstream's `TestFromServices`.
    #[test]
    fn variables_are_upstreams() {
        let variables = |s: &Service| -> Vec<String> {
            service_variables(s)
                .into_iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect()
        };
        assert_eq!(
            variables(&service("foo-bar", "1.2.3.4", &[(None, 8080, Some("TCP"))])),
            [
                "FOO_BAR_SERVICE_HOST=1.2.3.4",
                "FOO_BAR_SERVICE_PORT=8080",
                "FOO_BAR_PORT=tcp://1.2.3.4:8080",
                "FOO_BAR_PORT_8080_TCP=tcp://1.2.3.4:8080",
                "FOO_BAR_PORT_8080_TCP_PROTO=tcp",
                "FOO_BAR_PORT_8080_TCP_PORT=8080",
                "FOO_BAR_PORT_8080_TCP_ADDR=1.2.3.4",
            ]
        );
        assert_eq!(
            variables(&service(
                "abc-123",
                "5.6.7.8",
                &[
                    (Some("u-d-p"), 8081, Some("UDP")),
                    (Some("t-c-p"), 8081, Some("TCP"))
                ]
            )),
            [
                "ABC_123_SERVICE_HOST=5.6.7.8",
                "ABC_123_SERVICE_PORT=8081",
                "ABC_123_SERVICE_PORT_U_D_P=8081",
                "ABC_123_SERVICE_PORT_T_C_P=8081",
                "ABC_123_PORT=udp://5.6.7.8:8081",
                "ABC_123_PORT_8081_UDP=udp://5.6.7.8:8081",
                "ABC_123_PORT_8081_UDP_PROTO=udp",
                "ABC_123_PORT_8081_UDP_PORT=8081",
                "ABC_123_PORT_8081_UDP_ADDR=5.6.7.8",
                "ABC_123_PORT_8081_TCP=tcp://5.6.7.8:8081",
                "ABC_123_PORT_8081_TCP_PROTO=tcp",
                "ABC_123_PORT_8081_TCP_PORT=8081",
                "ABC_123_PORT_8081_TCP_ADDR=5.6.7.8",
            ]
        );
        let v6 = variables(&service("super-ipv6", "2001:db8::1", &[(None, 8084, None)]));
        assert_eq!(v6[0], "SUPER_IPV6_SERVICE_HOST=2001:db8::1");
        assert_eq!(v6[2], "SUPER_IPV6_PORT=tcp://[2001:db8::1]:8084");
    }

    #[test]
    fn headless_services_have_no_variables() {
        for ip in ["", "None"] {
            assert!(service_variables(&service("s", ip, &[(None, 80, None)])).is_empty());
        }
        assert!(service_variables(&service("s", "1.2.3.4", &[])).is_empty());
        assert!(service_variables(&Service::default()).is_empty());
    }

    #[tokio::test]
    async fn links_are_the_namespaces_own() {
        let all = |names: &[(&str, &str)]| -> Vec<Arc<Service>> {
            names
                .iter()
                .map(|(name, ip)| Arc::new(service(name, ip, &[(None, 80, None)])))
                .collect()
        };
        let services: ServiceEnv = Arc::new(HashMap::from([
            (
                "default".to_owned(),
                all(&[("kubernetes", "10.0.0.1"), ("web", "10.0.0.2")]),
            ),
            ("ns".to_owned(), all(&[("db", "10.0.0.3")])),
        ]));
        let hosts = |namespace: &str, links: bool| -> Vec<String> {
            pod_variables(&services, namespace, links)
                .into_iter()
                .filter(|(k, _)| k.ends_with("_SERVICE_HOST"))
                .map(|(_, v)| v)
                .collect()
        };
        assert_eq!(hosts("ns", true), ["10.0.0.3", "10.0.0.1"]);
        assert_eq!(hosts("ns", false), ["10.0.0.1"]);
        assert_eq!(hosts("default", true), ["10.0.0.1", "10.0.0.2"]);

        let (sender, receiver) = watch::channel(None);
        let pod = Pod::default();
        let waits = service_environment(&receiver, &pod);
        sender.send_replace(Some(services.clone()));
        assert_eq!(waits.await.len(), 7, "the variables of kubernetes");
    }
}
