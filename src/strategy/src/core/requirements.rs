//! Validation of the resources of containers and pods: their names and amounts.

use std::collections::BTreeSet;

use rkube_component_helpers::resource::{
    self, Side, is_extended, is_hugepages, is_native, is_pod_level_resource,
};
use rkube_component_helpers::resource_names::{is_basic, is_standard};
use serde_json::Value;

use crate::errors::{Errors, child, index, keyed};
use crate::names;
use crate::quantities::{self, Quantity};
use crate::tree::{at, entries, has, list, text};

/// Validates the name of a resource: qualified, and known if it has no domain. Returns whether it
/// is valid.
pub(crate) fn name(errors: &mut Errors, name: &str, field: &str) -> bool {
    let problems = names::qualified_name(name);
    if !problems.is_empty() {
        errors.invalid_each(field, name, problems);
        return false;
    }
    if !name.contains('/') && !is_standard(name) {
        errors.invalid(
            field,
            name,
            "must be a standard resource type or fully qualified",
        );
        return false;
    }
    true
}

/// Validates the name of a resource of containers.
pub(crate) fn container_name(errors: &mut Errors, value: &str, field: &str) {
    name(errors, value, field);
    if !value.contains('/') {
        if !is_basic(value) && !is_hugepages(value) {
            errors.invalid(field, value, "must be a standard resource for containers");
        }
    } else if !is_native(value) && !is_extended(value) {
        errors.invalid(
            field,
            value,
            "doesn't follow extended resource name standard",
        );
    }
}

/// Validates the name of a resource of pods as wholes.
fn pod_name(errors: &mut Errors, value: &str, field: &str) {
    if name(errors, value, field) && !is_pod_level_resource(value) {
        errors.not_supported(field, value, &["cpu", "hugepages-", "memory"]);
    }
}

/// Returns whether an amount is a multiple of a page, if the resource is huge pages.
pub(super) fn is_whole_pages(name: &str, amount: &Value) -> bool {
    let Some(size) = name.strip_prefix("hugepages-") else {
        return true;
    };
    Quantity::parse(size).is_ok_and(|page| {
        page.sign() > 0
            && page.milli_value() % 1000 == 0
            && quantities::read(Some(amount)).value() % page.value() == 0
    })
}

/// Returns whether more of a resource may be promised than there is.
fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_hugepages(name)
}

/// Which rules the names and amounts of a list of resources follow.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Validates a name.
    name: fn(&mut Errors, &str, &str),
    /// Whether parts of huge pages are permitted.
    parts_of_huge_pages: bool,
}

impl Rules {
    /// Returns the rules of containers.
    pub(crate) fn of_containers(parts_of_huge_pages: bool) -> Self {
        Rules {
            name: container_name,
            parts_of_huge_pages,
        }
    }

    /// Validates one entry of a list.
    fn entry(self, errors: &mut Errors, name: &str, amount: &Value, field: &str) {
        (self.name)(errors, name, field);
        quantities::validate_quantity(errors, name, amount, field);
    }

    /// Validates that an amount of huge pages is a multiple of a page.
    fn pages(self, errors: &mut Errors, name: &str, amount: &Value, field: &str) {
        if !self.parts_of_huge_pages && !is_whole_pages(name, amount) {
            let amount = quantities::read(Some(amount)).to_string();
            let detail = format!("{amount} is not positive integer multiple of {name}");
            errors.invalid(field, amount, detail);
        }
    }

    /// Validates `limits` and `requests`.
    pub(crate) fn check(self, errors: &mut Errors, requirements: &Value, path: &str) {
        let (limits_path, requests_path) = (child(path, "limits"), child(path, "requests"));
        let limits = at(requirements, "limits");
        for (name, limit) in entries(requirements, "limits") {
            let field = keyed(&limits_path, name);
            self.entry(errors, name, limit, &field);
            self.pages(errors, name, limit, &field);
        }
        for (name, amount) in entries(requirements, "requests") {
            let field = keyed(&requests_path, name);
            self.entry(errors, name, amount, &field);
            let request = quantities::read(Some(amount));
            // As upstream, these errors have the field of the list, not of the entry.
            match limits.get(name).map(|limit| quantities::read(Some(limit))) {
                Some(limit) if request != limit && !may_be_overcommitted(name) => errors.invalid(
                    requests_path.clone(),
                    request.to_string(),
                    format!("must be equal to {name} limit of {limit}"),
                ),
                Some(limit) if request > limit => errors.invalid(
                    requests_path.clone(),
                    request.to_string(),
                    format!("must be less than or equal to {name} limit of {limit}"),
                ),
                None if !may_be_overcommitted(name) => errors.required(
                    limits_path.clone(),
                    "Limit must be set for non overcommitable resources",
                ),
                _ => {}
            }
            self.pages(errors, name, amount, &field);
        }
        let any = |wanted: fn(&str) -> bool| {
            entries(requirements, "limits")
                .chain(entries(requirements, "requests"))
                .any(|(name, _)| wanted(name))
        };
        if any(is_hugepages) && !any(|name| matches!(name, "cpu" | "memory")) {
            errors.forbidden(path, "HugePages require cpu or memory");
        }
    }
}

