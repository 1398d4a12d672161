//! A container's environment.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ResourceFieldSelector;

use super::qos;
use crate::agent::Agent;
use crate::kinds::*;

/// Why an environment cannot be made; the container waits with `CreateContainerConfigError`.
pub(crate) type Problem = String;

/// Replaces `$(NAME)` by its value; `$$` stands for `$`, an unknown name for itself.
pub(crate) fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match value(name) {
                Some(v) => out.push_str(&v),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Variables that tell of services, in the form that links of Docker once had.
pub(crate) fn service_variables(service: &Service) -> Vec<(String, String)> {
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

/// Whether a name can be an environment variable: printable ASCII without `=`.
fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

/// What fields of the pod are, for `fieldRef`.
pub(crate) struct Fields<'a> {
    pub pod: &'a Pod,
    pub node_name: &'a str,
    pub node_ip: IpAddr,
    pub pod_ip: Option<IpAddr>,
}

impl Fields<'_> {
    /// The field at `path`, in upstream's forms.
    pub(crate) fn get(&self, path: &str) -> Result<String, Problem> {
        let pod = self.pod;
        let meta = &pod.metadata;
        if let Some((base, key)) = subscript(path) {
            let map = match base {
                "metadata.annotations" => meta.annotations.as_ref(),
                "metadata.labels" => meta.labels.as_ref(),
                _ => return Err(format!("fieldPath {path:?} does not support subscript")),
            };
            return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
        }
        Ok(match path {
            "metadata.name" => pod.name().into(),
            "metadata.namespace" => pod.namespace().into(),
            "metadata.uid" => pod.uid().into(),
            "metadata.labels" => format_map(meta.labels.as_ref()),
            "metadata.annotations" => format_map(meta.annotations.as_ref()),
            "spec.nodeName" => self.node_name.into(),
            "spec.serviceAccountName" => {
                pod.spec().service_account_name.clone().unwrap_or_default()
            }
            "spec.restartPolicy" => pod.restart_policy().into(),
            "spec.schedulerName" => pod.spec().scheduler_name.clone().unwrap_or_default(),
            "status.phase" => pod.api_phase().into(),
            "status.hostIP" | "status.hostIPs" => self.node_ip.to_string(),
            "status.podIP" | "status.podIPs" => {
                self.pod_ip.map(|ip| ip.to_string()).unwrap_or_default()
            }
            _ => return Err(format!("unsupported fieldPath: {path}")),
        })
    }
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (base, key) = path.split_once("['")?;
    Some((base, key.strip_suffix("']")?))
}

/// `key="value"` lines, sorted, values quoted as Go's `%q` does.
pub(crate) fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", quote(v)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef`; what is not limited is all that the node has.
pub(crate) fn resource_field(
    agent: &Agent,
    container: &Container,
    field: &ResourceFieldSelector,
) -> Result<String, Problem> {
    let a = crate::registration::allocatable(agent);
    let r = container.resources.as_ref();
    let (requests, limits) = (qos::requests(r), qos::limits(r));
    let storage = |list: Option<&BTreeMap<String, Quantity>>| {
        list.and_then(|l| l.get("ephemeral-storage"))
            .map(quantity_value)
    };
    let storage_limit = storage(r.and_then(|r| r.limits.as_ref()));
    let storage_request = storage(r.and_then(|r| r.requests.as_ref())).or(storage_limit);
    let divisor = field.divisor.as_ref().map_or(0, quantity_milli);
    let cpu = |millis: i64| divide(millis, if divisor == 0 { 1000 } else { divisor });
    let bytes = |value: i64| {
        let divisor = field.divisor.as_ref().map_or(1, quantity_value).max(1);
        divide(value, divisor)
    };
    let resource = field.resource.as_str();
    Ok(match resource {
        "limits.cpu" => cpu(limits.cpu.filter(|c| *c > 0).unwrap_or(a.cpu_millis)),
        "requests.cpu" => cpu(requests.cpu.unwrap_or(0)),
        "limits.memory" => bytes(limits.memory.filter(|m| *m > 0).unwrap_or(a.memory)),
        "requests.memory" => bytes(requests.memory.unwrap_or(0)),
        "limits.ephemeral-storage" => bytes(storage_limit.unwrap_or(a.storage)),
        "requests.ephemeral-storage" => bytes(storage_request.unwrap_or(0)),
        _ => {
            let huge = resource
                .split_once('.')
                .filter(|(_, n)| n.starts_with("hugepages-"));
            let Some((side, name)) = huge else {
                return Err(format!("unsupported container resource : {resource}"));
            };
            let list = match side {
                "limits" => r.and_then(|r| r.limits.as_ref()),
                _ => r.and_then(|r| r.requests.as_ref().or(r.limits.as_ref())),
            };
            bytes(list.and_then(|l| l.get(name)).map_or(0, quantity_value))
        }
    })
}

