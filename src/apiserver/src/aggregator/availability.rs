//! Availability checks of remote API servers, and the `Available` condition of their `APIService`s,
//! with upstream's reasons and messages.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use rkube_api::{Object, meta};
use rkube_auth::UserInfo;
use rkube_store::{Expect, StoreError};

use super::remote::{GROUP, PLURAL, Remote, key};
use crate::backend::Backend;
use crate::cache::Filter;
use crate::codec::encode;
use crate::conditions::{find_condition, set_condition};

/// The time limit for a server's response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of requests per check. Endpoints are chosen at random, so a retry may reach a
/// healthy one.
const MAX_REQUESTS: usize = 5;
/// Maximum number of attempts to write a status that is changed concurrently.
const MAX_WRITES: usize = 5;

/// The result of an availability check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server responds correctly.
    Available,
    /// The service or its endpoints are missing or invalid.
    Missing {
        /// The condition's reason.
        reason: &'static str,
        /// The condition's message.
        message: String,
    },
    /// The server does not respond, or responds with an error.
    Unreachable {
        /// The condition's message.
        message: String,
    },
}

impl Verdict {
    /// Returns whether requests may be forwarded.
    pub fn is_available(&self) -> bool {
        *self == Self::Available
    }

    fn condition(&self) -> (&'static str, &str, &str) {
        match self {
            Self::Available => ("True", "Passed", "all checks passed"),
            Self::Missing { reason, message } => ("False", reason, message),
            Self::Unreachable { message } => ("False", "FailedDiscoveryCheck", message),
        }
    }
}

/// Returns whether the `APIService`'s status reports the server as available.
pub fn is_reported_available(api_service: &Object) -> bool {
    find_condition(api_service, "Available").is_some_and(|c| c["status"] == "True")
}

/// Returns whether the status differs from the last check's result.
pub fn disagrees(remote: &Remote, api_service: &Object) -> bool {
    find_condition(api_service, "Available").is_none()
        || is_reported_available(api_service) != remote.is_available()
}

/// Checks the service, its endpoints and the server behind them.
pub async fn check(backend: &Backend, remote: &Remote) -> Verdict {
    if let Some((reason, message)) = missing(backend, remote) {
        return Verdict::Missing { reason, message };
    }
    let mut message = String::new();
    for _ in 0..MAX_REQUESTS {
        match discovery(backend, remote).await {
            Ok(()) => return Verdict::Available,
            Err(why) => message = why,
        }
    }
    Verdict::Unreachable { message }
}

