//! Computes the usage of single objects, and which quotas they affect.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rkube_api::Object;
use rkube_api::quantity::{Format, Quantity};

use super::view::{Charged, ClaimView, PodView, ServiceView};
use crate::resource::{ResourceList, is_extended, is_hugepages};
use crate::resource_names::{is_basic, is_of_pods};

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

/// Kinds of objects that are charged for more than their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pod,
    Service,
    Claim,
    Other,
}

/// Computes how objects of a resource are charged.
#[derive(Clone, Debug)]
pub struct Evaluator<'a> {
    kind: Kind,
    /// Name with the prefix `count/`, such as `count/deployments.apps`.
    count: String,
    /// Older name for the count, without the prefix.
    alias: Option<&'a str>,
}

/// Converts a number of objects to a quantity.
pub fn count(number: usize) -> Quantity {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    Quantity::new(number, Format::DecimalSi)
}

/// Returns whether quotas count the resource as an extended one. This includes device class
/// resources, although their domain is a native one.
fn is_counted_as_extended(name: &str) -> bool {
    is_extended(name) || name.starts_with("deviceclass.resource.kubernetes.io/")
}

/// Returns the usage, by quota resource name, of a pod or container with these requests and limits.
pub fn compute_usage(requests: &ResourceList, limits: &ResourceList) -> ResourceList {
    let mut usage = ResourceList::default();
    usage.set("pods", count(1));
    for (name, amount) in &requests.0 {
        let is_native = is_basic(name) || is_hugepages(name);
        if is_native {
            usage.set(name, *amount);
        }
        if is_native || is_counted_as_extended(name) {
            usage.set(&format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits.0.iter().filter(|(name, _)| is_basic(name)) {
        usage.set(&format!("limits.{name}"), *amount);
    }
    usage
}

impl<'a> Evaluator<'a> {
    /// Returns the evaluator of a resource, or `None` if it is never charged.
    pub fn new(group: &str, resource: &'a str) -> Option<Self> {
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
            ("", "persistentvolumeclaims") => (Kind::Claim, None),
            ("", "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => {
                (Kind::Other, Some(resource))
            }
            _ => (Kind::Other, None),
        };
        Some(Evaluator { kind, count, alias })
    }

    /// Returns whether the objects are pods.
    pub fn is_pod(&self) -> bool {
        self.kind == Kind::Pod
    }

    /// Returns whether the objects are services.
    pub fn is_service(&self) -> bool {
        self.kind == Kind::Service
    }

    /// Returns whether the objects are persistent volume claims.
    pub fn is_claim(&self) -> bool {
        self.kind == Kind::Claim
    }

    /// Extracts the charged fields of an untyped object.
    pub fn view<'o>(&self, object: &'o Object, now: Timestamp) -> Charged<'o> {
        match self.kind {
            Kind::Pod => Charged::Pod(PodView::from_object(object, now)),
            Kind::Service => Charged::Service(ServiceView::from_object(object)),
            Kind::Claim => Charged::Claim(ClaimView::from_object(object)),
            Kind::Other => Charged::Other,
        }
    }

    /// Returns whether a resource of a quota counts objects of this kind.
    pub fn counts(&self, resource: &str) -> bool {
        if resource == self.count || Some(resource) == self.alias {
            return true;
        }
        match self.kind {
            Kind::Pod => {
                is_of_pods(resource)
                    || is_hugepages(resource)
                    || resource
                        .strip_prefix("requests.")
                        .is_some_and(|name| is_hugepages(name) || is_counted_as_extended(name))
            }
            Kind::Service => matches!(
                resource,
                "services" | "services.nodeports" | "services.loadbalancers"
            ),
            Kind::Claim => {
                let resource = resource
                    .rsplit_once(STORAGE_CLASS)
                    .map_or(resource, |(_, resource)| resource);
                matches!(resource, "persistentvolumeclaims" | "requests.storage")
            }
            Kind::Other => false,
        }
    }

    /// Returns the usage of an object, by quota resource name.
    pub fn usage(&self, object: &Charged<'_>) -> ResourceList {
        let mut usage = ResourceList::default();
        usage.set(&self.count, count(1));
        if let Some(alias) = self.alias {
            usage.set(alias, count(1));
        }
        match object {
            Charged::Pod(pod) if pod.is_over => {}
            Charged::Pod(pod) => usage.add(&compute_usage(&pod.requests, &pod.limits)),
            Charged::Service(service) => {
                usage.set("services", count(1));
                usage.set("services.loadbalancers", count(service.load_balancers));
                usage.set("services.nodeports", count(service.node_ports));
            }
            Charged::Claim(claim) => claim_usage(claim, &mut usage),
            Charged::Other => {}
        }
        usage
    }
}