/// Validates `claims` of the resources of a container, each of which names a claim of the pod and
/// maybe one of its requests.
pub(super) fn claims(errors: &mut Errors, resources: &Value, spec: &Value, path: &str) {
    let known: BTreeSet<&str> = list(spec, "resourceClaims")
        .iter()
        .map(|claim| text(claim, "name"))
        .filter(|name| !name.is_empty())
        .collect();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in list(resources, "claims").iter().enumerate() {
        let field = index(&child(path, "claims"), i);
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.required(field, "");
            continue;
        }
        if seen.contains(name) {
            errors.duplicate(field.clone(), name);
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                let problems = names::dns1123_label(request);
                errors.invalid_each(&child(&field, "request"), request, problems);
                key = format!("{name}/{request}");
            }
            if seen.contains(&key) {
                errors.duplicate(field.clone(), key.as_str());
            } else if request.is_empty() {
                // All requests of the claim include those that are there already.
                let of_claim = |key: &&String| key.split('/').next() == Some(name);
                let prefix = format!("{name}/");
                let from = seen.range(prefix.clone()..);
                let near = from.take_while(|key| key.starts_with(&prefix));
                for _ in near.filter(of_claim) {
                    errors.duplicate(field.clone(), name);
                }
            }
            seen.insert(key);
        }
        if !known.contains(name) {
            let among = match known.is_empty() {
                true => " which is empty".to_owned(),
                false => format!(": {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            errors.not_found_in(
                field,
                name,
                format!("must be one of the names in pod.spec.resourceClaims{among}"),
            );
        }
    }
}

/// Validates `resources` of a pod as a whole, which its containers must fit in.
pub(super) fn of_pod(errors: &mut Errors, spec: &Value, parts: bool, path: &str) {
    let resources = at(spec, "resources");
    if resources.is_null() {
        return;
    }
    if text(spec, "os.name") == "windows" {
        errors.forbidden(path, "may not be set for a windows pod");
        return;
    }
    if has(resources, "claims") {
        errors.forbidden(
            child(path, "claims"),
            "claims may not be set for Resources at pod-level",
        );
    }
    let rules = Rules {
        name: pod_name,
        parts_of_huge_pages: parts,
    };
    rules.check(errors, resources, path);
    claims(errors, resources, spec, path);
    let of = |side: &str, name: &str| {
        let amount = at(resources, side).get(name);
        amount.map(|amount| quantities::read(Some(amount)))
    };
    let mut below = |side: Side, key: &str, applies: fn(&str) -> bool| {
        for (name, sum) in resource::aggregate_object_containers(spec, side).0 {
            let Some(whole) = of(key, &name).filter(|_| applies(&name)) else {
                continue;
            };
            if sum > whole {
                errors.invalid(
                    keyed(&child(path, key), &name),
                    whole.to_string(),
                    format!("must be greater than or equal to aggregate container {key} of {sum}"),
                );
            }
        }
    };
    below(Side::Requests, "requests", |_| true);
    below(Side::Limits, "limits", is_hugepages);
    for (i, container) in list(spec, "containers").iter().enumerate() {
        for (name, limit) in entries(container, "resources.limits") {
            let limit = quantities::read(Some(limit));
            let Some(whole) = of("limits", name).filter(|whole| limit > *whole) else {
                continue;
            };
            // The field in the error is upstream's.
            let field = keyed(&index(&child(path, "containers"), i), name);
            errors.invalid(
                child(&field, "limits"),
                limit.to_string(),
                format!("must be less than or equal to pod limits of {whole}"),
            );
        }
    }
}
