use base64::Engine as _;
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use futures::future::BoxFuture;
use rkube_api::Object;
use rkube_api::gvk::GroupResource;
use rkube_auth::UserInfo;
use rkube_auth::testing::{Cluster, node};
use rkube_auth::tree;

struct Fixture {
    cluster: Arc<Cluster>,
    plugins: Plugins,
    user: UserInfo,
}

fn fixture() -> Fixture {
    let cluster = Cluster::new();
    let reader: Arc<dyn ObjectReader> = cluster.clone();
    let authorizer = Arc::new(Authorizer::new(reader.clone()));
    cluster.put(
        "",
        "namespaces",
        json!({"metadata": {"name": "ns"}, "status": {"phase": "Active"}}),
    );
    cluster.put(
        "",
        "serviceaccounts",
        json!({"metadata": {"name": "default", "namespace": "ns"}}),
    );
    Fixture {
        plugins: Plugins::new(reader, authorizer, PluginsConfig::default()),
        cluster,
        user: UserInfo::authenticated("jane", &[]),
    }
}

/// Creates a request for an object, with the object's namespace and name.
fn request<'a>(
    user: &'a UserInfo,
    operation: Operation,
    (group, resource, subresource): (&'a str, &'a str, &'a str),
    object: Option<&'a mut Object>,
    old: Option<&'a Object>,
) -> Request<'a> {
    // Leaked: the names must outlive the request.
    let leak = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    let shown = object.as_deref().or(old);
    let (namespace, name) = shown.map_or(("", ""), |o| {
        (leak(tree::namespace(o)), leak(tree::name(o)))
    });
    Request {
        operation,
        group,
        version: "v1",
        resource,
        subresource,
        kind: "",
        namespace,
        name,
        user,
        object,
        old,
        dry_run: false,
        options: None,
    }
}

const POD: (&str, &str, &str) = ("", "pods", "");

impl Fixture {
    fn create(&self, what: (&str, &str, &str), mut object: Object) -> Result<Object, Status> {
        self.create_as(&self.user, what, &mut object)
            .map(|_| object)
    }

    fn create_as(
        &self,
        user: &UserInfo,
        what: (&str, &str, &str),
        object: &mut Object,
    ) -> Result<Warnings, Status> {
        let mut request = request(user, Operation::Create, what, Some(object), None);
        self.plugins.mutate(&mut request)?;
        self.plugins.validate(&request, &mut |_, _| {})
    }

    fn update_as(
        &self,
        user: &UserInfo,
        what: (&str, &str, &str),
        old: &Object,
        new: &Object,
    ) -> Result<Warnings, String> {
        let mut new = new.clone();
        let mut request = request(user, Operation::Update, what, Some(&mut new), Some(old));
        self.plugins.mutate(&mut request).map_err(|e| e.message)?;
        let warnings = self.plugins.validate(&request, &mut |_, _| {});
        warnings.map_err(|e| e.message)
    }

    fn delete_as(
        &self,
        user: &UserInfo,
        what: (&str, &str, &str),
        old: &Object,
    ) -> Result<Warnings, String> {
        let mut request = request(user, Operation::Delete, what, None, Some(old));
        self.plugins.mutate(&mut request).map_err(|e| e.message)
    }
}

fn pod(spec: Object) -> Object {
    json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})
}

fn message<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
    result.unwrap_err().message
}

#[test]
fn namespaces_must_be_there_and_alive() {
    let w = fixture();
    let mut config = json!({"metadata": {"name": "c", "namespace": "gone"}});
    assert_eq!(
        message(w.create(("", "configmaps", ""), config.clone())),
        r#"namespaces "gone" not found"#
    );
    w.cluster.put(
        "",
        "namespaces",
        json!({"metadata": {"name": "gone"}, "status": {"phase": "Terminating"}}),
    );
    let refusal = w
        .create(("", "configmaps", ""), config.clone())
        .unwrap_err();
    assert_eq!(
        refusal.message,
        r#"configmaps "c" is forbidden: unable to create new content in namespace gone because it is being terminated"#
    );
    let cause = &refusal.details.unwrap().causes[0];
    assert_eq!(
        (cause.reason.as_ref(), cause.field.as_str()),
        ("NamespaceTerminating", "metadata.namespace")
    );
    let old = config.clone();
    config["data"] = json!({});
    assert!(
        w.update_as(&w.user, ("", "configmaps", ""), &old, &config)
            .is_ok(),
        "what is there may change"
    );
    for (name, deletable) in [("default", false), ("kube-system", false), ("ns", true)] {
        let namespace = json!({"metadata": {"name": name}});
        assert_eq!(
            w.delete_as(&w.user, ("", "namespaces", ""), &namespace)
                .is_ok(),
            deletable,
            "{name}"
        );
    }
}

