//! Addresses of nodes, pods and services.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use rkube_api::status::{FieldError, Status};
use rkube_api::{GroupKind, GroupResource, Object, meta};
use serde_json::Value;

use super::target::Target;
use super::transport::Trust;
use crate::cache::Cache;
use rkube_request::RequestInfo;

/// Returns a cached object of the core group.
///
/// # Errors
///
/// 404 if it does not exist.
fn get(cache: &Cache, resource: &str, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
    cache
        .existing("", resource)
        .and_then(|cache| cache.get(namespace, name))
        .map(|object| object.tree())
        .ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))
}

/// Returns a pod from the cache.
///
/// # Errors
///
/// 404 if it does not exist.
pub fn get_pod(cache: &Cache, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
    get(cache, "pods", namespace, name)
}

fn strings<'a>(value: &'a Value, list: &str, field: &str) -> Vec<&'a str> {
    value[list]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item[field].as_str())
        .collect()
}

/// Returns the container that a request names, or the pod's only container.
pub fn container(pod: &Object, info: &RequestInfo) -> Result<String, Status> {
    let spec = &pod["spec"];
    let containers = strings(spec, "containers", "name");
    let init = strings(spec, "initContainers", "name");
    let ephemeral = strings(spec, "ephemeralContainers", "name");
    let name = meta::name(pod);
    match info.query.non_empty("container") {
        Some(container)
            if containers
                .iter()
                .chain(&init)
                .chain(&ephemeral)
                .any(|c| *c == container) =>
        {
            Ok(container.to_owned())
        }
        Some(container) => Err(Status::bad_request(format!(
            "container {container} is not valid for pod {name}"
        ))),
        None if containers.len() == 1 => Ok(containers[0].to_owned()),
        None if containers.is_empty() => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}"
        ))),
        None => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                containers.join(" ")
            );
            if !init.is_empty() {
                message += &format!(" or one of the init containers: [{}]", init.join(" "));
            }
            if !ephemeral.is_empty() {
                message += &format!(
                    " or one of the ephemeral containers: [{}]",
                    ephemeral.join(" ")
                );
            }
            Err(Status::bad_request(message))
        }
    }
}

/// Validates the parameters of a log request.
pub fn validate_log_options(info: &RequestInfo) -> Result<(), Status> {
    let mut errors = Vec::new();
    let mut number = |field: &str, least: i64| {
        let Some(text) = info.query.non_empty(field) else {
            return Ok(());
        };
        match text.parse::<i64>() {
            Ok(value) if value >= least => {}
            Ok(value) => {
                let detail = if least == 0 {
                    "must be greater than or equal to 0"
                } else {
                    "must be greater than 0"
                };
                errors.push(FieldError::invalid(field, value, detail));
            }
            Err(_) => {
                let text = rkube_api::text::quote(text);
                return Err(Status::bad_request(format!(
                    "strconv.ParseInt: parsing {text}: invalid syntax"
                )));
            }
        }
        Ok(())
    };
    number("tailLines", 0)?;
    number("limitBytes", 1)?;
    number("sinceSeconds", 1)?;
    if info.query.non_empty("sinceSeconds").is_some() && info.query.non_empty("sinceTime").is_some()
    {
        errors.push(FieldError::forbidden(
            "",
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(
        &GroupKind::new("", "PodLogOptions"),
        &info.name,
        errors,
    ))
}

/// Returns an endpoint of the agent on the pod's node.
pub fn agent_of_pod(
    cache: &Cache,
    pod: &Object,
    path: &str,
    query: &str,
) -> Result<Target, Status> {
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) else {
        return Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            meta::name(pod)
        )));
    };
    let node = get(cache, "nodes", "", node)?;
    let (address, port) = agent_address(&node)?;
    let separator = if query.is_empty() { "" } else { "?" };
    Ok(Target {
        scheme: "https",
        authority: host_port(&address, port),
        path_and_query: format!("{path}{separator}{query}"),
        trust: Trust::Cluster,
    })
}

