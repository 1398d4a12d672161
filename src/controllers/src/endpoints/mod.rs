//! Endpoints and endpoint slices of services, including slices mirrored from user-managed
//! endpoints.

pub mod legacy;
pub mod mirror;
mod packing;
pub mod slices;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;

use crate::common::pods;
use crate::informers::{Change, Key, Store};
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

/// Label with an empty value on objects of headless services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Label of a slice with the name of its service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a slice with the name of its managing controller.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Annotation with the time of the last change that triggered an update.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Returns whether the service is headless (has no cluster IP).
pub fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
}

/// Returns the service's selector, unless it is empty or the service is an `ExternalName`.
pub fn selector_of(service: &Service) -> Option<&label_selector::Labels> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
}

/// When a service was created and its pods, by name, last became ready or not.
type Times = (Option<Timestamp>, BTreeMap<String, Timestamp>);

/// Remembers the times of changes that were seen, by service.
#[derive(Default)]
pub struct Triggers {
    seen: Mutex<HashMap<Key, Times>>,
}

impl Triggers {
    /// Returns when the first of the changes since the last call happened, as upstream's tracker: of
    /// a new service, its creation. Returns `None` if only something else has changed.
    pub fn next(&self, service: &Service, selected: &[Arc<Pod>]) -> Option<Timestamp> {
        let made = service
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        let time = |pod: &Arc<Pod>| {
            let ready = pods::condition(pod, "Ready")?;
            let at = ready.last_transition_time.as_ref()?.0;
            Some((pod.metadata.name.clone()?, at))
        };
        let now: BTreeMap<String, Timestamp> = selected.iter().filter_map(time).collect();
        let key = Key::of(&service.metadata);
        let Some((known, before)) = self.seen.lock().insert(key, (made, now.clone())) else {
            return made;
        };
        let changed = now
            .into_iter()
            .filter(|(name, at)| before.get(name).is_none_or(|before| at > before))
            .map(|(_, at)| at);
        changed.chain(made.filter(|_| made > known)).min()
    }

    /// Forgets a deleted service.
    pub fn forget(&self, service: &Key) {
        self.seen.lock().remove(service);
    }
}

/// Returns the pod's IP addresses.
pub fn addresses(pod: &Pod) -> Vec<&str> {
    let status = pod.status.as_ref();
    let several = status.and_then(|status| status.pod_ips.as_ref());
    let mut all: Vec<&str> = several
        .into_iter()
        .flatten()
        .map(|ip| ip.ip.as_str())
        .collect();
    if all.is_empty() {
        all.extend(status.and_then(|status| status.pod_ip.as_deref()));
    }
    all.retain(|ip| !ip.is_empty());
    all
}

/// Returns whether the pod has an address and is neither terminal nor, without `with_terminating`,
/// being deleted.
pub fn is_candidate(pod: &Pod, with_terminating: bool) -> bool {
    !pods::is_terminal(pod)
        && !addresses(pod).is_empty()
        && (with_terminating || !pods::is_deleting(pod))
}

/// Returns the host name for the pod's DNS record in the service's domain, if it has one.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let ours = spec.subdomain == service.metadata.name
        && pod.metadata.namespace == service.metadata.namespace;
    spec.hostname
        .clone()
        .filter(|name| ours && !name.is_empty())
}

/// Returns the target reference of a pod's endpoint.
pub fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

/// Resolves the target port of a service port. Returns `None` if no container has a port of that
/// name.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let tcp = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".into());
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|candidate| {
                    candidate.name.as_ref() == Some(name)
                        && tcp(&candidate.protocol) == tcp(&port.protocol)
                })
                .map(|candidate| candidate.container_port)
        }
    }
}

/// Returns whether the update affects endpoints.
fn is_relevant(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels != new.metadata.labels
        || pods::is_deleting(old) != pods::is_deleting(new)
        || pods::is_terminal(old) != pods::is_terminal(new)
        || pods::is_ready(old) != pods::is_ready(new)
        || pods::node_name(old) != pods::node_name(new)
        || addresses(old) != addresses(new)
        || old
            .spec
            .as_ref()
            .map(|spec| (&spec.hostname, &spec.subdomain))
            != new
                .spec
                .as_ref()
                .map(|spec| (&spec.hostname, &spec.subdomain))
}

/// Enqueues the services that a pod's change may affect.
pub fn enqueue_services(queue: &Queue<Key>, services: &Store<Service>, change: &Change<Pod>) {
    if let Change::Updated(old, new) = change
        && !is_relevant(old, new)
    {
        return;
    }
    let pod = change.object();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for service in services.in_namespace(namespace) {
        let Some(wanted) = selector_of(&service) else {
            continue;
        };
        let selected = |pod: &Pod| {
            label_selector::contains(
                label_selector::labels_or_empty(pod.metadata.labels.as_ref()),
                wanted,
            )
        };
        if change.states().any(|pod| selected(pod)) {
            queue.add(Key::of(&service.metadata));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::slices::testing::{endpoint_pod, service};
    use super::*;
    use crate::common::pods::testing::at;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn a_change_is_reported_once() {
        let mut service = service(&[]);
        service.metadata.creation_timestamp = Some(Time(at(5)));
        let pod = |ready| vec![Arc::new(endpoint_pod("p", "1.2.3.4", 80, Some(ready)))];
        let triggers = Triggers::default();
        assert_eq!(triggers.next(&service, &pod(9)), Some(at(5)));
        assert_eq!(triggers.next(&service, &pod(9)), None);
        assert_eq!(triggers.next(&service, &pod(12)), Some(at(12)));
        triggers.forget(&Key::of(&service.metadata));
        assert_eq!(triggers.next(&service, &pod(12)), Some(at(5)));
    }
}