#[test]
fn pods_get_an_account_and_its_token() {
    let w = fixture();
    let containers = json!([
        {"name": "a"},
        {"name": "b", "volumeMounts": [{"name": "own", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]},
    ]);
    let made = w
        .create(
            POD,
            pod(json!({"containers": containers, "initContainers": [{"name": "i"}]})),
        )
        .unwrap();
    let spec = &made["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    let volume = &spec["volumes"][0];
    let name = volume["name"].as_str().unwrap();
    assert!(
        name.starts_with("kube-api-access-") && name.len() == 21,
        "{name}"
    );
    assert_eq!(
        volume["projected"],
        json!({
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
            ],
        })
    );
    let mount = json!([{"name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
    assert_eq!(spec["containers"][0]["volumeMounts"], mount);
    assert_eq!(
        spec["containers"][1]["volumeMounts"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
    // A second admission changes nothing.
    let again = w.create(POD, made.clone()).unwrap();
    assert_eq!(again, made);

    let without = json!({"automountServiceAccountToken": false, "containers": [{"name": "a"}]});
    assert_eq!(
        w.create(POD, pod(without)).unwrap()["spec"].get("volumes"),
        None
    );
    assert_eq!(
        message(w.create(
            POD,
            pod(json!({"serviceAccountName": "robot", "containers": []}))
        )),
        r#"pods "p" is forbidden: error looking up service account ns/robot: serviceaccount "robot" not found"#
    );
    w.cluster.put(
        "",
        "serviceaccounts",
        json!({
            "metadata": {"name": "robot", "namespace": "ns", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
            "automountServiceAccountToken": false,
            "imagePullSecrets": [{"name": "pull"}],
            "secrets": [{"name": "known"}],
        }),
    );
    let robot = |volumes: Object| {
        w.create(POD, pod(json!({"serviceAccountName": "robot", "containers": [{"name": "a"}], "volumes": volumes})))
    };
    let made = robot(json!([{"name": "v", "secret": {"secretName": "known"}}])).unwrap();
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "pull"}]));
    assert_eq!(made["spec"]["volumes"].as_array().unwrap().len(), 1);
    assert_eq!(
        message(robot(
            json!([{"name": "v", "secret": {"secretName": "other"}}])
        )),
        r#"pods "p" is forbidden: volume with secret.secretName="other" is not allowed because service account robot does not reference that secret"#
    );
}

#[test]
fn pods_wait_for_a_new_namespaces_account() {
    let w = fixture();
    w.cluster.remove("", "serviceaccounts", "ns", "default");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut object = pod(json!({"containers": []}));
        let request = request(&w.user, Operation::Create, POD, Some(&mut object), None);
        let wait = w.plugins.wait_until_ready(&request);
        let make = async {
            tokio::task::yield_now().await;
            w.cluster.put(
                "",
                "serviceaccounts",
                json!({"metadata": {"name": "default", "namespace": "ns"}}),
            );
        };
        futures::future::join(wait, make).await;
    });
    assert!(w.create(POD, pod(json!({"containers": []}))).is_ok());
}

#[test]
fn pods_tolerate_trouble_for_five_minutes() {
    let w = fixture();
    let toleration = |key: &str| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    let made = |tolerations: Object| {
        w.create(
            POD,
            pod(json!({"containers": [], "tolerations": tolerations})),
        )
        .unwrap()["spec"]["tolerations"]
            .clone()
    };
    assert_eq!(
        made(json!([])),
        json!([toleration("not-ready"), toleration("unreachable")])
    );
    let own = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists"});
    assert_eq!(made(json!([own])), json!([own, toleration("unreachable")]));
    let all = json!({"operator": "Exists"});
    assert_eq!(made(json!([all])), json!([all]));
}

#[test]
fn priority_comes_from_the_class() {
    let w = fixture();
    let made = |spec: Object| w.create(POD, pod(spec)).map(|p| p["spec"].clone());
    let spec = made(json!({"containers": []})).unwrap();
    assert_eq!(
        (&spec["priority"], &spec["preemptionPolicy"]),
        (&json!(0), &json!("PreemptLowerPriority"))
    );
    assert_eq!(spec.get("priorityClassName"), None);
    let spec =
        made(json!({"containers": [], "priorityClassName": "system-node-critical"})).unwrap();
    assert_eq!(spec["priority"], 2_000_001_000);
    assert_eq!(
        message(made(json!({"containers": [], "priorityClassName": "none"}))),
        r#"pods "p" is forbidden: no PriorityClass with name none was found"#
    );
    assert_eq!(
        message(made(json!({"containers": [], "priority": 7}))),
        r#"pods "p" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name"#
    );
    let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value, "globalDefault": true});
    let classes = ("scheduling.k8s.io", "priorityclasses", "");
    w.create(classes, class("a", 5)).unwrap();
    w.cluster
        .put("scheduling.k8s.io", "priorityclasses", class("a", 5));
    assert_eq!(
        message(w.create(classes, class("b", 6))),
        r#"priorityclasses.scheduling.k8s.io "b" is forbidden: PriorityClass a is already marked as default. Only one default can exist"#
    );
    let spec = made(json!({"containers": []})).unwrap();
    assert_eq!(
        (&spec["priority"], &spec["priorityClassName"]),
        (&json!(5), &json!("a"))
    );
}

