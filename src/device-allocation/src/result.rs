//! Writes what was found as results of claims.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult,
    DeviceRequestAllocationResult, ResourceClaim,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::allocator::{Failure, Need, Node};
use crate::search::{ClaimFound, Found};

/// Returns the result of a claim.
pub(crate) fn of_claim(
    claim: &ResourceClaim,
    needs: &[Vec<Need<'_>>],
    found: &ClaimFound<'_, '_>,
    node: Node<'_>,
) -> Result<AllocationResult, Failure> {
    // The alternative of each request that was chosen.
    let chosen: Vec<&Need<'_>> = needs
        .iter()
        .zip(&found.chosen)
        .filter_map(|(alternatives, chosen)| alternatives.get(*chosen))
        .collect();
    let results = found.devices.iter().map(device).collect::<Vec<_>>();
    let configs = configs(claim, &chosen);
    let node_selector = node_selector(&found.devices, node).map_err(|why| {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        Failure::Fatal(format!("create NodeSelector for claim {name}: {why}"))
    })?;
    Ok(AllocationResult {
        devices: Some(DeviceAllocationResult {
            results: (!results.is_empty()).then_some(results),
            config: (!configs.is_empty()).then_some(configs),
        }),
        node_selector,
        ..AllocationResult::default()
    })
}

fn device(found: &Found<'_, '_>) -> DeviceRequestAllocationResult {
    let request = &found.need.request;
    let id = &found.candidate.id;
    let consumed = &found.consumed;
    let consumed: BTreeMap<String, Text> = consumed
        .iter()
        .map(|(name, amount)| (name.clone(), Text(amount.to_string())))
        .collect();
    let device = found.candidate.device;
    DeviceRequestAllocationResult {
        request: found.need.full_name(),
        driver: id.driver.clone(),
        pool: id.pool.clone(),
        device: id.device.clone(),
        admin_access: request.admin.then_some(true),
        tolerations: request.tolerations.map(<[_]>::to_vec),
        share_id: found.share.clone(),
        consumed_capacity: (!consumed.is_empty()).then_some(consumed),
        binding_conditions: device.binding_conditions.clone(),
        binding_failure_conditions: device.binding_failure_conditions.clone(),
    }
}

/// Returns the configurations of the classes, each class once, then those of the claim.
fn configs(claim: &ResourceClaim, chosen: &[&Need<'_>]) -> Vec<DeviceAllocationConfiguration> {
    let mut all: Vec<DeviceAllocationConfiguration> = Vec::new();
    let mut seen: BTreeMap<Option<&str>, std::ops::Range<usize>> = BTreeMap::new();
    for need in chosen {
        let class = need.class.metadata.name.as_deref();
        if let Some(range) = seen.get(&class) {
            for config in &mut all[range.clone()] {
                config
                    .requests
                    .get_or_insert_default()
                    .push(need.full_name());
            }
            continue;
        }
        let start = all.len();
        let own = need.class.spec.config.iter().flatten();
        all.extend(own.map(|config| DeviceAllocationConfiguration {
            source: "FromClass".to_owned(),
            requests: Some(vec![need.full_name()]),
            opaque: config.opaque.clone(),
        }));
        seen.insert(class, start..all.len());
    }
    let devices = claim.spec.devices.as_ref();
    for config in devices
        .and_then(|d| d.config.as_ref())
        .into_iter()
        .flatten()
    {
        let from_claim = DeviceAllocationConfiguration {
            source: "FromClaim".to_owned(),
            requests: config.requests.clone(),
            opaque: config.opaque.clone(),
        };
        let names = config.requests.as_deref().unwrap_or_default();
        if names.is_empty() {
            all.push(from_claim);
            continue;
        }
        // As upstream, once for each of the requests that it names.
        let concerned = chosen.iter().filter(|need| {
            let base = need.parent.unwrap_or(need.request.name);
            let full = need.full_name();
            names.iter().any(|name| *name == base || *name == full)
        });
        all.extend(concerned.map(|_| from_claim.clone()));
    }
    all
}

/// Returns the nodes on which all devices are, `None` for all nodes.
fn node_selector(
    devices: &[Found<'_, '_>],
    node: Node<'_>,
) -> Result<Option<NodeSelector>, String> {
    let mut term = NodeSelectorTerm::default();
    for found in devices {
        let (device, spec) = (found.candidate.device, &found.candidate.slice.spec);
        let (name, selector) = match spec.per_device_node_selection {
            Some(true) => (&device.node_name, &device.node_selector),
            _ => (&spec.node_name, &spec.node_selector),
        };
        if name.is_some() || device.binds_to_node == Some(true) {
            term = NodeSelectorTerm {
                match_fields: Some(vec![NodeSelectorRequirement {
                    key: "metadata.name".to_owned(),
                    operator: "In".to_owned(),
                    values: Some(vec![node.name.to_owned()]),
                }]),
                match_expressions: None,
            };
            break;
        }
        let terms = selector.iter().flat_map(|s| &s.node_selector_terms);
        let terms: Vec<&NodeSelectorTerm> = terms.collect();
        match terms.as_slice() {
            [] => {}
            [one] => {
                merge(&mut term.match_fields, &one.match_fields);
                merge(&mut term.match_expressions, &one.match_expressions);
            }
            many => {
                let count = many.len();
                return Err(format!(
                    "unsupported ResourceSlice.NodeSelector with {count} terms"
                ));
            }
        }
    }
    let restricts = term.match_fields.is_some() || term.match_expressions.is_some();
    Ok(restricts.then(|| NodeSelector {
        node_selector_terms: vec![term],
    }))
}

/// Adds requirements that are not there yet. The order of their values does not matter.
fn merge(
    to: &mut Option<Vec<NodeSelectorRequirement>>,
    from: &Option<Vec<NodeSelectorRequirement>>,
) {
    let values = |r: &NodeSelectorRequirement| -> BTreeSet<String> {
        r.values.iter().flatten().cloned().collect()
    };
    for new in from.iter().flatten() {
        let known = to.get_or_insert_default();
        let is_known = known.iter().any(|old| {
            old.key == new.key && old.operator == new.operator && values(old) == values(new)
        });
        if !is_known {
            known.push(new.clone());
        }
    }
}