/// Returns a page of a node's agent.
///
/// # Errors
///
/// 500 if the node has no address, 400 if its address may not be the target of a proxy.
pub async fn agent_of_node(node: &Object, path: &str) -> Result<Target, Status> {
    let (address, port) = agent_address(node)?;
    check_host(&address).await?;
    Ok(Target {
        scheme: "https",
        authority: host_port(&address, port),
        path_and_query: path.to_owned(),
        trust: Trust::Cluster,
    })
}

fn agent_address(node: &Object) -> Result<(String, u64), Status> {
    let addresses = node["status"]["addresses"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let address = ["InternalIP", "ExternalIP", "Hostname"]
        .iter()
        .find_map(|kind| addresses.iter().find(|a| a["type"] == *kind)?["address"].as_str())
        .ok_or_else(|| {
            Status::internal(format!(
                "no preferred addresses found for node {}",
                meta::name(node)
            ))
        })?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .filter(|p| *p != 0);
    Ok((address.to_owned(), port.unwrap_or(10250)))
}

/// Returns whether an address may be the target of a proxy: upstream's `IsProxyableIP`.
///
/// Nodes and pods report their own addresses. Without this check they could direct the API server's
/// requests at itself or at services of its host.
fn is_proxyable(address: IpAddr) -> bool {
    let link_local = |address: &Ipv6Addr| address.segments()[0] & 0xffc0 == 0xfe80;
    !match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || link_local(&v6)
        }
    }
}

fn not_allowed() -> Status {
    Status::bad_request("address not allowed")
}

/// Checks an address that must be an IP address.
fn check_ip(address: &str) -> Result<(), Status> {
    match address.parse() {
        Ok(ip) if is_proxyable(ip) => Ok(()),
        _ => Err(not_allowed()),
    }
}

/// Checks every address of a host name or IP address.
async fn check_host(host: &str) -> Result<(), Status> {
    if host.parse::<IpAddr>().is_ok() {
        return check_ip(host);
    }
    let mut found = tokio::net::lookup_host((host, 0))
        .await
        .map_err(|e| Status::bad_request(format!("lookup {host}: {e}")))?
        .peekable();
    if found.peek().is_none() {
        return Err(Status::bad_request("no addresses for hostname"));
    }
    match found.all(|address| is_proxyable(address.ip())) {
        true => Ok(()),
        false => Err(not_allowed()),
    }
}

/// Joins host and port for a URL; brackets IPv6 addresses.
pub fn host_port(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Splits `[scheme:]name[:port]` into scheme, name and port.
fn split_name(name: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [name] => Some(("", name, "")),
        [name, port] => Some(("", name, port)),
        [scheme @ ("" | "http" | "https"), name, port] => Some((scheme, name, port)),
        _ => None,
    }
}

fn rest(info: &RequestInfo) -> String {
    let query = info.query.encoded();
    let path = if info.rest.is_empty() {
        "/"
    } else {
        &info.rest
    };
    format!("{path}{}{query}", if query.is_empty() { "" } else { "?" })
}

/// Returns the target of a node proxy request: the node agent, or another port of the node.
///
/// # Errors
///
/// 400 for an invalid name, and if the node's address may not be the target of a proxy; 404 if the
/// node does not exist.
pub async fn node(cache: &Cache, info: &RequestInfo) -> Result<Target, Status> {
    let invalid = || Status::bad_request(format!("invalid node request {:?}", info.name));
    let (scheme, name, port) = split_name(&info.name).ok_or_else(invalid)?;
    let node = get(cache, "nodes", "", name)?;
    let (address, agent_port) = agent_address(&node)?;
    check_host(&address).await?;
    if port.is_empty() || port == agent_port.to_string() {
        return Ok(Target {
            scheme: "https",
            authority: host_port(&address, agent_port),
            path_and_query: rest(info),
            trust: Trust::Cluster,
        });
    }
    let port: u16 = port.parse().map_err(|_| invalid())?;
    Ok(Target {
        scheme: if scheme == "https" { "https" } else { "http" },
        authority: host_port(&address, port),
        path_and_query: rest(info),
        trust: Trust::Anyone,
    })
}

