//! A container's environment.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, ResourceFieldSelector,
};
use rkube_api::text::quote;

mod file;

use super::object_hold::ObjectHold;
use super::qos;
use crate::allocatable::Allocatable;
use crate::kinds::*;
use crate::service_env::{ServiceEnvReceiver, service_environment};
use crate::volumes::Mounted;

/// Error message about an environment; the container waits with `CreateContainerConfigError`.
pub(crate) type Problem = String;

/// Replaces each `$(NAME)` with its value.
///
/// `$$` becomes `$`; references to unknown names are left unchanged.
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

/// Returns whether a name is valid for an environment variable: printable ASCII without `=`.
fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

/// Source of the pod fields that a `fieldRef` can select.
pub(crate) struct Fields<'a> {
    pub pod: &'a Pod,
    pub node_name: &'a str,
    /// The node's addresses, in the order of the families.
    pub node_ips: Vec<IpAddr>,
    /// The pod's addresses, in the same order; none before it has any.
    pub pod_ips: Vec<IpAddr>,
}

impl Fields<'_> {
    /// Returns the value of the field at `path`, formatted as upstream does.
    ///
    /// # Errors
    ///
    /// Fails for a path that `fieldRef` does not support.
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
            "status.hostIP" => join(self.node_ips.get(..1).unwrap_or_default()),
            "status.hostIPs" => join(&self.node_ips),
            "status.podIP" => join(self.pod_ips.get(..1).unwrap_or_default()),
            "status.podIPs" => join(&self.pod_ips),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        })
    }
}

fn join(ips: &[IpAddr]) -> String {
    let texts: Vec<String> = ips.iter().map(ToString::to_string).collect();
    texts.join(",")
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (base, key) = path.split_once("['")?;
    Some((base, key.strip_suffix("']")?))
}