/// Division that rounds up.
fn divide(value: i64, divisor: i64) -> String {
    let quotient = value / divisor + i64::from(value % divisor > 0);
    quotient.to_string()
}

/// The whole environment, in the order that later wins, and the plain map for `$(VAR)`.
pub(crate) async fn environment(
    agent: &Agent,
    fields: &Fields<'_>,
    container: &Container,
    objects: &mut super::ObjectHold,
) -> Result<Vec<(String, String)>, Problem> {
    let pod = fields.pod;
    let namespace = pod.namespace();
    let mut result: Vec<(String, String)> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut set = |name: &str, value: String| match index.get(name) {
        Some(at) => result[*at].1 = value,
        None => {
            index.insert(name.to_owned(), result.len());
            result.push((name.to_owned(), value));
        }
    };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut add = |key: &str, value: String| {
            let name = format!("{prefix}{key}");
            if valid_name(&name) {
                set(&name, value);
            }
        };
        if let Some(reference) = &source.config_map_ref {
            match objects.config_map(agent, namespace, &reference.name).await {
                Some(map) => {
                    for (k, v) in map.data.iter().flatten() {
                        add(k, v.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        } else if let Some(reference) = &source.secret_ref {
            match objects.secret(agent, namespace, &reference.name).await {
                Some(secret) => {
                    for (k, v) in secret.data.iter().flatten() {
                        add(k, String::from_utf8_lossy(&v.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    let services: HashMap<String, String> =
        service_environment(agent, pod).await.into_iter().collect();
    let mut own: HashMap<String, String> = HashMap::new();
    for variable in container.env.iter().flatten() {
        let value = match variable.value_from.as_ref() {
            None => {
                let text = variable.value.as_deref().unwrap_or_default();
                Some(expand(text, |name| {
                    own.get(name).or_else(|| services.get(name)).cloned()
                }))
            }
            Some(source) => {
                if let Some(field) = &source.field_ref {
                    Some(fields.get(&field.field_path)?)
                } else if let Some(field) = &source.resource_field_ref {
                    let other = field
                        .container_name
                        .as_deref()
                        .and_then(|n| pod.container(n));
                    Some(resource_field(
                        agent,
                        other.as_deref().unwrap_or(container),
                        field,
                    )?)
                } else if let Some(key) = &source.config_map_key_ref {
                    config_map_key(agent, namespace, &key.name, &key.key, key.optional, objects)
                        .await?
                } else if let Some(key) = &source.secret_key_ref {
                    secret_key(agent, namespace, &key.name, &key.key, key.optional, objects).await?
                } else {
                    return Err(format!(
                        "environment variable {:?} has a source that this node does not know",
                        variable.name
                    ));
                }
            }
        };
        // An optional key that is not there leaves the variable out.
        if let Some(value) = value {
            own.insert(variable.name.clone(), value.clone());
            set(&variable.name, value);
        }
    }
    for (name, value) in service_environment(agent, pod).await {
        if !result.iter().any(|(n, _)| *n == name) {
            result.push((name, value));
        }
    }
    Ok(result)
}

async fn config_map_key(
    agent: &Agent,
    namespace: &str,
    name: &str,
    key: &str,
    optional: Option<bool>,
    objects: &mut super::ObjectHold,
) -> Result<Option<String>, Problem> {
    let optional = optional == Some(true);
    let Some(map) = objects.config_map(agent, namespace, name).await else {
        return if optional {
            Ok(None)
        } else {
            Err(format!("configmap {name:?} not found"))
        };
    };
    match map.data.as_ref().and_then(|d| d.get(key)) {
        Some(v) => Ok(Some(v.clone())),
        None if optional => Ok(None),
        None => Err(format!(
            "couldn't find key {key} in ConfigMap {namespace}/{name}"
        )),
    }
}

async fn secret_key(
    agent: &Agent,
    namespace: &str,
    name: &str,
    key: &str,
    optional: Option<bool>,
    objects: &mut super::ObjectHold,
) -> Result<Option<String>, Problem> {
    let optional = optional == Some(true);
    let Some(secret) = objects.secret(agent, namespace, name).await else {
        return if optional {
            Ok(None)
        } else {
            Err(format!("secret {name:?} not found"))
        };
    };
    match secret.data.as_ref().and_then(|d| d.get(key)) {
        Some(v) => Ok(Some(String::from_utf8_lossy(&v.0).into_owned())),
        None if optional => Ok(None),
        None => Err(format!(
            "couldn't find key {key} in Secret {namespace}/{name}"
        )),
    }
}

/// Variables of the namespace's services and of `kubernetes`; waits for the first list.
async fn service_environment(agent: &Agent, pod: &Pod) -> Vec<(String, String)> {
    let mut receiver = agent.services.subscribe();
    let Ok(services) = receiver.wait_for(Option::is_some).await.map(|s| s.clone()) else {
        return Vec::new();
    };
    let services = services.unwrap_or_default();
    let links = pod.spec().enable_service_links.unwrap_or(true);
    let mut wanted: BTreeMap<String, Arc<Service>> = BTreeMap::new();
    let name = |s: &Service| s.metadata.name.clone().unwrap_or_default();
    for service in services.get("default").into_iter().flatten() {
        if name(service) == "kubernetes" {
            wanted.insert(name(service), service.clone());
        }
    }
    if links {
        for service in services.get(pod.namespace()).into_iter().flatten() {
            wanted.insert(name(service), service.clone());
        }
    }
    wanted.values().flat_map(|s| service_variables(s)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
    use proptest::prelude::*;

    #[test]
    fn expands_as_upstream() {
        let v = |n: &str| (n == "A").then(|| "1".to_owned());
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("", ""),
        ] {
            assert_eq!(expand(text, v), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn expansion_takes_any_text(text in ".*") {
            let out = expand(&text, |_| None);
            prop_assert!(out.len() <= text.len());
        }
    }

    #[test]
    fn service_links() {
        let port = |name: Option<&str>, port| ServicePort {
            name: name.map(Into::into),
            port,
            ..Default::default()
        };
        let service = Service {
            metadata: ObjectMeta {
                name: Some("foo-bar".into()),
                ..Default::default()
            },
            spec: Some(ServiceSpec {
                cluster_ip: Some("10.96.0.1".into()),
                ports: Some(vec![port(Some("https-x"), 443)]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let vars: HashMap<_, _> = service_variables(&service).into_iter().collect();
        assert_eq!(vars["FOO_BAR_SERVICE_HOST"], "10.96.0.1");
        assert_eq!(vars["FOO_BAR_SERVICE_PORT"], "443");
        assert_eq!(vars["FOO_BAR_SERVICE_PORT_HTTPS_X"], "443");
        assert_eq!(vars["FOO_BAR_PORT"], "tcp://10.96.0.1:443");
        assert_eq!(vars["FOO_BAR_PORT_443_TCP_ADDR"], "10.96.0.1");
    }

    #[test]
    fn fields() {
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                labels: Some([("a".to_owned(), "x\"y".to_owned())].into()),
                ..Default::default()
            },
            ..Default::default()
        };
        let f = Fields {
            pod: &pod,
            node_name: "n",
            node_ip: [1, 2, 3, 4].into(),
            pod_ip: None,
        };
        assert_eq!(f.get("metadata.name").unwrap(), "p");
        assert_eq!(f.get("metadata.labels['a']").unwrap(), "x\"y");
        assert_eq!(f.get("metadata.labels").unwrap(), "a=\"x\\\"y\"");
        assert_eq!(f.get("status.hostIP").unwrap(), "1.2.3.4");
        assert!(f.get("spec.nothing").is_err());
        assert_eq!(divide(1500, 1000), "2");
    }
}