#[test]
fn new_nodes_are_tainted_and_pods_learn_where_they_are() {
    let w = fixture();
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let made = w
        .create(("", "nodes", ""), json!({"metadata": {"name": "n1"}}))
        .unwrap();
    assert_eq!(made["spec"]["taints"], json!([taint]));
    let again = w.create(("", "nodes", ""), made.clone()).unwrap();
    assert_eq!(again, made);
    w.cluster.put(
        "",
        "nodes",
        json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z", "other": "x"}}}),
    );
    let binding = json!({"metadata": {"name": "p", "namespace": "ns"}, "target": {"kind": "Node", "name": "n1"}});
    let bound = w.create(("", "pods", "binding"), binding).unwrap();
    assert_eq!(
        bound["metadata"]["labels"],
        json!({"topology.kubernetes.io/zone": "z"})
    );
}

#[test]
fn storage_objects_are_defaulted_and_protected() {
    let w = fixture();
    let class = |name: &str, made: &str, default: &str, grows: bool| {
        w.cluster.put(
            "storage.k8s.io",
            "storageclasses",
            json!({
                "metadata": {
                    "name": name,
                    "creationTimestamp": made,
                    "annotations": {"storageclass.kubernetes.io/is-default-class": default},
                },
                "allowVolumeExpansion": grows,
            }),
        );
    };
    class("old", "2026-01-01T00:00:00Z", "true", false);
    class("new", "2026-02-01T00:00:00Z", "true", true);
    class("newest", "2026-03-01T00:00:00Z", "false", true);
    let claims = ("", "persistentvolumeclaims", "");
    let claim = |spec: Object| json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": spec});
    let made = w.create(claims, claim(json!({}))).unwrap();
    assert_eq!(made["spec"]["storageClassName"], "new");
    assert_eq!(
        made["metadata"]["finalizers"],
        json!(["kubernetes.io/pvc-protection"])
    );
    let none = w
        .create(claims, claim(json!({"storageClassName": ""})))
        .unwrap();
    assert_eq!(none["spec"]["storageClassName"], "");
    let volume = w
        .create(
            ("", "persistentvolumes", ""),
            json!({"metadata": {"name": "v"}}),
        )
        .unwrap();
    assert_eq!(
        volume["metadata"]["finalizers"],
        json!(["kubernetes.io/pv-protection"])
    );

    let sized = |class: &str, size: &str, phase: &str| {
        let mut claim =
            claim(json!({"storageClassName": class, "resources": {"requests": {"storage": size}}}));
        claim["status"] = json!({"phase": phase});
        claim
    };
    let grow = |class: &str, phase: &str| {
        w.update_as(
            &w.user,
            claims,
            &sized(class, "1Gi", phase),
            &sized(class, "2Gi", phase),
        )
    };
    assert!(grow("new", "Bound").is_ok());
    assert!(
        grow("new", "Pending")
            .unwrap_err()
            .contains("Only bound persistent volume claims can be expanded")
    );
    assert!(
        grow("old", "Bound")
            .unwrap_err()
            .contains("must support resize")
    );
    let same = w.update_as(
        &w.user,
        claims,
        &sized("old", "1Gi", "Bound"),
        &sized("old", "1024Mi", "Bound"),
    );
    assert!(same.is_ok());

    w.cluster.put(
        "networking.k8s.io",
        "ingressclasses",
        json!({"metadata": {"name": "in", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}}),
    );
    let ingress = json!({"metadata": {"name": "i", "namespace": "ns"}, "spec": {}});
    let made = w
        .create(("networking.k8s.io", "ingresses", ""), ingress)
        .unwrap();
    assert_eq!(made["spec"]["ingressClassName"], "in");
}

