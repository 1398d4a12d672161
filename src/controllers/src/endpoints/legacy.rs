//! Endpoints: the addresses behind a service in a single object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    HEADLESS, TRIGGER_TIME, Triggers, addresses, enqueue_services, hostname, is_candidate,
    is_headless, selector_of, target, target_port,
};
use crate::common::pods;
use crate::context::{Context, Deletion, Result};
use crate::controller::{Controller, Watches};
use crate::events::Severity::Warning;
use crate::informers::Key;
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

const NAME: &str = "endpoint-controller";
/// Label that marks objects managed by this controller.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Annotation on objects that do not contain all addresses.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Maximum number of addresses per object.
const CAPACITY: usize = 1000;

type Port = (String, String, i32, Option<String>);

fn ports_for(pod: &Pod, service: &Service) -> Option<BTreeSet<Port>> {
    let ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    if ports.is_empty() {
        return is_headless(service).then(BTreeSet::new);
    }
    let found: BTreeSet<Port> = ports
        .iter()
        .filter_map(|port| {
            Some((
                port.name.clone().unwrap_or_default(),
                port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                target_port(pod, port)?,
                port.app_protocol.clone(),
            ))
        })
        .collect();
    (!found.is_empty()).then_some(found)
}

/// Returns the subsets for a service that selects these pods, and whether addresses were omitted.
///
/// Addresses with the same ports share a subset. The order is deterministic.
pub fn subsets(service: &Service, selected: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let early = service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false);
    let family = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.as_ref()?.first().cloned());
    let mut candidates: Vec<(&str, &Arc<Pod>)> = selected
        .iter()
        .filter(|pod| is_candidate(pod, early))
        .filter_map(|pod| {
            let fits = |ip: &&str| {
                family
                    .as_deref()
                    .is_none_or(|family| (family == "IPv6") == ip.contains(':'))
            };
            Some((addresses(pod).into_iter().find(fits)?, pod))
        })
        .collect();
    candidates.sort_by_key(|(ip, pod)| (*ip, pod.metadata.uid.clone()));
    let over = candidates.len() > CAPACITY;
    if over {
        // Keep ready addresses first.
        candidates.sort_by_key(|(_, pod)| !(early || pods::is_ready(pod)));
        candidates.truncate(CAPACITY);
        candidates.sort_by_key(|(ip, pod)| (*ip, pod.metadata.uid.clone()));
    }
    let mut groups: BTreeMap<BTreeSet<Port>, EndpointSubset> = BTreeMap::new();
    for (ip, pod) in candidates {
        let Some(ports) = ports_for(pod, service) else {
            continue;
        };
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(pod, service),
            node_name: Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()),
            target_ref: Some(target(pod)),
        };
        let subset = groups.entry(ports).or_default();
        let list = if early || pods::is_ready(pod) {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(address);
    }
    let subsets = groups
        .into_iter()
        .map(|(ports, mut subset)| {
            let ports: Vec<EndpointPort> = ports
                .into_iter()
                .map(|(name, protocol, port, app_protocol)| EndpointPort {
                    name: Some(name).filter(|name| !name.is_empty()),
                    protocol: Some(protocol),
                    port,
                    app_protocol,
                })
                .collect();
            subset.ports = (!ports.is_empty()).then_some(ports);
            subset
        })
        .collect();
    (subsets, over)
}

/// Returns the desired object, based on the present one if it exists.
///
/// `trigger` is when the change happened that led to this update.
pub fn desired(
    service: &Service,
    selected: &[Arc<Pod>],
    trigger: Option<Timestamp>,
    present: Option<&Endpoints>,
) -> Endpoints {
    let (subsets, over) = subsets(service, selected);
    let mut wanted = present.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..Default::default()
        },
        subsets: None,
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), NAME.into());
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    wanted.metadata.labels = Some(labels);
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if over {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    annotations.remove(TRIGGER_TIME);
    if let Some(time) = trigger {
        annotations.insert(TRIGGER_TIME.into(), time.to_string());
    }
    if annotations.is_empty() {
        wanted.metadata.annotations = None;
    }
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    wanted
}

/// Returns whether two states differ in nothing but the time of the last change.
fn is_same_content(a: &Endpoints, b: &Endpoints) -> bool {
    let annotations = |endpoints: &Endpoints| {
        let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
        annotations.remove(TRIGGER_TIME);
        annotations
    };
    let subsets = |endpoints: &Endpoints| endpoints.subsets.clone().unwrap_or_default();
    subsets(a) == subsets(b)
        && a.metadata.labels == b.metadata.labels
        && annotations(a) == annotations(b)
}

/// The controller of endpoints.
pub struct EndpointsController {
    ctx: Context,
    queue: Queue<Key>,
    triggers: Triggers,
}

impl EndpointsController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            triggers: Triggers::default(),
        }
    }
}

