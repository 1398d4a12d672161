//! What an object uses of a quota, and which quotas it concerns.

use std::collections::{BTreeMap, BTreeSet};

use rkube_api::quantity::{Format, Quantity};
use rkube_api::{Object, meta};

use crate::admission::resources::{self, ResourceList};
use crate::admission::{Operation, Request};
use crate::tree;

/// Resources that are never charged.
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";

/// How objects of a resource are charged.
pub(super) struct Evaluator<'a> {
    kind: Kind,
    /// `count/deployments.apps`.
    count: String,
    /// The resource's name in quotas from before all could be counted.
    alias: Option<&'a str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pod,
    Service,
    VolumeClaim,
    Other,
}

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSi)
}

impl<'a> Evaluator<'a> {
    pub(super) fn of(group: &str, resource: &'a str) -> Option<Evaluator<'a>> {
        if IGNORED.contains(&(group, resource)) {
            return None;
        }
        let count = match group {
            "" => format!("count/{resource}"),
            _ => format!("count/{resource}.{group}"),
        };
        let (kind, alias) = match (group, resource) {
            ("", "pods") => (Kind::Pod, None),
            ("", "services") => (Kind::Service, None),
            ("", "persistentvolumeclaims") => (Kind::VolumeClaim, None),
            ("", "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => {
                (Kind::Other, Some(resource))
            }
            _ => (Kind::Other, None),
        };
        Some(Evaluator { kind, count, alias })
    }

    /// Whether the request can change what is used.
    pub(super) fn handles(&self, request: &Request<'_>) -> bool {
        match (self.kind, request.operation, request.subresource) {
            (Kind::Pod, Operation::Create, "") | (Kind::Pod, Operation::Update, "resize") => true,
            (Kind::Pod, Operation::Update, "") => {
                has_deadline(request.new_object()) != has_deadline(request.old_object())
            }
            (Kind::Service, Operation::Create | Operation::Update, "") => true,
            (Kind::VolumeClaim, Operation::Create | Operation::Update, "") => true,
            (Kind::VolumeClaim, Operation::Update, "status") => {
                let (new, old) = (request.new_object(), request.old_object());
                let allocated = |claim| {
                    tree::text(claim, &["status", "allocatedResources", "storage"]).to_owned()
                };
                allocated(new) != allocated(old) || attribute_classes(new) != attribute_classes(old)
            }
            (Kind::Other, Operation::Create, "") => true,
            _ => false,
        }
    }

    /// Whether a resource of a quota counts these objects.
    pub(super) fn counts(&self, resource: &str) -> bool {
        if resource == self.count || Some(resource) == self.alias {
            return true;
        }
        match self.kind {
            Kind::Pod => {
                const OWN: [&str; 10] = [
                    "pods",
                    "cpu",
                    "memory",
                    "ephemeral-storage",
                    "requests.cpu",
                    "requests.memory",
                    "requests.ephemeral-storage",
                    "limits.cpu",
                    "limits.memory",
                    "limits.ephemeral-storage",
                ];
                OWN.contains(&resource)
                    || resource.starts_with("hugepages-")
                    || resource.starts_with("requests.hugepages-")
                    || resource.strip_prefix("requests.").is_some_and(is_extended)
            }
            Kind::Service => matches!(
                resource,
                "services" | "services.nodeports" | "services.loadbalancers"
            ),
            Kind::VolumeClaim => {
                let resource = resource
                    .rsplit_once(STORAGE_CLASS)
                    .map_or(resource, |(_, resource)| resource);
                matches!(resource, "persistentvolumeclaims" | "requests.storage")
            }
            Kind::Other => false,
        }
    }

    /// Whether an object is charged to a quota: something of it is limited,
    /// and every scope holds.
    pub(super) fn matches(&self, quota: &Object, object: &Object) -> bool {
        let limits = ResourceList::at(quota, &["status", "hard"]);
        if !limits.0.keys().any(|resource| self.counts(resource)) {
            return false;
        }
        let scopes = tree::strings(quota, &["spec", "scopes"]);
        let selectors = tree::items(quota, &["spec", "scopeSelector", "matchExpressions"]);
        scopes
            .into_iter()
            .all(|scope| self.in_scope(scope, "Exists", &[], object))
            && selectors.iter().all(|selector| {
                let text = |field| tree::text(selector, &[field]);
                self.in_scope(
                    text("scopeName"),
                    text("operator"),
                    &tree::strings(selector, &["values"]),
                    object,
                )
            })
    }

    fn in_scope(&self, scope: &str, operator: &str, values: &[&str], object: &Object) -> bool {
        let selects = |names: &BTreeSet<&str>| match operator {
            "Exists" => !names.is_empty(),
            "DoesNotExist" => names.is_empty(),
            "In" => names.iter().any(|name| values.contains(name)),
            "NotIn" => names.is_empty() || names.iter().any(|name| !values.contains(name)),
            _ => false,
        };
        match (self.kind, scope) {
            (Kind::Pod, "Terminating") => has_deadline(object),
            (Kind::Pod, "NotTerminating") => !has_deadline(object),
            (Kind::Pod, "BestEffort") => is_best_effort(object),
            (Kind::Pod, "NotBestEffort") => !is_best_effort(object),
            (Kind::Pod, "PriorityClass") => {
                let class = tree::text(object, &["spec", "priorityClassName"]);
                selects(
                    &[class]
                        .into_iter()
                        .filter(|class| !class.is_empty())
                        .collect(),
                )
            }
            (Kind::Pod, "CrossNamespacePodAffinity") => has_cross_namespace_affinity(object),
            (Kind::VolumeClaim, "VolumeAttributesClass") => selects(&attribute_classes(object)),
            _ => false,
        }
    }

    /// Errs when a pod does not say what it needs of a limited resource.
    pub(super) fn constraints(&self, restricted: &[String], object: &Object) -> Result<(), String> {
        const MUST_BE_SAID: [&str; 6] = [
            "cpu",
            "memory",
            "requests.cpu",
            "requests.memory",
            "limits.cpu",
            "limits.memory",
        ];
        let whole_pod = !ResourceList::at(object, &["spec", "resources", "requests"]).is_empty()
            || !ResourceList::at(object, &["spec", "resources", "limits"]).is_empty();
        if self.kind != Kind::Pod || whole_pod {
            return Ok(());
        }
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in ["containers", "initContainers"]
            .iter()
            .flat_map(|f| tree::items(object, &["spec", f]))
        {
            let amounts = |field| ResourceList::at(container, &["resources", field]);
            let said = amounts_of_pod(&amounts("requests"), &amounts("limits"));
            for resource in restricted
                .iter()
                .filter(|r| MUST_BE_SAID.contains(&r.as_str()))
            {
                if said.get(resource).is_none() {
                    missing
                        .entry(resource)
                        .or_default()
                        .insert(tree::name_field(container));
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = missing
            .into_iter()
            .map(|(resource, names)| {
                format!(
                    "{resource} for: {}",
                    names.into_iter().collect::<Vec<_>>().join(",")
                )
            })
            .collect();
        Err(format!("must specify {}", missing.join("; ")))
    }

    /// What an object uses.
    pub(super) fn usage(&self, object: &Object) -> ResourceList {
        let mut usage = ResourceList::default();
        usage.set(&self.count, one());
        if let Some(alias) = self.alias {
            usage.set(alias, one());
        }
        match self.kind {
            Kind::Pod if is_over(object) => {}
            Kind::Pod => {
                let (mut requests, mut limits) = (
                    resources::of_pod(object, "requests"),
                    resources::of_pod(object, "limits"),
                );
                let overhead = ResourceList::at(object, &["spec", "overhead"]);
                requests.add(&overhead);
                // A resource without a limit has none with overhead either.
                for (name, amount) in overhead.0 {
                    limits
                        .0
                        .entry(name)
                        .and_modify(|limit| *limit = limit.add(amount));
                }
                usage.add(&amounts_of_pod(&requests, &limits));
            }
            Kind::Service => service_usage(object, &mut usage),
            Kind::VolumeClaim => claim_usage(object, &mut usage),
            Kind::Other => {}
        }
        usage
    }
}

/// Whether a name is that of an extended resource: of a domain, and not of
/// Kubernetes' own, or of a device class.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
        || name.starts_with("deviceclass.resource.kubernetes.io/")
}

/// Requests and limits under the names that quotas know them by.
fn amounts_of_pod(requests: &ResourceList, limits: &ResourceList) -> ResourceList {
    let mut usage = ResourceList::default();
    usage.set("pods", one());
    for (name, amount) in &requests.0 {
        let native = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if native || name.starts_with("hugepages-") {
            usage.set(name, *amount);
        }
        if native || name.starts_with("hugepages-") || is_extended(name) {
            usage.set(&format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in &limits.0 {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.set(&format!("limits.{name}"), *amount);
        }
    }
    usage
}

fn service_usage(service: &Object, usage: &mut ResourceList) {
    let ports = tree::items(service, &["spec", "ports"]);
    let has_node_port =
        |port: &&Object| tree::int(port, &["nodePort"]).is_some_and(|port| port != 0);
    let (balancers, node_ports) = match tree::text(service, &["spec", "type"]) {
        "NodePort" => (0, ports.len()),
        "LoadBalancer"
            if tree::flag(service, &["spec", "allocateLoadBalancerNodePorts"]) == Some(false) =>
        {
            (1, ports.iter().filter(has_node_port).count())
        }
        "LoadBalancer" => (1, ports.len()),
        _ => (0, 0),
    };
    usage.set("services", one());
    usage.set(
        "services.loadbalancers",
        Quantity::new(balancers, Format::DecimalSi),
    );
    usage.set(
        "services.nodeports",
        Quantity::new(node_ports as i64, Format::DecimalSi),
    );
}

fn claim_usage(claim: &Object, usage: &mut ResourceList) {
    let old_class = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class");
    let class = old_class.unwrap_or_else(|| tree::text(claim, &["spec", "storageClassName"]));
    let mut set = |resource: &str, amount: Quantity| {
        usage.set(resource, amount);
        if !class.is_empty() {
            usage.set(&format!("{class}{STORAGE_CLASS}{resource}"), amount);
        }
    };
    set("persistentvolumeclaims", one());
    let requested = ResourceList::at(claim, &["spec", "resources", "requests"]).get("storage");
    // While a volume shrinks back after a failed expansion, what it had counts.
    let allocated = ResourceList::at(claim, &["status", "allocatedResources"]).get("storage");
    if let Some(mut amount) = requested {
        amount = allocated.map_or(amount, |allocated| allocated.max(amount));
        amount.round_up(0);
        set("requests.storage", amount);
    }
}

fn has_deadline(pod: &Object) -> bool {
    tree::int(pod, &["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0)
}

/// Whether a pod uses nothing any more: it ended, or should have long since.
fn is_over(pod: &Object) -> bool {
    if matches!(
        tree::text(pod, &["status", "phase"]),
        "Failed" | "Succeeded"
    ) {
        return true;
    }
    let deleted = meta::deletion_timestamp(pod).and_then(meta::parse_time);
    match (deleted, meta::deletion_grace_period_seconds(pod)) {
        (Some(deleted), Some(grace)) => {
            let end = deleted.checked_add(jiff::SignedDuration::from_secs(grace));
            end.is_ok_and(|end| jiff::Timestamp::now() > end)
        }
        _ => false,
    }
}

/// Whether a pod asks for no CPU and no memory.
fn is_best_effort(pod: &Object) -> bool {
    let class = tree::text(pod, &["status", "qosClass"]);
    if !class.is_empty() {
        return class == "BestEffort";
    }
    let containers = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|f| tree::items(pod, &["spec", f]));
    let asks = |part: &Object| {
        ["requests", "limits"].iter().any(|field| {
            let amounts = ResourceList::at(part, &["resources", field]);
            ["cpu", "memory"]
                .iter()
                .any(|name| amounts.get(name).is_some_and(|amount| amount.sign() > 0))
        })
    };
    !pod.get("spec").is_some_and(asks) && !containers.into_iter().any(asks)
}

fn has_cross_namespace_affinity(pod: &Object) -> bool {
    let crosses = |term: &Object| {
        !tree::items(term, &["namespaces"]).is_empty()
            || term.get("namespaceSelector").is_some_and(Object::is_object)
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let terms = |field| tree::items(pod, &["spec", "affinity", kind, field]);
        terms("requiredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .any(crosses)
            || terms("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .filter_map(|weighted| weighted.get("podAffinityTerm"))
                .any(crosses)
    })
}

/// The names of the attribute classes that a claim has or is to have.
fn attribute_classes(claim: &Object) -> BTreeSet<&str> {
    const PATHS: [&[&str]; 3] = [
        &["spec", "volumeAttributesClassName"],
        &["status", "currentVolumeAttributesClassName"],
        &[
            "status",
            "modifyVolumeStatus",
            "targetVolumeAttributesClassName",
        ],
    ];
    PATHS
        .iter()
        .map(|path| tree::text(claim, path))
        .filter(|name| !name.is_empty())
        .collect()
}