#[test]
fn runtime_classes_bring_overhead_and_place() {
    let w = fixture();
    w.cluster.put(
        "node.k8s.io",
        "runtimeclasses",
        json!({
            "metadata": {"name": "vm"},
            "overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
        }),
    );
    let made = |spec: Object| w.create(POD, pod(spec)).map(|p| p["spec"].clone());
    let spec =
        made(json!({"containers": [], "runtimeClassName": "vm", "nodeSelector": {"a": "b"}}))
            .unwrap();
    assert_eq!(spec["overhead"], json!({"cpu": "100m"}));
    assert_eq!(spec["nodeSelector"], json!({"a": "b", "vm": "yes"}));
    assert!(
        spec["tolerations"]
            .as_array()
            .unwrap()
            .contains(&json!({"key": "vm", "operator": "Exists"}))
    );
    let same = json!({"containers": [], "runtimeClassName": "vm", "overhead": {"cpu": "0.1"}});
    assert!(made(same).is_ok());
    for (spec, why) in [
        (
            json!({"runtimeClassName": "none"}),
            r#"RuntimeClass "none" not found"#,
        ),
        (
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "2"}}),
            "doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"overhead": {"cpu": "2"}}),
            "Pod Overhead set without corresponding RuntimeClass",
        ),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
    ] {
        let text = message(made(spec));
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn limit_ranges_fill_in_and_bound() {
    let w = fixture();
    let range = |limits: Object| {
        w.cluster.put(
            "",
            "limitranges",
            json!({"metadata": {"name": "l", "namespace": "ns"}, "spec": {"limits": limits}}),
        );
    };
    range(json!([{
        "type": "Container",
        "default": {"cpu": "1", "memory": "1Gi"},
        "defaultRequest": {"cpu": "100m"},
        "min": {"cpu": "50m"},
        "max": {"cpu": "2"},
        "maxLimitRequestRatio": {"cpu": "10"},
    }]));
    let container =
        |resources: Object| pod(json!({"containers": [{"name": "a", "resources": resources}]}));
    let made = w.create(POD, container(json!({}))).unwrap();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a"
    );
    for (resources, why) in [
        (
            json!({"requests": {"cpu": "10m"}}),
            "minimum cpu usage per Container is 50m, but request is 10m",
        ),
        (
            json!({"limits": {"cpu": "3"}, "requests": {"cpu": "2"}}),
            "maximum cpu usage per Container is 2, but limit is 3",
        ),
        (
            json!({"limits": {"cpu": "2"}, "requests": {"cpu": "100m"}}),
            "cpu max limit to request ratio per Container is 10, but provided ratio is 20.000000",
        ),
    ] {
        let text = message(w.create(POD, container(resources)));
        assert!(text.contains(why), "{text}");
    }
    range(
        json!([{"type": "Pod", "max": {"memory": "1Gi"}}, {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}}]),
    );
    let two = json!([
        {"name": "a", "resources": {"limits": {"memory": "600Mi"}}},
        {"name": "b", "resources": {"limits": {"memory": "600Mi"}}},
    ]);
    assert_eq!(
        message(w.create(POD, pod(json!({"containers": two})))),
        r#"pods "p" is forbidden: maximum memory usage per Pod is 1Gi, but limit is 1200Mi"#
    );
    let claim = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"resources": {"requests": {"storage": "1Mi"}}}});
    assert_eq!(
        message(w.create(("", "persistentvolumeclaims", ""), claim)),
        r#"persistentvolumeclaims "c" is forbidden: minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"#
    );
}

#[test]
fn violations_of_the_audit_mode_are_annotated() {
    let w = fixture();
    let annotations = |labels: Object, what, mut object: Object| {
        let namespace = json!({"metadata": {"name": "ns", "labels": labels}});
        w.cluster.put("", "namespaces", namespace);
        let mut found = Vec::new();
        let mut request = request(&w.user, Operation::Create, what, Some(&mut object), None);
        w.plugins.mutate(&mut request).unwrap();
        let answer = w.plugins.validate(&request, &mut |key, value| {
            let key = key.strip_prefix("pod-security.kubernetes.io/").unwrap();
            found.push(format!("{key}: {value}"));
        });
        (answer.is_ok(), found)
    };
    let host = || pod(json!({"hostNetwork": true, "containers": [{"name": "a"}]}));
    let audit = json!({"pod-security.kubernetes.io/audit": "baseline"});
    let violates = "audit-violations: would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    assert_eq!(
        annotations(audit.clone(), POD, host()),
        (
            true,
            vec![
                "enforce-policy: privileged:latest".to_owned(),
                violates.to_owned()
            ]
        )
    );
    // A rejected pod is annotated too.
    let both = json!({
        "pod-security.kubernetes.io/audit": "baseline",
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/enforce-version": "v1.30",
    });
    assert_eq!(
        annotations(both, POD, host()),
        (
            false,
            vec![
                "enforce-policy: baseline:v1.30".to_owned(),
                violates.to_owned()
            ]
        )
    );
    let deployment =
        json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": {"template": host()}});
    assert_eq!(
        annotations(audit, ("apps", "deployments", ""), deployment),
        (true, vec![violates.to_owned()])
    );
    assert_eq!(
        annotations(json!({}), POD, host()),
        (true, vec!["enforce-policy: privileged:latest".to_owned()])
    );
    let (ok, found) = annotations(
        json!({"pod-security.kubernetes.io/audit": "severe"}),
        POD,
        host(),
    );
    assert!(ok);
    assert!(
        found[1].starts_with("error: Failed to parse policy: metadata.labels"),
        "{found:?}"
    );
}

