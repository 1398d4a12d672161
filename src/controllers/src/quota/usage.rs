//! What a namespace uses, by the names that quotas know.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use rkube_api::quantity::{Format, Quantity};

use crate::common::pods;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// What there is in the namespace.
pub struct State<'a> {
    /// Its pods.
    pub pods: Vec<Arc<Pod>>,
    /// Its services.
    pub services: Vec<Arc<Service>>,
    /// Its volume claims.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// How many objects of a group's resource it has.
    pub count: &'a (dyn Fn(&str, &str) -> usize + Sync),
}

/// Old names of counts of core resources.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

fn zero() -> Quantity {
    Quantity::new(0, Format::DecimalSi)
}

fn number(count: usize) -> Quantity {
    Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

fn parse(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    list.into_iter()
        .flatten()
        .filter_map(|(name, text)| Some((name.clone(), Quantity::parse(&text.0).ok()?)))
        .collect()
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = match total.get(name) {
            Some(present) => present.add(*amount),
            None => *amount,
        };
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if total.get(name).is_none_or(|present| present < amount) {
            total.insert(name.clone(), *amount);
        }
    }
}

/// What a pod needs in all: its containers and sidecars together, or the most
/// that any step of its start needs, and its overhead.
fn total(pod: &Pod, of: impl Fn(&Container) -> Amounts, overhead: bool) -> Amounts {
    let Some(spec) = pod.spec.as_ref() else {
        return Amounts::new();
    };
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &of(container));
            raise(&mut starting, &sidecars);
        } else {
            let mut step = of(container);
            add(&mut step, &sidecars);
            raise(&mut starting, &step);
        }
    }
    let mut running = sidecars;
    for container in &spec.containers {
        add(&mut running, &of(container));
    }
    raise(&mut running, &starting);
    if overhead {
        add(&mut running, &parse(spec.overhead.as_ref()));
    }
    running
}

/// What a pod requests in all.
pub fn requests(pod: &Pod) -> Amounts {
    let of = |container: &Container| {
        parse(
            container
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref()),
        )
    };
    total(pod, of, true)
}

fn limits(pod: &Pod) -> Amounts {
    let of = |container: &Container| {
        parse(
            container
                .resources
                .as_ref()
                .and_then(|resources| resources.limits.as_ref()),
        )
    };
    total(pod, of, true)
}

fn is_best_effort(pod: &Pod) -> bool {
    let counts = |amounts: Amounts| {
        amounts
            .iter()
            .any(|(name, amount)| (name == "cpu" || name == "memory") && !amount.is_zero())
    };
    !counts(requests(pod)) && !counts(limits(pod))
}

fn has_foreign_affinity(pod: &Pod) -> bool {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let far = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let hard = near
        .and_then(|near| {
            near.required_during_scheduling_ignored_during_execution
                .as_ref()
        })
        .into_iter()
        .chain(far.and_then(|far| {
            far.required_during_scheduling_ignored_during_execution
                .as_ref()
        }))
        .flatten();
    let soft = near
        .and_then(|near| {
            near.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        })
        .into_iter()
        .chain(far.and_then(|far| {
            far.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        }))
        .flatten()
        .map(|term| &term.pod_affinity_term);
    hard.chain(soft).any(|term| {
        term.namespaces
            .as_ref()
            .is_some_and(|names| !names.is_empty())
            || term.namespace_selector.is_some()
    })
}

fn in_scope(pod: &Pod, scope: &str, operator: &str, values: &[String]) -> bool {
    let spec = pod.spec.as_ref();
    let deadline = spec
        .and_then(|spec| spec.active_deadline_seconds)
        .is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => deadline,
        "NotTerminating" => !deadline,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => has_foreign_affinity(pod),
        "PriorityClass" => {
            let class = spec
                .and_then(|spec| spec.priority_class_name.as_ref())
                .filter(|class| !class.is_empty());
            match operator {
                "In" => class.is_some_and(|class| values.contains(class)),
                "NotIn" => !class.is_some_and(|class| values.contains(class)),
                "Exists" => class.is_some(),
                "DoesNotExist" => class.is_none(),
                _ => false,
            }
        }
        _ => false,
    }
}

fn selects(quota: &ResourceQuota, pod: &Pod) -> bool {
    let Some(spec) = quota.spec.as_ref() else {
        return false;
    };
    let plain = spec
        .scopes
        .iter()
        .flatten()
        .all(|scope| in_scope(pod, scope, "Exists", &[]));
    let selector = spec
        .scope_selector
        .iter()
        .flat_map(|selector| selector.match_expressions.iter().flatten());
    plain
        && selector.clone().all(|wanted| {
            let values = wanted.values.as_deref().unwrap_or_default();
            in_scope(pod, &wanted.scope_name, &wanted.operator, values)
        })
}