/// Formats a map as sorted `key="value"` lines, with values quoted like Go's `%q`.
pub(crate) fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", quote(v)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Returns the value of a `resourceFieldRef`.
///
/// A missing limit defaults to the pod's own one, or else to the node's allocatable amount.
///
/// # Errors
///
/// Fails for an unknown resource.
pub(crate) fn resource_field(
    node: &Allocatable,
    pod: &Pod,
    container: &Container,
    field: &ResourceFieldSelector,
) -> Result<String, Problem> {
    let r = container.resources.as_ref();
    let (requests, limits) = (qos::requests(r), qos::limits(r));
    let of_pod = qos::limits(pod.spec().resources.as_ref());
    let limit = |own: Option<i64>, of_pod: Option<i64>, node: i64| {
        let set = |amount: &i64| *amount > 0;
        own.filter(set).or(of_pod.filter(set)).unwrap_or(node)
    };
    let storage = |list: Option<&BTreeMap<String, Quantity>>| {
        list.and_then(|l| l.get("ephemeral-storage"))
            .map(quantity_value)
    };
    let storage_limit = storage(r.and_then(|r| r.limits.as_ref()));
    let storage_request = storage(r.and_then(|r| r.requests.as_ref())).or(storage_limit);
    let divisor = field.divisor.as_ref().map_or(0, quantity_milli);
    let cpu = |millis: i64| divide_up(millis, if divisor == 0 { 1000 } else { divisor });
    let bytes = |value: i64| {
        let divisor = field.divisor.as_ref().map_or(1, quantity_value).max(1);
        divide_up(value, divisor)
    };
    let resource = field.resource.as_str();
    Ok(match resource {
        "limits.cpu" => cpu(limit(limits.cpu, of_pod.cpu, node.cpu_millis)),
        "requests.cpu" => cpu(requests.cpu.unwrap_or(0)),
        "limits.memory" => bytes(limit(limits.memory, of_pod.memory, node.memory)),
        "requests.memory" => bytes(requests.memory.unwrap_or(0)),
        "limits.ephemeral-storage" => bytes(storage_limit.unwrap_or(node.storage)),
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

/// Divides, rounds up and formats the quotient.
fn divide_up(value: i64, divisor: i64) -> String {
    let quotient = value / divisor + i64::from(value % divisor > 0);
    quotient.to_string()
}

/// Inputs for a container's environment besides its specification.
pub(crate) struct EnvSources<'a> {
    pub fields: Fields<'a>,
    pub node: &'a Allocatable,
    pub services: &'a ServiceEnvReceiver,
    pub volumes: &'a Mounted,
}

/// Variables in the order of their first definition; a later definition replaces the value.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(at) => self.list[*at].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }

    /// Returns the value of a variable.
    fn get(&self, name: &str) -> Option<&str> {
        let at = *self.index.get(name)?;
        Some(self.list[at].1.as_str())
    }

    /// Replaces each `$(NAME)` with the value of an earlier variable, of `envFrom` too, or else of a
    /// service's variable.
    fn expand(&self, text: &str, services: &HashMap<&str, &str>) -> String {
        expand(text, |name| {
            let service = || services.get(name).copied();
            self.get(name).or_else(service).map(str::to_owned)
        })
    }

    /// Sets a variable unless it is already defined.
    fn set_default(&mut self, name: String, value: String) {
        if !self.index.contains_key(&name) {
            self.set(&name, value);
        }
    }
}

/// Returns the environment of a container, as names and values.
///
/// # Errors
///
/// Fails when a referenced object or key is missing and not optional. The message becomes the
/// waiting message of the container.
pub(crate) async fn environment(
    sources: &EnvSources<'_>,
    container: &Container,
    objects: &mut ObjectHold,
) -> Result<Vec<(String, String)>, Problem> {
    let pod = sources.fields.pod;
    let mut variables = Variables::default();
    for source in container.env_from.iter().flatten() {
        add_all(&mut variables, source, objects).await?;
    }
    let services = service_environment(sources.services, pod).await;
    let service_values: HashMap<&str, &str> = services
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    for variable in container.env.iter().flatten() {
        let value = match variable.value_from.as_ref() {
            None => {
                let text = variable.value.as_deref().unwrap_or_default();
                Some(variables.expand(text, &service_values))
            }
            Some(source) => source_value(sources, container, variable, source, objects).await?,
        };
        // A missing optional key leaves the variable undefined.
        if let Some(value) = value {
            variables.set(&variable.name, value);
        }
    }
    for (name, value) in services {
        variables.set_default(name, value);
    }
    Ok(variables.list)
}

/// Adds all keys of a config map or secret that are valid names, each with the prefix.
async fn add_all(
    variables: &mut Variables,
    source: &EnvFromSource,
    objects: &mut ObjectHold,
) -> Result<(), Problem> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let mut add = |key: &str, value: String| {
        let name = format!("{prefix}{key}");
        if valid_name(&name) {
            variables.set(&name, value);
        }
    };
    if let Some(reference) = &source.config_map_ref {
        match objects.config_map(&reference.name).await {
            Some(map) => {
                for (k, v) in map.data.iter().flatten() {
                    add(k, v.clone());
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(format!("configmap {:?} not found", reference.name)),
        }
    } else if let Some(reference) = &source.secret_ref {
        match objects.secret(&reference.name).await {
            Some(secret) => {
                for (k, v) in secret.data.iter().flatten() {
                    add(k, secret_text(&reference.name, k, &v.0)?);
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(format!("secret {:?} not found", reference.name)),
        }
    }
    Ok(())
}

/// Returns the value of a variable's source; `None` for a missing optional key.
async fn source_value(
    sources: &EnvSources<'_>,
    container: &Container,
    variable: &EnvVar,
    source: &EnvVarSource,
    objects: &mut ObjectHold,
) -> Result<Option<String>, Problem> {
    let pod = sources.fields.pod;
    if let Some(field) = &source.field_ref {
        return sources.fields.get(&field.field_path).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        let other = field
            .container_name
            .as_deref()
            .and_then(|n| pod.container(n));
        let container = other.as_deref().unwrap_or(container);
        return resource_field(sources.node, pod, container, field).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = objects.config_map(&key.name).await else {
            return missing(optional, || format!("configmap {:?} not found", key.name));
        };
        return match map.data.as_ref().and_then(|d| d.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => missing(optional, || {
                format!(
                    "couldn't find key {} in ConfigMap {}/{}",
                    key.key,
                    pod.namespace(),
                    key.name
                )
            }),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = objects.secret(&key.name).await else {
            return missing(optional, || format!("secret {:?} not found", key.name));
        };
        return match secret.data.as_ref().and_then(|d| d.get(&key.key)) {
            Some(value) => secret_text(&key.name, &key.key, &value.0).map(Some),
            None => missing(optional, || {
                format!(
                    "couldn't find key {} in Secret {}/{}",
                    key.key,
                    pod.namespace(),
                    key.name
                )
            }),
        };
    }
    if let Some(key) = &source.file_key_ref {
        return file_value(sources.volumes, key).await;
    }
    Err(format!(
        "environment variable {:?} has a source that this node does not know",
        variable.name
    ))
}

/// Returns the value of a key in a file of a volume; `None` for a missing optional key.
async fn file_value(volumes: &Mounted, key: &FileKeySelector) -> Result<Option<String>, Problem> {
    let Some(volume) = volumes.path(&key.volume_name) else {
        return Err(format!(
            "cannot find the volume {:?} referenced by FileKeyRef",
            key.volume_name
        ));
    };
    let full = volume.join(key.path.trim_start_matches('/'));
    let (volume, path) = (volume.to_owned(), key.path.clone());
    let name = key.key.clone();
    let parsed = tokio::task::spawn_blocking(move || {
        let text = file::read(&volume, &path).map_err(|e| e.to_string())?;
        file::value(&text, &name)
    });
    let value = match parsed.await.map_err(|e| e.to_string()).flatten() {
        Ok(value) => value,
        Err(e) => {
            tracing::warn!("parsing the environment file {}: {e}", full.display());
            return Err("couldn't parse env file".into());
        }
    };
    if value.is_empty() {
        return missing(key.optional == Some(true), || {
            format!(
                "environment variable key {:?} not found in file {:?}",
                key.key,
                full.display().to_string()
            )
        });
    }
    Ok(Some(value))
}

/// Returns a secret's value as text. A variable cannot have another value.
fn secret_text(secret: &str, key: &str, value: &[u8]) -> Result<String, Problem> {
    let text = std::str::from_utf8(value).map_err(|_| {
        format!("the value of key {key} in secret {secret:?} contains invalid UTF-8")
    })?;
    Ok(text.to_owned())
}

fn missing(optional: bool, message: impl FnOnce() -> String) -> Result<Option<String>, Problem> {
    if optional { Ok(None) } else { Err(message()) }
}

#[cfg(test)]
mod tests;
