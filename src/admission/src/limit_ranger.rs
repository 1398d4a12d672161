//! LimitRanger: applies the LimitRanges of a namespace. They set containers' default
//! requests and limits, and bound those of containers, pods and claims.

use rkube_api::quantity::Quantity;
use rkube_api::status::Status;
use rkube_api::{Object, meta};

use crate::types::{Operation, Request};
use rkube_auth::{ObjectReader, tree};
use rkube_component_helpers::resource::{self, ResourceList, Side};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Returns whether LimitRanges apply to the request: new pods, resized pods, and claims.
fn concerns(request: &Request<'_>) -> bool {
    if request.object.is_none() || request.old.is_some_and(tree::is_terminating) {
        return false;
    }
    match (request.operation, request.resource, request.subresource) {
        _ if !request.group.is_empty() => false,
        (Operation::Create, "pods" | "persistentvolumeclaims", "") => true,
        (Operation::Update, "persistentvolumeclaims", "")
        | (Operation::Update, "pods", "resize") => true,
        _ => false,
    }
}

pub(super) fn mutate(reader: &dyn ObjectReader, request: &mut Request<'_>) -> Result<(), Status> {
    if !concerns(request) || request.resource != "pods" {
        return Ok(());
    }
    let ranges = reader.list("", "limitranges", Some(request.namespace));
    let Some(pod) = request.object.as_deref_mut() else {
        return Ok(());
    };
    for range in ranges {
        set_defaults(&range, pod);
    }
    Ok(())
}