fn claim_usage(claim: &ClaimView<'_>, usage: &mut ResourceList) {
    let mut set = |resource: &str, amount: Quantity| {
        usage.set(resource, amount);
        if !claim.class.is_empty() {
            let of_class = format!("{}{STORAGE_CLASS}{resource}", claim.class);
            usage.set(&of_class, amount);
        }
    };
    set("persistentvolumeclaims", count(1));
    if let Some(requested) = claim.requested {
        // After a failed expansion, the larger amount may still be allocated.
        let mut amount = claim.allocated.map_or(requested, |q| q.max(requested));
        amount.round_up(0);
        set("requests.storage", amount);
    }
}

impl Charged<'_> {
    /// Returns whether a scope of a quota selects the object.
    ///
    /// Scopes without a selector use the operator `Exists`.
    pub fn in_scope(&self, scope: &str, operator: &str, values: &[&str]) -> bool {
        let selects = |names: &BTreeSet<&str>| match operator {
            "Exists" => !names.is_empty(),
            "DoesNotExist" => names.is_empty(),
            "In" => names.iter().any(|name| values.contains(name)),
            "NotIn" => names.is_empty() || names.iter().any(|name| !values.contains(name)),
            _ => false,
        };
        match (self, scope) {
            (Charged::Pod(pod), "Terminating") => pod.has_deadline,
            (Charged::Pod(pod), "NotTerminating") => !pod.has_deadline,
            (Charged::Pod(pod), "BestEffort") => pod.is_best_effort,
            (Charged::Pod(pod), "NotBestEffort") => !pod.is_best_effort,
            (Charged::Pod(pod), "PriorityClass") => {
                let class = [pod.priority_class].into_iter();
                selects(&class.filter(|class| !class.is_empty()).collect())
            }
            (Charged::Pod(pod), "CrossNamespacePodAffinity") => pod.has_cross_namespace_affinity,
            (Charged::Claim(claim), "VolumeAttributesClass") => selects(&claim.attribute_classes),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn texts(list: &ResourceList) -> BTreeMap<&str, String> {
        let entries = list.0.iter();
        entries
            .map(|(name, amount)| (name.as_str(), amount.to_string()))
            .collect()
    }

    /// Returns the usage of a core object. Asserts that typed and untyped views agree.
    fn usage(resource: &str, object: &Value) -> Value {
        let evaluator = Evaluator::new("", resource).unwrap();
        let untyped = evaluator.usage(&evaluator.view(object, now()));
        let clone = object.clone();
        let typed = match resource {
            "pods" => {
                let pod = serde_json::from_value(clone).unwrap();
                evaluator.usage(&Charged::Pod(PodView::new(&pod, now())))
            }
            "services" => {
                let service = serde_json::from_value(clone).unwrap();
                evaluator.usage(&Charged::Service(ServiceView::new(&service)))
            }
            _ => {
                let claim = serde_json::from_value(clone).unwrap();
                evaluator.usage(&Charged::Claim(ClaimView::new(&claim)))
            }
        };
        assert_eq!(untyped, typed);
        json!(texts(&untyped))
    }

    #[test]
    fn pods() {
        let pod = json!({"spec": {
            "containers": [{"name": "c", "resources": {
                "requests": {"cpu": "1", "example.com/gpu": "2", "hugepages-2Mi": "2Mi"},
                "limits": {"cpu": "2", "example.com/gpu": "2"},
            }}],
            "resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "4"}},
            "overhead": {"cpu": "100m", "memory": "1Mi"},
        }});
        assert_eq!(
            usage("pods", &pod),
            json!({
                "count/pods": "1", "pods": "1",
                "cpu": "3100m", "requests.cpu": "3100m", "limits.cpu": "4100m",
                "memory": "1Mi", "requests.memory": "1Mi",
                "hugepages-2Mi": "2Mi", "requests.hugepages-2Mi": "2Mi",
                "requests.example.com/gpu": "2",
            })
        );
        let mut over = pod.clone();
        over["status"] = json!({"phase": "Succeeded"});
        assert_eq!(usage("pods", &over), json!({"count/pods": "1"}));
        over = pod;
        over["metadata"] =
            json!({"deletionTimestamp": "2025-12-31T23:59:00Z", "deletionGracePeriodSeconds": 59});
        assert_eq!(usage("pods", &over), json!({"count/pods": "1"}));
        over["metadata"]["deletionGracePeriodSeconds"] = json!(60);
        assert_eq!(usage("pods", &over)["pods"], "1");
    }

    #[test]
    fn services_and_claims() {
        let ports = json!([{"port": 1, "nodePort": 30000}, {"port": 2}]);
        for (spec, balancers, node_ports) in [
            (json!({"ports": ports}), "0", "0"),
            (json!({"type": "NodePort", "ports": ports}), "0", "2"),
            (json!({"type": "LoadBalancer", "ports": ports}), "1", "2"),
            (
                json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false}),
                "1",
                "1",
            ),
        ] {
            assert_eq!(
                usage("services", &json!({"spec": spec})),
                json!({"count/services": "1", "services": "1",
                    "services.loadbalancers": balancers, "services.nodeports": node_ports})
            );
        }
        let claim = json!({
            "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"allocatedResources": {"storage": "2Gi"}},
        });
        assert_eq!(
            usage("persistentvolumeclaims", &claim),
            json!({
                "count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1",
                "requests.storage": "2Gi",
                "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
                "fast.storageclass.storage.k8s.io/requests.storage": "2Gi",
            })
        );
    }

    #[test]
    fn scopes() {
        let affinity = |term: Value| json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]}});
        let term = json!({"topologyKey": "k", "namespaceSelector": {}});
        let pod = json!({"spec": {
            "containers": [], "activeDeadlineSeconds": 0, "priorityClassName": "high",
            "affinity": affinity(term),
        }});
        let typed = serde_json::from_value(pod.clone()).unwrap();
        for view in [
            PodView::from_object(&pod, now()),
            PodView::new(&typed, now()),
        ] {
            let view = Charged::Pod(view);
            for (scope, operator, values, selected) in [
                ("Terminating", "Exists", vec![], true),
                ("NotTerminating", "Exists", vec![], false),
                ("BestEffort", "Exists", vec![], true),
                ("NotBestEffort", "Exists", vec![], false),
                ("CrossNamespacePodAffinity", "Exists", vec![], true),
                ("PriorityClass", "Exists", vec![], true),
                ("PriorityClass", "DoesNotExist", vec![], false),
                ("PriorityClass", "In", vec!["high"], true),
                ("PriorityClass", "In", vec!["low"], false),
                ("PriorityClass", "NotIn", vec!["high"], false),
                ("PriorityClass", "NotIn", vec!["low"], true),
                ("VolumeAttributesClass", "Exists", vec![], false),
            ] {
                let actual = view.in_scope(scope, operator, &values);
                assert_eq!(actual, selected, "{scope} {operator} {values:?}");
            }
        }
    }

    #[test]
    fn counted_resources() {
        let pods = Evaluator::new("", "pods").unwrap();
        for name in [
            "count/pods",
            "pods",
            "limits.memory",
            "hugepages-2Mi",
            "requests.hugepages-2Mi",
            "requests.example.com/gpu",
        ] {
            assert!(pods.counts(name), "{name}");
        }
        for name in ["services", "example.com/gpu", "limits.example.com/gpu"] {
            assert!(!pods.counts(name), "{name}");
        }
        assert!(Evaluator::new("", "secrets").unwrap().counts("secrets"));
        let deployments = Evaluator::new("apps", "deployments").unwrap();
        assert!(deployments.counts("count/deployments.apps"));
        assert!(!deployments.counts("deployments"));
        assert!(Evaluator::new("", "events").is_none());
    }
}