impl Controller for EndpointsController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        let services = informers.services.clone();
        watches
            .objects(&informers.services)
            .watches(&informers.pods, move |change, queue| {
                enqueue_services(queue, &services, change);
            })
            .watches(&informers.endpoints, |change, queue| {
                if change.is_deletion() {
                    queue.add(Key::of(&change.object().metadata));
                }
            });
    }

    async fn prepare(&self) {
        // Services may have been deleted while this controller was not running.
        for endpoints in self.ctx.informers.endpoints.list() {
            self.queue.add(Key::of(&endpoints.metadata));
        }
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        sync(&self.ctx, &self.triggers, key).await
    }
}

async fn sync(ctx: &Context, triggers: &Triggers, key: Key) -> Result<()> {
    let store = &ctx.informers.endpoints;
    let present = store.by_key(&key);
    let Some(service) = ctx.informers.services.by_key(&key) else {
        triggers.forget(&key);
        let ours = present.filter(|endpoints| {
            let labels = label_selector::labels_or_empty(endpoints.metadata.labels.as_ref());
            labels
                .get(MANAGED_BY)
                .is_some_and(|manager| manager == NAME)
        });
        if let Some(endpoints) = ours {
            crate::context::optional(
                ctx.delete(store, &endpoints.metadata, &Deletion::default())
                    .await,
            )?;
        }
        return Ok(());
    };
    let Some(wanted) = selector_of(&service) else {
        return Ok(());
    };
    let mut selected = ctx.informers.pods.in_namespace(&key.namespace);
    selected.retain(|pod| {
        label_selector::contains(
            label_selector::labels_or_empty(pod.metadata.labels.as_ref()),
            wanted,
        )
    });
    let trigger = triggers.next(&service, &selected);
    let endpoints = desired(&service, &selected, trigger, present.as_deref());
    let outcome = match present {
        Some(present) if is_same_content(&present, &endpoints) => return Ok(()),
        Some(_) => ctx.update(store, &endpoints).await,
        None => ctx.create(store, &endpoints).await,
    };
    match outcome {
        Err(error) if error.is_namespace_terminating() => Ok(()),
        Err(error) => {
            if !error.is_conflict() {
                let message = format!("Failed to update endpoint {key}: {error}");
                ctx.recorder
                    .event(NAME, &*service, Warning, "FailedToUpdateEndpoint", message);
            }
            Err(error)
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::slices::testing::{endpoint_pod, service};

    #[test]
    fn ready_and_other_addresses() {
        let service = service(&[("http", 80, "web")]);
        let pods = [
            Arc::new(endpoint_pod("a", "10.0.0.2", 8080, Some(1))),
            Arc::new(endpoint_pod("b", "10.0.0.1", 8080, Some(1))),
            Arc::new(endpoint_pod("c", "10.0.0.3", 8080, None)),
            Arc::new(endpoint_pod("d", "10.0.0.4", 9090, Some(1))),
        ];
        let (subsets, over) = subsets(&service, &pods);
        assert!(!over);
        assert_eq!(subsets.len(), 2);
        let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            list.iter()
                .flatten()
                .map(|address| address.ip.clone())
                .collect()
        };
        assert_eq!(ips(&subsets[0].addresses), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.0.0.3"]);
        assert_eq!(subsets[0].ports.as_ref().unwrap()[0].port, 8080);
        assert_eq!(subsets[1].ports.as_ref().unwrap()[0].port, 9090);
    }

    #[test]
    fn labels_follow_the_service() {
        let mut headless = service(&[]);
        headless.spec.as_mut().unwrap().cluster_ip = Some("None".into());
        let endpoints = desired(
            &headless,
            &[Arc::new(endpoint_pod("a", "10.0.0.2", 1, Some(1)))],
            None,
            None,
        );
        let labels = endpoints.metadata.labels.unwrap();
        assert_eq!(labels.get(HEADLESS).map(String::as_str), Some(""));
        assert_eq!(labels[MANAGED_BY], NAME);
        let subsets = endpoints.subsets.unwrap();
        assert_eq!(subsets[0].ports, None);
        assert_eq!(subsets[0].addresses.as_ref().unwrap().len(), 1);
    }

    #[test]
    fn the_time_of_the_last_change_is_set_and_is_no_change() {
        let service = service(&[("http", 80, "web")]);
        let time = |text: &str| text.parse().ok();
        let old = desired(&service, &[], time("2026-01-01T00:00:00Z"), None);
        let annotations = old.metadata.annotations.clone().unwrap();
        assert_eq!(annotations[TRIGGER_TIME], "2026-01-01T00:00:00Z");
        let new = desired(&service, &[], None, Some(&old));
        assert_eq!(new.metadata.annotations, None);
        assert!(is_same_content(&old, &new));
    }
}