/// Returns the target of a pod proxy request. Without a port, uses the pod's first declared one.
pub fn pod(cache: &Cache, info: &RequestInfo) -> Result<Target, Status> {
    let (scheme, name, port) = split_name(&info.name)
        .ok_or_else(|| Status::bad_request(format!("invalid pod request {:?}", info.name)))?;
    let pod = get_pod(cache, &info.namespace, name)?;
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    check_ip(address)?;
    let declared = || {
        let containers = pod["spec"]["containers"].as_array()?;
        containers.iter().find_map(|c| {
            c["ports"]
                .as_array()?
                .iter()
                .find_map(|p| p["containerPort"].as_u64())
        })
    };
    let port = if port.is_empty() {
        declared().map(|p| p.to_string())
    } else {
        Some(port.to_owned())
    };
    let authority = match port {
        Some(port) => {
            let port: u16 = port
                .parse()
                .map_err(|_| Status::bad_request(format!("invalid pod request {:?}", info.name)))?;
            host_port(address, port)
        }
        None if address.contains(':') => format!("[{address}]"),
        None => address.to_owned(),
    };
    Ok(Target {
        scheme: if scheme == "https" { "https" } else { "http" },
        authority,
        path_and_query: rest(info),
        trust: Trust::Anyone,
    })
}

/// Returns the target of a service proxy request: a random ready endpoint that is a pod.
pub fn service(cache: &Cache, info: &RequestInfo) -> Result<Target, Status> {
    let (scheme, name, port) = split_name(&info.name)
        .ok_or_else(|| Status::bad_request(format!("invalid service request {:?}", info.name)))?;
    Ok(Target {
        scheme: if scheme == "https" { "https" } else { "http" },
        authority: service_endpoint(cache, &info.namespace, name, port, EndpointScope::Pods)?,
        path_and_query: rest(info),
        trust: Trust::Anyone,
    })
}

/// Returns the address of a service that the API server itself calls, for webhooks and
/// `APIService`s. This is a random ready endpoint, or the external name of an `ExternalName`
/// service.
pub fn service_address(
    cache: &Cache,
    namespace: &str,
    name: &str,
    port: u64,
) -> Result<String, Status> {
    let service = get(cache, "services", namespace, name)?;
    match service["spec"]["externalName"].as_str() {
        Some(host) if service["spec"]["type"] == "ExternalName" => Ok(host_port(host, port)),
        _ => service_endpoint(
            cache,
            namespace,
            name,
            &port.to_string(),
            EndpointScope::Anything,
        ),
    }
}

/// The endpoints of a service that may be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EndpointScope {
    /// All of them: the service was chosen by a user who may configure webhooks or `APIService`s.
    Anything,
    /// Only addresses of existing pods of the namespace, as in upstream's service proxy: users may
    /// write slices with any address.
    Pods,
}

/// Returns whether the address of an endpoint is one of the pod that it refers to.
fn is_of_pod(cache: &Cache, namespace: &str, endpoint: &Value, address: &str) -> bool {
    let target = &endpoint["targetRef"];
    if target["namespace"].as_str() != Some(namespace) {
        return false;
    }
    let name = target["name"].as_str().unwrap_or_default();
    let Ok(pod) = get_pod(cache, namespace, name) else {
        return false;
    };
    strings(&pod["status"], "podIPs", "ip").contains(&address) && check_ip(address).is_ok()
}

/// Returns the port that a slice has for a service port's name.
fn port_of_slice(slice: &Object, name: &str) -> Option<u64> {
    let mut ports = slice["ports"].as_array()?.iter();
    ports.find(|p| p["name"].as_str().unwrap_or_default() == name)?["port"].as_u64()
}