/// Returns reason and message if the service or its endpoints are missing or invalid.
fn missing(backend: &Backend, remote: &Remote) -> Option<(&'static str, String)> {
    let reference = &remote.reference;
    let (namespace, name) = (&reference.namespace, &reference.name);
    let service = backend
        .cache
        .existing("", "services")
        .and_then(|cache| cache.get(namespace, name));
    let Some(service) = service.map(|s| s.tree()) else {
        return Some((
            "ServiceNotFound",
            format!("service/{name} in {namespace:?} is not present"),
        ));
    };
    if service["spec"]["type"].as_str().unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let port = service["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["port"].as_u64() == Some(reference.port));
    let Some(port) = port else {
        return Some((
            "ServicePortError",
            format!(
                "service/{name} in {namespace:?} is not listening on port {}",
                reference.port
            ),
        ));
    };
    let port_name = port["name"].as_str().unwrap_or_default();
    let in_namespace = Filter::new(Some(namespace.clone()), None, None, None);
    let slices: Vec<Arc<Object>> = backend
        .cache
        .existing("discovery.k8s.io", "endpointslices")
        .map(|cache| cache.list(&in_namespace))
        .unwrap_or_default()
        .iter()
        .filter(|slice| slice.label("kubernetes.io/service-name") == Some(name))
        .map(|slice| slice.tree())
        .collect();
    if slices.is_empty() {
        return Some((
            "EndpointsNotFound",
            format!("cannot find endpointslices for service/{name} in {namespace:?}"),
        ));
    }
    let some = slices.iter().any(|slice| {
        let each = |field: &str| slice[field].as_array().into_iter().flatten();
        each("endpoints").any(|e| e["conditions"]["ready"].as_bool().unwrap_or(true))
            && each("ports")
                .any(|p| p["name"].as_str().unwrap_or_default() == port_name && p["port"].is_u64())
    });
    (!some).then(|| {
        (
            "MissingEndpoints",
            format!(
                "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
            ),
        )
    })
}

/// Requests the group version's discovery document, which every API server must serve.
async fn discovery(backend: &Backend, remote: &Remote) -> Result<(), String> {
    let authority = remote
        .resolve(&backend.cache)
        .map_err(|status| status.message)?;
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let url = format!("https://{authority}{path}");
    let user = UserInfo {
        name: "system:kube-aggregator".into(),
        groups: vec!["system:masters".into()],
        ..UserInfo::default()
    };
    let asked = remote.ask(&authority, Method::GET, &path, &user, HeaderMap::new());
    match tokio::time::timeout(RESPONSE_TIMEOUT, asked).await {
        Ok(Ok(response)) if response.status().is_success() => Ok(()),
        Ok(Ok(response)) => Err(format!(
            "failing or missing response from {url}: bad status from {url}: {}",
            response.status().as_u16()
        )),
        Ok(Err(why)) => Err(format!(
            "failing or missing response from {url}: Get {url:?}: {why}"
        )),
        Err(_) => Err(format!(
            "failing or missing response from {url}: Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// Writes the result of a check to the `APIService`'s status, if it differs.
pub async fn publish(backend: &Backend, remote: &Remote, verdict: &Verdict) {
    let (status, reason, message) = verdict.condition();
    write(backend, &remote.name, status, reason, message).await;
}

/// Marks an `APIService` without a service as available: this server serves it.
pub async fn local(backend: &Backend, api_service: &Object) {
    let known = find_condition(api_service, "Available")
        .is_some_and(|c| c["status"] == "True" && c["reason"] == "Local");
    if !known {
        let (reason, message) = ("Local", "Local APIServices are always available");
        write(backend, meta::name(api_service), "True", reason, message).await;
    }
}

async fn write(backend: &Backend, name: &str, status: &str, reason: &str, message: &str) {
    for _ in 0..MAX_WRITES {
        let found = backend
            .cache
            .existing(GROUP, PLURAL)
            .and_then(|cache| cache.get("", name));
        let Some(found) = found else { return };
        let old = found.parse();
        let mut new = old.clone();
        set_condition(&mut new["status"], "Available", status, reason, message);
        if new == old {
            return;
        }
        let Ok(bytes) = encode(&mut new) else { return };
        let expect = Expect::Revision(found.revision);
        match backend.store.put(&key(name), bytes, expect).await {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => {
                backend.cache.consistent().await;
            }
            Err(error) => {
                return tracing::warn!(%error, name, "an APIService's status was not written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_conditions_time_is_that_of_its_change() {
        let mut object = json!({"status": {"conditions": [{"type": "Other"}, {
            "type": "Available", "status": "True", "reason": "Passed", "lastTransitionTime": "then",
        }]}});
        set_condition(
            &mut object["status"],
            "Available",
            "True",
            "Passed",
            "all checks passed",
        );
        let condition = &object["status"]["conditions"][1];
        assert_eq!(condition["lastTransitionTime"], "then");
        assert_eq!(condition["message"], "all checks passed");
        set_condition(
            &mut object["status"],
            "Available",
            "False",
            "ServiceNotFound",
            "m",
        );
        assert_ne!(
            object["status"]["conditions"][1]["lastTransitionTime"],
            "then"
        );
        assert!(!is_reported_available(&object));
    }
}