/// Adds the default requests and limits that a pod's containers lack, and lists them in an
/// annotation.
fn set_defaults(range: &Object, pod: &mut Object) {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for item in tree::items(range, &["spec", "limits"]) {
        if tree::text(item, &["type"]) == "Container" {
            requests.extend(tree::entries(item, &["defaultRequest"]));
            limits.extend(tree::entries(item, &["default"]));
        }
    }
    let mut notes = Vec::new();
    for (field, title) in [
        ("containers", "container"),
        ("initContainers", "init container"),
    ] {
        if tree::items(pod, &["spec", field]).is_empty() {
            continue;
        }
        for container in tree::make_array(pod, &["spec", field]) {
            let name = tree::name_field(container).to_owned();
            for (defaults, list, note) in [
                (&requests, "requests", "request"),
                (&limits, "limits", "limit"),
            ] {
                let mut set: Vec<&str> = Vec::new();
                let is_missing =
                    |resource: &str| tree::at(container, &["resources", list, resource]).is_none();
                let missing: Vec<_> = defaults.iter().filter(|(r, _)| is_missing(r)).collect();
                for (resource, amount) in missing {
                    let amounts = tree::make_map(container, &["resources", list]);
                    amounts.insert((*resource).to_owned(), (*amount).clone());
                    set.push(resource);
                }
                if !set.is_empty() {
                    set.sort_unstable();
                    notes.push(format!("{} {note} for {title} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        meta::set_annotation(
            pod,
            ANNOTATION,
            &format!("LimitRanger plugin set: {}", notes.join("; ")),
        );
    }
}

pub(super) fn validate(reader: &dyn ObjectReader, request: &Request<'_>) -> Result<(), Status> {
    if !concerns(request) {
        return Ok(());
    }
    for range in reader.list("", "limitranges", Some(request.namespace)) {
        let errors = match request.resource {
            "pods" => check_pod(&range, request.new_object()),
            _ => check_claim(&range, request.new_object()),
        };
        if !errors.is_empty() {
            return Err(request.forbidden(rkube_auth::authz::aggregate(&errors)));
        }
    }
    Ok(())
}

/// The amounts that are checked against the bounds of one LimitRange item.
struct Check<'a> {
    kind: &'a str,
    requests: ResourceList,
    limits: ResourceList,
}

fn check_pod(range: &Object, pod: &Object) -> Vec<String> {
    let mut errors = Vec::new();
    for item in tree::items(range, &["spec", "limits"]) {
        let kind = tree::text(item, &["type"]);
        let checks: Vec<Check<'_>> = match kind {
            "Container" => {
                let containers = ["containers", "initContainers"].into_iter();
                let containers = containers.flat_map(|field| tree::items(pod, &["spec", field]));
                containers
                    .map(|c| Check {
                        kind,
                        requests: resource::object_amounts(c, Side::Requests),
                        limits: resource::object_amounts(c, Side::Limits),
                    })
                    .collect()
            }
            "Pod" => {
                let spec = pod.get("spec").unwrap_or(&Object::Null);
                let amounts = |side| resource::object_amounts_without_overhead(spec, side);
                vec![Check {
                    kind,
                    requests: amounts(Side::Requests),
                    limits: amounts(Side::Limits),
                }]
            }
            _ => Vec::new(),
        };
        for check in checks {
            errors.extend(check_bounds(item, "min", |name, bound| {
                check.min(name, bound)
            }));
            errors.extend(check_bounds(item, "max", |name, bound| {
                check.max(name, bound)
            }));
            errors.extend(check_bounds(item, "maxLimitRequestRatio", |name, bound| {
                check.ratio(name, bound)
            }));
        }
    }
    errors
}

fn check_claim(range: &Object, claim: &Object) -> Vec<String> {
    let requests = ResourceList::from_object(tree::at(claim, &["spec", "resources", "requests"]));
    let mut errors = Vec::new();
    for item in tree::items(range, &["spec", "limits"]) {
        let kind = tree::text(item, &["type"]);
        if kind == "PersistentVolumeClaim" {
            let check = Check {
                kind,
                requests: requests.clone(),
                limits: ResourceList::default(),
            };
            errors.extend(check_bounds(item, "min", |name, bound| {
                check.min(name, bound)
            }));
            errors.extend(check_bounds(item, "max", |name, bound| {
                check.max_request(name, bound)
            }));
        }
    }
    errors
}

/// Applies `check` to each bound in a field of an item. Returns the errors.
fn check_bounds(
    item: &Object,
    field: &str,
    check: impl Fn(&str, Quantity) -> Result<(), String>,
) -> Vec<String> {
    let bounds = ResourceList::from_object(tree::at(item, &[field])).0;
    bounds
        .into_iter()
        .filter_map(|(name, bound)| check(&name, bound).err())
        .collect()
}

impl Check<'_> {
    fn min(&self, name: &str, bound: Quantity) -> Result<(), String> {
        let kind = self.kind;
        let rule = format!("minimum {name} usage per {kind} is {bound}");
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Err(format!("{rule}.  No request is specified")),
            (Some(request), _) if request < bound => {
                Err(format!("{rule}, but request is {request}"))
            }
            (_, Some(limit)) if limit < bound => Err(format!("{rule}, but limit is {limit}")),
            _ => Ok(()),
        }
    }

    fn max(&self, name: &str, bound: Quantity) -> Result<(), String> {
        let kind = self.kind;
        let rule = format!("maximum {name} usage per {kind} is {bound}");
        match (self.limits.get(name), self.requests.get(name)) {
            (None, _) => Err(format!("{rule}.  No limit is specified")),
            (Some(limit), _) if limit > bound => Err(format!("{rule}, but limit is {limit}")),
            (_, Some(request)) if request > bound => {
                Err(format!("{rule}, but request is {request}"))
            }
            _ => Ok(()),
        }
    }

    fn max_request(&self, name: &str, bound: Quantity) -> Result<(), String> {
        let kind = self.kind;
        let rule = format!("maximum {name} usage per {kind} is {bound}");
        match self.requests.get(name) {
            None => Err(format!("{rule}.  No request is specified")),
            Some(request) if request > bound => Err(format!("{rule}, but request is {request}")),
            Some(_) => Ok(()),
        }
    }

    fn ratio(&self, name: &str, bound: Quantity) -> Result<(), String> {
        let kind = self.kind;
        let rule = format!("{name} max limit to request ratio per {kind} is {bound}");
        let given = |list: &ResourceList| list.get(name).filter(|amount| !amount.is_zero());
        let Some(request) = given(&self.requests) else {
            return Err(format!(
                "{rule}, but no request is specified or request is 0"
            ));
        };
        let Some(limit) = given(&self.limits) else {
            return Err(format!("{rule}, but no limit is specified or limit is 0"));
        };
        let ratio = limit.as_f64() / request.as_f64();
        if ratio > bound.as_f64() {
            return Err(format!("{rule}, but provided ratio is {ratio:.6}"));
        }
        Ok(())
    }
}