#[test]
fn namespaces_say_how_privileged_pods_may_be() {
    let w = fixture();
    let label = |labels: Object| json!({"metadata": {"name": "ns", "labels": labels}});
    w.cluster.put(
        "",
        "namespaces",
        label(json!({"pod-security.kubernetes.io/enforce": "baseline"})),
    );
    let host = pod(json!({"hostNetwork": true, "containers": [{"name": "a"}]}));
    assert_eq!(
        message(w.create(POD, host.clone())),
        r#"pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#
    );
    let mut deployment =
        json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": {"template": host}});
    let warnings = w
        .create_as(&w.user, ("apps", "deployments", ""), &mut deployment)
        .unwrap();
    assert_eq!(
        warnings,
        [r#"would violate PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#]
    );
    // Existing pods that violate the policy accept updates of fields that it does not check.
    let mut labelled = host.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(w.update_as(&w.user, POD, &host, &labelled).is_ok());
    let mut image = host.clone();
    image["spec"]["containers"][0]["image"] = json!("new");
    assert!(w.update_as(&w.user, POD, &host, &image).is_err());

    w.cluster.put("", "pods", host);
    let namespaces = ("", "namespaces", "");
    let restricted = label(json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    let warnings = w
        .update_as(&w.user, namespaces, &label(json!({})), &restricted)
        .unwrap();
    assert_eq!(
        warnings[0],
        r#"existing pods in namespace "ns" violate the new PodSecurity enforce level "restricted:latest""#
    );
    assert!(
        warnings[1].starts_with("p: host namespaces, allowPrivilegeEscalation != false, "),
        "{}",
        warnings[1]
    );
    let wrong = label(json!({"pod-security.kubernetes.io/enforce": "strict"}));
    assert_eq!(
        message(w.create(namespaces, wrong)),
        r#"Namespace "ns" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted"#
    );
}

#[test]
fn nodes_write_their_own_only() {
    let w = fixture();
    let n1 = node("n1");
    w.cluster.put(
        "",
        "nodes",
        json!({"metadata": {"name": "n1", "uid": "u1"}}),
    );
    let nodes = ("", "nodes", "");
    let create = |what, object: Object| {
        w.create_as(&n1, what, &mut object.clone())
            .map_err(|e| e.message)
    };
    let labelled = |labels: Object| json!({"metadata": {"name": "n1", "labels": labels}});
    assert!(
        create(
            nodes,
            labelled(
                json!({"kubernetes.io/hostname": "n1", "own": "x", "a.node.kubernetes.io/b": ""})
            )
        )
        .is_ok()
    );
    assert_eq!(
        create(nodes, labelled(json!({"node-role.kubernetes.io/worker": "", "x.node-restriction.kubernetes.io/y": ""}))),
        Err(r#"nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: node-role.kubernetes.io/worker, x.node-restriction.kubernetes.io/y"#.into())
    );
    assert!(
        create(nodes, json!({"metadata": {"name": "n2"}}))
            .unwrap_err()
            .contains(r#"not allowed to modify node "n2""#)
    );
    let node = |taints: Object| json!({"metadata": {"name": "n1"}, "spec": {"taints": taints}});
    let update = w.update_as(&n1, nodes, &node(json!([])), &node(json!([{"key": "a"}])));
    assert!(update.unwrap_err().contains("not allowed to modify taints"));
    assert!(
        w.update_as(
            &n1,
            ("", "nodes", "status"),
            &node(json!([])),
            &node(json!([]))
        )
        .is_ok()
    );

    let lease =
        |namespace: &str, name: &str| json!({"metadata": {"name": name, "namespace": namespace}});
    let leases = ("coordination.k8s.io", "leases", "");
    assert!(create(leases, lease("kube-node-lease", "n1")).is_ok());
    assert!(create(leases, lease("kube-node-lease", "n2")).is_err());
    assert!(create(leases, lease("ns", "n1")).is_err());
}

#[test]
fn nodes_write_the_pods_that_run_on_them() {
    let w = fixture();
    let n1 = node("n1");
    w.cluster.put(
        "",
        "nodes",
        json!({"metadata": {"name": "n1", "uid": "u1"}}),
    );
    let create = |what, object: Object| {
        w.create_as(&n1, what, &mut object.clone())
            .map_err(|e| e.message)
    };
    let on = |node: &str| json!({"metadata": {"name": "p", "namespace": "ns", "uid": "p1"}, "spec": {"nodeName": node, "serviceAccountName": "default"}});
    let status = ("", "pods", "status");
    assert!(w.update_as(&n1, status, &on("n1"), &on("n1")).is_ok());
    assert!(w.update_as(&n1, status, &on("n2"), &on("n2")).is_err());
    let mut relabelled = on("n1");
    relabelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(
        w.update_as(&n1, status, &on("n1"), &relabelled)
            .unwrap_err()
            .contains("cannot update labels")
    );
    w.cluster.put("", "pods", on("n2"));
    assert!(w.delete_as(&n1, POD, &on("n2")).is_err());
    w.cluster.put("", "pods", on("n1"));
    assert!(w.delete_as(&n1, POD, &on("n1")).is_ok());
    assert!(
        create(
            ("", "pods", "eviction"),
            json!({"metadata": {"name": "p", "namespace": "ns"}})
        )
        .is_ok()
    );
    assert!(
        create(POD, on("n1"))
            .unwrap_err()
            .contains("can only create mirror pods")
    );
    let mirror = |volumes: Object| {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true});
        json!({
            "metadata": {
                "name": "m",
                "namespace": "ns",
                "annotations": {"kubernetes.io/config.mirror": "x"},
                "ownerReferences": [owner],
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "a"}], "volumes": volumes},
        })
    };
    assert!(create(POD, mirror(json!([{"name": "h", "hostPath": {}}]))).is_ok());
    let claim = json!([{"name": "c", "persistentVolumeClaim": {"claimName": "c"}}]);
    assert!(
        create(POD, mirror(claim))
            .unwrap_err()
            .contains("can not create pods that reference persistentvolumeclaims")
    );

    let token = |uid: &str, audiences: Object| {
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
        let request = json!({
            "metadata": {"name": "default", "namespace": "ns"},
            "spec": {"boundObjectRef": bound, "audiences": audiences},
        });
        create(("", "serviceaccounts", "token"), request)
    };
    assert!(
        token("p1", json!([]))
            .unwrap_err()
            .contains(r#"audience "" not found"#)
    );
    let mut with_token = on("n1");
    with_token["spec"]["volumes"] =
        json!([{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]);
    w.cluster.put("", "pods", with_token);
    assert!(token("p1", json!([])).is_ok());
    assert!(token("p2", json!([])).is_err());
    assert!(
        token("p1", json!(["vault"]))
            .unwrap_err()
            .contains(r#"audience "vault" not found in pod spec volume"#)
    );
}

#[test]
fn signers_are_guarded() {
    let w = fixture();
    let rbac = "rbac.authorization.k8s.io";
    let rules = json!([{"verbs": ["approve"], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"]}]);
    w.cluster.put(
        rbac,
        "clusterroles",
        json!({"metadata": {"name": "r"}, "rules": rules}),
    );
    let subject = json!({"kind": "User", "name": "jane"});
    w.cluster.put(
        rbac,
        "clusterrolebindings",
        json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [subject]}),
    );
    let csr = |signer: &str, request: &str| json!({"metadata": {"name": "c"}, "spec": {"signerName": signer, "request": request}, "status": {}});
    let group = "certificates.k8s.io";
    let update = |subresource, old: &Object, new: &Object| {
        w.update_as(
            &w.user,
            (group, "certificatesigningrequests", subresource),
            old,
            new,
        )
    };
    let (own, other) = (
        csr("example.com/web", ""),
        csr("kubernetes.io/kubelet-serving", ""),
    );
    assert!(update("approval", &own, &own).is_ok());
    assert_eq!(
        update("approval", &other, &other),
        Err(r#"certificatesigningrequests.certificates.k8s.io "c" is forbidden: user not permitted to approve requests with signerName "kubernetes.io/kubelet-serving""#.into())
    );
    let mut signed = own.clone();
    signed["status"]["certificate"] = json!("x");
    assert!(update("status", &own, &own).is_ok());
    assert!(
        update("status", &own, &signed)
            .unwrap_err()
            .contains("not permitted to sign")
    );

    let request = |organization: &str| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, organization);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        base64::engine::general_purpose::STANDARD.encode(pem)
    };
    let create = |organization: &str| {
        let csr = csr(
            "kubernetes.io/kube-apiserver-client",
            &request(organization),
        );
        w.create((group, "certificatesigningrequests", ""), csr)
    };
    assert!(create("dev").is_ok());
    assert!(message(create("system:masters")).contains("with system:masters group is not allowed"));
    let garbage = csr(
        "kubernetes.io/kube-apiserver-client",
        "bm90IGEgcmVxdWVzdA==",
    );
    assert!(
        message(w.create((group, "certificatesigningrequests", ""), garbage))
            .contains("failed to parse CSR")
    );
}

/// A store whose next `conflicts` updates fail with a conflict.
#[derive(Default)]
struct Quotas {
    stored: Mutex<Vec<Object>>,
    conflicts: Mutex<usize>,
}

impl QuotaStore for Quotas {
    fn quotas<'a>(&'a self, _namespace: &'a str) -> BoxFuture<'a, Result<Vec<Object>, Status>> {
        Box::pin(async { Ok(self.stored.lock().clone()) })
    }

    fn update_status<'a>(&'a self, quota: Object) -> BoxFuture<'a, Result<Object, Status>> {
        Box::pin(async move {
            let mut conflicts = self.conflicts.lock();
            if *conflicts > 0 {
                *conflicts -= 1;
                return Err(Status::modified(
                    &GroupResource::new("", "resourcequotas"),
                    tree::name(&quota),
                ));
            }
            let mut stored = self.stored.lock();
            let slot = stored
                .iter_mut()
                .find(|q| tree::name(q) == tree::name(&quota))
                .unwrap();
            *slot = quota.clone();
            Ok(quota)
        })
    }
}

struct Charged {
    world: Fixture,
    quotas: Quotas,
    runtime: tokio::runtime::Runtime,
}

fn charged(quotas: &[Object]) -> Charged {
    let world = fixture();
    for quota in quotas {
        world.cluster.put("", "resourcequotas", quota.clone());
    }
    Charged {
        world,
        quotas: Quotas {
            stored: Mutex::new(quotas.to_vec()),
            ..Quotas::default()
        },
        runtime: tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap(),
    }
}

fn quota(name: &str, spec: Object, hard: Object, used: Object) -> Object {
    json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": {"hard": hard, "used": used}})
}

impl Charged {
    fn charge(
        &self,
        operation: Operation,
        what: (&str, &str, &str),
        object: &Object,
        old: Option<&Object>,
    ) -> Result<(), String> {
        let mut object = object.clone();
        let request = request(&self.world.user, operation, what, Some(&mut object), old);
        let charge = self.world.plugins.charge_quota(&request, &self.quotas);
        self.runtime.block_on(charge).map_err(|e| e.message)
    }

    fn used(&self, index: usize) -> Object {
        self.quotas.stored.lock()[index]["status"]["used"].clone()
    }
}

#[test]
fn quotas_are_charged_and_kept() {
    let hard = json!({"pods": "2", "requests.cpu": "1", "limits.memory": "1Gi"});
    let used = json!({"pods": "0", "requests.cpu": "0", "limits.memory": "0"});
    let c = charged(&[quota("q", json!({}), hard, used)]);
    let asks = |cpu: &str, memory: &str| {
        pod(
            json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}, "limits": {"memory": memory}}}]}),
        )
    };
    let create = |pod: &Object| c.charge(Operation::Create, POD, pod, None);
    assert_eq!(create(&asks("600m", "512Mi")), Ok(()));
    assert_eq!(
        c.used(0),
        json!({"pods": "1", "requests.cpu": "600m", "limits.memory": "512Mi"})
    );
    assert_eq!(
        create(&asks("600m", "768Mi")),
        Err(r#"pods "p" is forbidden: exceeded quota: q, requested: limits.memory=768Mi,requests.cpu=600m, used: limits.memory=512Mi,requests.cpu=600m, limited: limits.memory=1Gi,requests.cpu=1"#.into())
    );
    assert_eq!(
        create(&pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}))),
        Err(r#"pods "p" is forbidden: failed quota: q: must specify limits.memory for: a,b; requests.cpu for: a,b"#.into())
    );
    // A conflict is retried.
    *c.quotas.conflicts.lock() = 2;
    assert_eq!(create(&asks("400m", "1Mi")), Ok(()));
    assert_eq!(c.used(0)["pods"], "2");
    assert!(
        create(&asks("0", "1Mi"))
            .unwrap_err()
            .contains("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2")
    );
    // Regular updates of a pod are not charged.
    assert_eq!(
        c.charge(
            Operation::Update,
            POD,
            &asks("5", "1Gi"),
            Some(&asks("1m", "1Mi"))
        ),
        Ok(())
    );
}