fn pod_usage(quota: &ResourceQuota, pods: &[Arc<Pod>]) -> Amounts {
    let mut all = Amounts::new();
    for pod in pods.iter().filter(|pod| selects(quota, pod)) {
        let mut one = Amounts::from([("count/pods".to_owned(), number(1))]);
        if !pods::is_terminal(pod) {
            one.insert("pods".into(), number(1));
            for (name, amount) in requests(pod) {
                // Plain names of the basic resources mean requests, too.
                if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                    || name.starts_with("hugepages-")
                {
                    one.insert(name.clone(), amount);
                }
                one.insert(format!("requests.{name}"), amount);
            }
            for (name, amount) in limits(pod) {
                one.insert(format!("limits.{name}"), amount);
            }
        }
        add(&mut all, &one);
    }
    all
}

fn service_usage(services: &[Arc<Service>]) -> Amounts {
    let mut all = Amounts::new();
    for service in services {
        let spec = service.spec.as_ref();
        let kind = spec
            .and_then(|spec| spec.type_.as_deref())
            .unwrap_or("ClusterIP");
        let ports = spec
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default();
        let mut one = Amounts::new();
        if kind == "LoadBalancer" {
            one.insert("services.loadbalancers".into(), number(1));
            // Only node ports that were really given count.
            let given = ports
                .iter()
                .filter(|port| port.node_port.unwrap_or(0) > 0)
                .count();
            let all = spec.and_then(|spec| spec.allocate_load_balancer_node_ports) != Some(false);
            one.insert(
                "services.nodeports".into(),
                number(if all { ports.len() } else { given }),
            );
        } else if kind == "NodePort" {
            one.insert("services.nodeports".into(), number(ports.len()));
        }
        add(&mut all, &one);
    }
    all
}

fn claim_usage(claims: &[Arc<PersistentVolumeClaim>]) -> Amounts {
    let mut all = Amounts::new();
    for claim in claims {
        let spec = claim.spec.as_ref();
        let requests = parse(
            spec.and_then(|spec| spec.resources.as_ref())
                .and_then(|all| all.requests.as_ref()),
        );
        let storage = requests.get("storage").copied().unwrap_or_else(zero);
        let mut one = Amounts::from([("requests.storage".to_owned(), storage)]);
        if let Some(class) = spec
            .and_then(|spec| spec.storage_class_name.as_ref())
            .filter(|class| !class.is_empty())
        {
            let suffix = "storageclass.storage.k8s.io";
            one.insert(format!("{class}.{suffix}/requests.storage"), storage);
            one.insert(
                format!("{class}.{suffix}/persistentvolumeclaims"),
                number(1),
            );
        }
        add(&mut all, &one);
    }
    all
}

/// What is used of everything that the quota limits.
pub fn used(quota: &ResourceQuota, state: &State<'_>) -> Amounts {
    let mut known = pod_usage(quota, &state.pods);
    known.extend(service_usage(&state.services));
    known.extend(claim_usage(&state.claims));
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.into_iter()
        .flatten()
        .map(|(name, _)| {
            let amount = if let Some(amount) = known.get(name) {
                *amount
            } else if COUNTED.contains(&name.as_str()) {
                number((state.count)("", name))
            } else if let Some(resource) = name
                .strip_prefix("count/")
                .filter(|resource| *resource != "pods")
            {
                let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
                number((state.count)(group, plural))
            } else {
                zero()
            };
            (name.clone(), amount)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::pod;
    use k8s_openapi::api::core::v1::{ResourceQuotaSpec, ResourceRequirements};

    fn container(cpu: &str, policy: Option<&str>) -> Container {
        Container {
            restart_policy: policy.map(str::to_owned),
            resources: Some(ResourceRequirements {
                requests: Some([("cpu".to_owned(), Text(cpu.into()))].into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_pod_needs_its_most_demanding_step() {
        let mut pod = pod("a", "n", "Running", None);
        let spec = pod.spec.as_mut().unwrap();
        spec.containers = vec![container("100m", None), container("200m", None)];
        assert_eq!(requests(&pod)["cpu"].to_string(), "300m");
        pod.spec.as_mut().unwrap().init_containers = Some(vec![
            container("100m", Some("Always")),
            container("1", None),
        ]);
        assert_eq!(requests(&pod)["cpu"].to_string(), "1100m");
    }

    #[test]
    fn quotas_count_what_they_name() {
        let mut running = pod("a", "n", "Running", None);
        running.spec.as_mut().unwrap().containers = vec![container("250m", None)];
        let state = State {
            pods: vec![
                Arc::new(running),
                Arc::new(pod("b", "n", "Succeeded", None)),
            ],
            services: vec![],
            claims: vec![],
            count: &|group, plural| {
                if (group, plural) == ("apps", "deployments") {
                    3
                } else {
                    7
                }
            },
        };
        let names = [
            "cpu",
            "requests.cpu",
            "pods",
            "count/pods",
            "count/deployments.apps",
            "secrets",
            "limits.cpu",
        ];
        let quota = ResourceQuota {
            spec: Some(ResourceQuotaSpec {
                hard: Some(
                    names
                        .iter()
                        .map(|name| ((*name).to_owned(), Text("10".into())))
                        .collect(),
                ),
                ..Default::default()
            }),
            ..Default::default()
        };
        let used = used(&quota, &state);
        let shown: Vec<_> = names.iter().map(|name| used[*name].to_string()).collect();
        assert_eq!(shown, ["250m", "250m", "1", "2", "3", "7", "0"]);
    }
}
