//! The mandatory and suggested priority levels and flow schemas of Kubernetes v1.36.

use rkube_api::Object;
use serde_json::{Map, json};

use super::table::words;

/// A limited priority level with queues.
struct Level {
    name: &'static str,
    shares: u32,
    lendable_percent: u32,
    queues: u32,
    hand_size: u32,
}

const fn level(
    name: &'static str,
    shares: u32,
    lendable_percent: u32,
    queues: u32,
    hand_size: u32,
) -> Level {
    Level {
        name,
        shares,
        lendable_percent,
        queues,
        hand_size,
    }
}

const LEVELS: &[Level] = &[
    level("system", 30, 33, 64, 6),
    level("node-high", 40, 25, 64, 6),
    level("leader-election", 10, 0, 16, 4),
    level("workload-high", 40, 50, 128, 6),
    level("workload-low", 100, 90, 128, 6),
    level("global-default", 20, 50, 128, 6),
];
const QUEUE_LENGTH: u32 = 50;

/// Subjects of a flow schema, names separated by spaces.
enum SchemaSubjects {
    Groups(&'static str),
    Users(&'static str),
    /// All service accounts of kube-system.
    SystemAccounts,
}
use SchemaSubjects::{Groups, SystemAccounts, Users};

/// Verbs, API groups, resources, and whether cluster-scoped objects are included.
type Resources = (&'static str, &'static str, &'static str, bool);
/// Verbs and non-resource URLs.
type Paths = (&'static str, &'static str);

/// A flow schema.
struct Flow {
    name: &'static str,
    level: &'static str,
    precedence: u32,
    /// The method that distinguishes flows: `ByUser`, `ByNamespace`, or empty for none.
    distinguish: &'static str,
    who: &'static [SchemaSubjects],
    resources: &'static [Resources],
    paths: &'static [Paths],
}

const ALL_RESOURCES: &[Resources] = &[("*", "*", "*", true)];
const ALL_PATHS: &[Paths] = &[("*", "*")];
const EVERYBODY: &[SchemaSubjects] = &[Groups("system:unauthenticated system:authenticated")];

const FLOWS: &[Flow] = &[
    Flow {
        name: "exempt",
        level: "exempt",
        precedence: 1,
        distinguish: "",
        who: &[Groups("system:masters")],
        resources: ALL_RESOURCES,
        paths: ALL_PATHS,
    },
    Flow {
        name: "catch-all",
        level: "catch-all",
        precedence: 10000,
        distinguish: "ByUser",
        who: EVERYBODY,
        resources: ALL_RESOURCES,
        paths: ALL_PATHS,
    },
    Flow {
        name: "system-nodes",
        level: "system",
        precedence: 500,
        distinguish: "ByUser",
        who: &[Groups("system:nodes")],
        resources: ALL_RESOURCES,
        paths: ALL_PATHS,
    },
    Flow {
        name: "system-node-high",
        level: "node-high",
        precedence: 400,
        distinguish: "ByUser",
        who: &[Groups("system:nodes")],
        resources: &[
            ("*", "core", "nodes nodes/status", true),
            ("*", "coordination.k8s.io", "leases", false),
        ],
        paths: &[],
    },
    Flow {
        name: "probes",
        level: "exempt",
        precedence: 2,
        distinguish: "",
        who: EVERYBODY,
        resources: &[],
        paths: &[("get", "/healthz /readyz /livez")],
    },
    Flow {
        name: "system-leader-election",
        level: "leader-election",
        precedence: 100,
        distinguish: "ByUser",
        who: &[
            Users("system:kube-controller-manager system:kube-scheduler"),
            SystemAccounts,
        ],
        resources: &[("get create update", "coordination.k8s.io", "leases", false)],
        paths: &[],
    },
    Flow {
        name: "kube-controller-manager",
        level: "workload-high",
        precedence: 800,
        distinguish: "ByNamespace",
        who: &[Users("system:kube-controller-manager")],
        resources: ALL_RESOURCES,
        paths: ALL_PATHS,
    },
    Flow {
        name: "kube-scheduler",
        level: "workload-high",
        precedence: 800,
        distinguish: "ByNamespace",
        who: &[Users("system:kube-scheduler")],
        resources: ALL_RESOURCES,
        paths: ALL_PATHS,
    },
    Flow {
        name: "kube-system-service-accounts",
        level: "workload-high",
        precedence: 900,
        distinguish: "ByNamespace",
        who: &[SystemAccounts],
        resources: ALL_RESOURCES,
        paths: ALL_PATHS,
    },
    Flow {
        name: "service-accounts",
        level: "workload-low",
        precedence: 9000,
        distinguish: "ByUser",
        who: &[Groups("system:serviceaccounts")],
        resources: ALL_RESOURCES,
        paths: ALL_PATHS,
    },
    Flow {
        name: "global-default",
        level: "global-default",
        precedence: 9900,
        distinguish: "ByUser",
        who: EVERYBODY,
        resources: ALL_RESOURCES,
        paths: ALL_PATHS,
    },
];

fn object(kind: &str, name: &str, spec: Object) -> Object {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
        "spec": spec,
    })
}

/// Returns every priority level.
pub(super) fn levels() -> Vec<Object> {
    let exempt =
        json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let catch_all = json!({
        "type": "Limited",
        "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}},
    });
    let kind = "PriorityLevelConfiguration";
    let mut levels = vec![
        object(kind, "exempt", exempt),
        object(kind, "catch-all", catch_all),
    ];
    levels.extend(LEVELS.iter().map(|level| {
        let queuing =
            json!({"queues": level.queues, "handSize": level.hand_size, "queueLengthLimit": QUEUE_LENGTH});
        let limited = json!({
            "nominalConcurrencyShares": level.shares,
            "lendablePercent": level.lendable_percent,
            "limitResponse": {"type": "Queue", "queuing": queuing},
        });
        object(kind, level.name, json!({"type": "Limited", "limited": limited}))
    }));
    levels
}

/// Returns every flow schema.
pub(super) fn schemas() -> Vec<Object> {
    FLOWS.iter().map(Flow::to_object).collect()
}

impl Flow {
    fn to_object(&self) -> Object {
        let mut rules = Map::new();
        let subjects: Vec<Object> = self
            .who
            .iter()
            .flat_map(SchemaSubjects::to_objects)
            .collect();
        rules.insert("subjects".into(), subjects.into());
        if !self.resources.is_empty() {
            let resources =
                self.resources
                    .iter()
                    .map(|(verbs, groups, resources, cluster_scope)| {
                        let mut rule = json!({
                            "verbs": words(verbs),
                            "apiGroups": words(groups),
                            "resources": words(resources),
                            "namespaces": ["*"],
                        });
                        if *cluster_scope {
                            rule["clusterScope"] = true.into();
                        }
                        rule
                    });
            rules.insert("resourceRules".into(), resources.collect());
        }
        if !self.paths.is_empty() {
            let paths = self.paths.iter();
            let paths = paths.map(
                |(verbs, urls)| json!({"verbs": words(verbs), "nonResourceURLs": words(urls)}),
            );
            rules.insert("nonResourceRules".into(), paths.collect());
        }
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": self.level},
            "matchingPrecedence": self.precedence,
            "rules": [rules],
        });
        if !self.distinguish.is_empty() {
            spec["distinguisherMethod"] = json!({"type": self.distinguish});
        }
        object("FlowSchema", self.name, spec)
    }
}

impl SchemaSubjects {
    fn to_objects(&self) -> Vec<Object> {
        let named = |list, kind: &str, field: &str| {
            words(list)
                .into_iter()
                .map(|name| json!({"kind": kind, field: {"name": name}}))
                .collect()
        };
        match self {
            Groups(names) => named(names, "Group", "group"),
            Users(names) => named(names, "User", "user"),
            SystemAccounts => {
                vec![
                    json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}}),
                ]
            }
        }
    }
}