/// Returns three quotas: of two scopes, and of counts.
fn scoped_quotas() -> Charged {
    charged(&[
        quota(
            "best",
            json!({"scopes": ["BestEffort"]}),
            json!({"pods": "1"}),
            json!({"pods": "0"}),
        ),
        quota(
            "high",
            json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}),
            json!({"pods": "1"}),
            json!({"pods": "0"}),
        ),
        quota(
            "objects",
            json!({}),
            json!({"count/deployments.apps": "1", "configmaps": "1", "services.nodeports": "2", "fast.storageclass.storage.k8s.io/requests.storage": "10Gi"}),
            json!({"count/deployments.apps": "0", "configmaps": "0", "services.nodeports": "0", "fast.storageclass.storage.k8s.io/requests.storage": "0"}),
        ),
    ])
}

fn named(spec: Object) -> Object {
    json!({"metadata": {"name": "x", "namespace": "ns"}, "spec": spec})
}

#[test]
fn quotas_know_scopes_and_counts() {
    let c = scoped_quotas();
    let create = |what, spec: Object| c.charge(Operation::Create, what, &named(spec), None);
    assert_eq!(create(POD, json!({"containers": [{"name": "a"}]})), Ok(()));
    assert_eq!(
        (c.used(0), c.used(1)),
        (json!({"pods": "1"}), json!({"pods": "0"}))
    );
    let burstable = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]});
    assert_eq!(create(POD, burstable.clone()), Ok(()));
    let mut high = burstable;
    high["priorityClassName"] = json!("high");
    assert_eq!(create(POD, high.clone()), Ok(()));
    assert!(
        create(POD, high)
            .unwrap_err()
            .contains("exceeded quota: high")
    );
    let deployments = ("apps", "deployments", "");
    assert_eq!(create(deployments, json!({})), Ok(()));
    assert!(
        create(deployments, json!({}))
            .unwrap_err()
            .contains("requested: count/deployments.apps=1")
    );
    assert_eq!(create(("", "configmaps", ""), json!({})), Ok(()));
    assert!(create(("", "configmaps", ""), json!({})).is_err());
    assert_eq!(create(("", "secrets", ""), json!({})), Ok(()));
}

