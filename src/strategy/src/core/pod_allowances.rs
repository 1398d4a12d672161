//! Values that an update of a pod or of a template may keep (upstream:
//! `GetValidationOptionsFromPodSpecAndMeta`).

use serde_json::Value;

use super::container_types::{Allowances, visit};
use super::{pod_affinity, pod_annotations, pod_sysctls, requirements, volume_projections};
use crate::errors::Errors;
use crate::tree::{at, entries, flag, has, list, text};
use crate::{names, selectors};

impl Allowances {
    /// Returns what the next state of a pod or template may keep.
    pub(crate) fn of(old: &Value) -> Self {
        let (metadata, spec) = (at(old, "metadata"), at(old, "spec"));
        let own_users = has(spec, "hostUsers") && !flag(spec, "hostUsers");
        let mut devices = false;
        let mut parts = false;
        visit(spec, "", |container, _| {
            devices |= !list(container, "volumeDevices").is_empty();
            for side in ["resources.limits", "resources.requests"] {
                parts |= entries(container, side)
                    .any(|(name, amount)| !requirements::is_whole_pages(name, amount));
            }
        });
        parts |= entries(spec, "overhead")
            .any(|(name, amount)| !requirements::is_whole_pages(name, amount));
        Allowances {
            deletion_cost: pod_annotations::has_bad_cost(metadata),
            parts_of_huge_pages: parts,
            affinity_selectors: has_bad_affinity_selector(spec),
            node_affinity_values: has_bad_node_value(spec),
            spread_selectors: list(spec, "topologySpreadConstraints")
                .iter()
                .any(|constraint| is_bad_selector(at(constraint, "labelSelector"))),
            spread_keys: pod_affinity::has_bad_spread_keys(spec),
            loose_token_paths: list(spec, "volumes").iter().any(|volume| {
                list(volume, "projected.sources")
                    .iter()
                    .any(volume_projections::is_loose_token)
            }),
            host_sysctls: pod_sysctls::has_of_host(spec),
            selinux_policies: has(spec, "securityContext.seLinuxChangePolicy"),
            devices_of_own_users: own_users && devices,
            restarting_init: list(spec, "initContainers").iter().any(|container| {
                text(container, "restartPolicy") != "Always"
                    && list(container, "resizePolicy")
                        .iter()
                        .any(|policy| text(policy, "restartPolicy") == "RestartContainer")
            }),
        }
    }
}

fn is_bad_selector(selector: &Value) -> bool {
    let mut errors = Errors::new();
    selectors::validate(&mut errors, selector, "");
    !errors.0.is_empty()
}

fn has_bad_affinity_selector(spec: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = at(at(spec, "affinity"), kind);
        let required = list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter();
        let preferred = list(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter();
        required
            .chain(preferred.map(|term| at(term, "podAffinityTerm")))
            .any(|term| {
                is_bad_selector(at(term, "labelSelector"))
                    || is_bad_selector(at(term, "namespaceSelector"))
            })
    })
}

fn has_bad_node_value(spec: &Value) -> bool {
    let terms =
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    list(spec, terms)
        .iter()
        .flat_map(|term| list(term, "matchExpressions"))
        .flat_map(|expression| list(expression, "values"))
        .any(|value| !names::label_value(value.as_str().unwrap_or_default()).is_empty())
}