/// Returns address and port of a random ready endpoint. `port` is a number or a name of a service
/// port, or empty for the only one.
fn service_endpoint(
    cache: &Cache,
    namespace: &str,
    name: &str,
    port: &str,
    reach: EndpointScope,
) -> Result<String, Status> {
    let service = get(cache, "services", namespace, name)?;
    let ports = service["spec"]["ports"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let chosen = match port {
        "" if ports.len() == 1 => ports.first(),
        "" => ports
            .iter()
            .find(|p| p["name"].as_str().unwrap_or_default().is_empty()),
        port => match port.parse::<u64>() {
            Ok(number) => ports.iter().find(|p| p["port"].as_u64() == Some(number)),
            Err(_) => ports.iter().find(|p| p["name"].as_str() == Some(port)),
        },
    };
    let Some(chosen) = chosen else {
        return Err(Status::service_unavailable(format!(
            "no service port {port:?} found for service {name:?}"
        )));
    };
    let port_name = chosen["name"].as_str().unwrap_or_default();
    let mut candidates = Vec::new();
    if let Some(slices) = cache.existing("discovery.k8s.io", "endpointslices") {
        let in_namespace = crate::cache::Filter::new(Some(namespace.to_owned()), None, None, None);
        for slice in slices.list(&in_namespace) {
            if slice.label("kubernetes.io/service-name") != Some(name) {
                continue;
            }
            let slice = slice.tree();
            let Some(port) = port_of_slice(&slice, port_name) else {
                continue;
            };
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let ready = endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
                let Some(address) = endpoint["addresses"][0].as_str().filter(|_| ready) else {
                    continue;
                };
                if reach == EndpointScope::Anything
                    || is_of_pod(cache, namespace, endpoint, address)
                {
                    candidates.push(host_port(address, port));
                }
            }
        }
    }
    if candidates.is_empty() {
        return Err(Status::service_unavailable(format!(
            "no endpoints available for service {name:?}"
        )));
    }
    let chosen = rand::random_range(0..candidates.len());
    Ok(candidates.swap_remove(chosen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_carry_scheme_and_port() {
        assert_eq!(split_name("a"), Some(("", "a", "")));
        assert_eq!(split_name("a:80"), Some(("", "a", "80")));
        assert_eq!(split_name("https:a:443"), Some(("https", "a", "443")));
        assert_eq!(split_name("https:a:"), Some(("https", "a", "")));
        assert_eq!(split_name("ftp:a:1"), None);
    }

    #[test]
    fn only_global_addresses_are_proxied_to() {
        for refused in [
            "127.0.0.1",
            "127.8.9.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "239.1.2.3",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "",
            "localhost",
            "127.1",
        ] {
            let status = check_ip(refused).unwrap_err();
            assert_eq!(
                (status.code, &*status.message),
                (400, "address not allowed")
            );
        }
        for allowed in [
            "10.244.0.3",
            "192.168.49.2",
            "8.8.8.8",
            "fd00::2",
            "2001:db8::1",
        ] {
            assert!(check_ip(allowed).is_ok(), "{allowed}");
        }
    }

    #[tokio::test]
    async fn host_names_are_resolved() {
        assert_eq!(
            check_host("localhost").await.unwrap_err().message,
            "address not allowed"
        );
        assert!(check_host("10.1.2.3").await.is_ok());
        let missing = check_host("none.invalid").await.unwrap_err();
        assert_eq!(missing.code, 400);
    }

    #[test]
    fn addresses_are_joined_with_ports() {
        assert_eq!(host_port("10.1.2.3", 80), "10.1.2.3:80");
        assert_eq!(host_port("fd00::2", 80), "[fd00::2]:80");
    }

    #[test]
    fn a_container_must_be_named_when_there_are_several() {
        let info = RequestInfo::parse(&http::Method::GET, "/api/v1/namespaces/n/pods/p/log", "");
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(container(&one, &info).unwrap(), "a");
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            container(&two, &info).unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
    }
}