#[test]
fn quotas_count_node_ports_and_storage() {
    let c = scoped_quotas();
    let services = ("", "services", "");
    let service = |kind: &str, ports: usize| {
        named(json!({"type": kind, "ports": vec![json!({"port": 80}); ports]}))
    };
    let (cluster, node) = (service("ClusterIP", 2), service("NodePort", 2));
    assert_eq!(
        c.charge(Operation::Create, services, &cluster, None),
        Ok(())
    );
    assert_eq!(c.used(2)["services.nodeports"], "0");
    assert_eq!(
        c.charge(Operation::Update, services, &node, Some(&cluster)),
        Ok(())
    );
    assert_eq!(c.used(2)["services.nodeports"], "2");
    assert_eq!(
        c.charge(Operation::Update, services, &node, Some(&node)),
        Ok(())
    );
    assert!(
        c.charge(
            Operation::Create,
            services,
            &service("LoadBalancer", 1),
            None
        )
        .is_err()
    );

    let claims = ("", "persistentvolumeclaims", "");
    let claim = |size: &str| {
        named(json!({"storageClassName": "fast", "resources": {"requests": {"storage": size}}}))
    };
    assert_eq!(
        c.charge(Operation::Create, claims, &claim("8Gi"), None),
        Ok(())
    );
    assert_eq!(
        c.charge(
            Operation::Update,
            claims,
            &claim("10Gi"),
            Some(&claim("8Gi"))
        ),
        Ok(())
    );
    assert_eq!(
        c.used(2)["fast.storageclass.storage.k8s.io/requests.storage"],
        "10Gi"
    );
    assert!(
        c.charge(
            Operation::Update,
            claims,
            &claim("11Gi"),
            Some(&claim("10Gi"))
        )
        .is_err()
    );
}

#[test]
fn a_quota_without_status_refuses() {
    let c = charged(&[quota("q", json!({}), json!({"pods": "1"}), json!({}))]);
    let plain = pod(json!({"containers": []}));
    assert_eq!(
        c.charge(Operation::Create, POD, &plain, None),
        Err(r#"pods "p" is forbidden: status unknown for quota: q, resources: pods"#.into())
    );
}
