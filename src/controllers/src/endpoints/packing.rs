//! Packs the endpoints of a service into slices, at most 100 in each, with few writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{HEADLESS, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME};
use crate::context::{Context, Deletion, Result, optional};
use rkube_component_helpers::label_selector;

/// Maximum number of endpoints per slice.
const CAPACITY: usize = 100;

/// Ports of an endpoint, in the service's order.
pub type Ports = Vec<EndpointPort>;

/// The desired endpoints of one address family, grouped by ports.
///
/// A list instead of a map, since [`EndpointPort`] is neither `Ord` nor `Hash`.
#[derive(Debug, Default)]
pub struct Desired {
    groups: Vec<(Ports, Vec<Endpoint>)>,
}

impl Desired {
    /// Adds an endpoint with these ports.
    pub fn add(&mut self, ports: Ports, endpoint: Endpoint) {
        match self.groups.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => self.groups.push((ports, vec![endpoint])),
        }
    }
}

/// Properties shared by all slices of one owner.
pub struct Frame {
    /// The slices' owner.
    pub owner: OwnerReference,
    /// Prefix of their names.
    pub name: String,
    /// Their namespace.
    pub namespace: String,
    /// Their labels.
    pub labels: BTreeMap<String, String>,
    /// Their annotations, set whenever a slice is written.
    pub annotations: BTreeMap<String, String>,
}

/// The slices to write.
#[derive(Debug, Default)]
pub struct Changes {
    /// Slices to create.
    pub create: Vec<EndpointSlice>,
    /// Slices to update.
    pub update: Vec<EndpointSlice>,
    /// Slices to delete.
    pub delete: Vec<Arc<EndpointSlice>>,
}

fn identity(endpoint: &Endpoint) -> (Vec<String>, Option<String>) {
    let uid = endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.clone());
    (endpoint.addresses.clone(), uid)
}

/// Computes the changes that turn the `present` slices of one address family into the `desired`
/// ones with few writes.
///
/// Endpoints stay in their slice. New ones fill up slices that change anyway, then other slices,
/// then new ones.
pub fn reconcile(
    frame: &Frame,
    family: &str,
    desired: Desired,
    present: &[Arc<EndpointSlice>],
) -> Changes {
    let mut changes = Changes::default();
    let blank = |ports: Ports| EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", frame.name)),
            namespace: Some(frame.namespace.clone()),
            labels: Some(frame.labels.clone()),
            annotations: Some(frame.annotations.clone())
                .filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![frame.owner.clone()]),
            ..Default::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports),
    };
    let mut rest: Vec<&Arc<EndpointSlice>> = present.iter().collect();
    let empty = desired.groups.is_empty();
    for (ports, endpoints) in desired.groups {
        let mut missing: Vec<Endpoint> = endpoints;
        let mut slices: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>, bool)> = Vec::new();
        rest.retain(|slice| {
            if slice.ports.clone().unwrap_or_default() != ports {
                return true;
            }
            let mut kept = Vec::new();
            let mut changed = slice.metadata.labels.as_ref() != Some(&frame.labels);
            for old in slice.endpoints.iter().flatten() {
                match missing
                    .iter()
                    .position(|new| identity(new) == identity(old))
                {
                    Some(index) => {
                        let new = missing.swap_remove(index);
                        changed |= new != *old;
                        kept.push(new);
                    }
                    None => changed = true,
                }
            }
            slices.push((slice, kept, changed));
            false
        });
        // Sorting is not required for correctness, but makes writes reproducible.
        missing.sort_by_key(identity);
        slices.sort_by_key(|(_, kept, changed)| (!changed, std::cmp::Reverse(kept.len())));
        for (_, kept, changed) in &mut slices {
            let room = CAPACITY.saturating_sub(kept.len()).min(missing.len());
            if room > 0 {
                kept.extend(missing.drain(..room));
                *changed = true;
            }
        }
        for (slice, kept, changed) in slices {
            if kept.is_empty() {
                changes.delete.push(slice.clone());
            } else if changed {
                let mut updated = EndpointSlice::clone(slice);
                updated.endpoints = Some(kept);
                updated.metadata.labels = Some(frame.labels.clone());
                let annotations = updated.metadata.annotations.get_or_insert_default();
                annotations.remove(TRIGGER_TIME);
                annotations.extend(frame.annotations.clone());
                if annotations.is_empty() {
                    updated.metadata.annotations = None;
                }
                changes.update.push(updated);
            }
        }
        while !missing.is_empty() {
            let mut slice = blank(ports.clone());
            let count = CAPACITY.min(missing.len());
            slice.endpoints = Some(missing.drain(..count).collect());
            changes.create.push(slice);
        }
    }
    // A service without endpoints keeps one empty slice, so that consumers can distinguish "none"
    // from "not yet known".
    if empty {
        let is_blank = |slice: &&Arc<EndpointSlice>| {
            slice.ports.as_ref().is_none_or(Vec::is_empty)
                && slice.endpoints.as_ref().is_none_or(Vec::is_empty)
                && slice.metadata.labels.as_ref() == Some(&frame.labels)
        };
        match rest.iter().position(is_blank) {
            Some(index) => {
                rest.remove(index);
            }
            None => match rest.pop() {
                Some(slice) => {
                    let mut updated = EndpointSlice::clone(slice);
                    updated.endpoints = Some(Vec::new());
                    updated.ports = Some(Vec::new());
                    updated.metadata.labels = Some(frame.labels.clone());
                    changes.update.push(updated);
                }
                None => changes.create.push(blank(Vec::new())),
            },
        }
    }
    changes.delete.extend(rest.into_iter().cloned());
    changes
}

/// Writes the changes to the API server.
pub async fn apply(ctx: &Context, changes: Changes) -> Result<()> {
    let store = &ctx.informers.endpoint_slices;
    for slice in &changes.create {
        match ctx.create(store, slice).await {
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            other => other.map(drop)?,
        }
    }
    for slice in &changes.update {
        ctx.update(store, slice).await?;
    }
    for slice in &changes.delete {
        optional(
            ctx.delete(store, &slice.metadata, &Deletion::default())
                .await,
        )?;
    }
    Ok(())
}

/// Returns the labels of a service's slices: the service's labels and the controller's own.
pub fn labels(
    of: Option<&label_selector::Labels>,
    service: &str,
    manager: &str,
    headless: bool,
) -> label_selector::Labels {
    let mut labels = of.cloned().unwrap_or_default();
    labels.retain(|key, _| key != HEADLESS && key != SERVICE_NAME && key != MANAGED_BY);
    labels.insert(SERVICE_NAME.into(), service.to_owned());
    labels.insert(MANAGED_BY.into(), manager.to_owned());
    if headless {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}
