use serde_json::json;

use super::*;
use crate::testing::{Cluster, account, node};

const RBAC: &str = "rbac.authorization.k8s.io";

fn setup() -> (Arc<Cluster>, Authorizer) {
    let cluster = Cluster::new();
    (cluster.clone(), Authorizer::new(cluster))
}

fn bind(cluster: &Cluster, namespace: &str, name: &str, role: (&str, &str), subject: Object) {
    let resource = if namespace.is_empty() {
        "clusterrolebindings"
    } else {
        "rolebindings"
    };
    let binding = json!({
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": RBAC, "kind": role.0, "name": role.1},
        "subjects": [subject],
    });
    cluster.put(RBAC, resource, binding);
}

#[test]
fn forbidden_messages_are_worded_as_upstreams() {
    let (_, authorizer) = setup();
    let user = UserInfo::authenticated("jane", &[]);
    let message = |ask: &Attributes<'_>| authorizer.require(ask).unwrap_err().message;
    let pods = Attributes::resource(&user, "list", "", "pods");
    assert_eq!(
        message(&Attributes {
            namespace: "default",
            ..pods
        }),
        r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    assert_eq!(
        message(&pods),
        r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" at the cluster scope"#
    );
    let scale = Attributes {
        subresource: "scale",
        name: "web",
        namespace: "a<b",
        ..Attributes::resource(&user, "get", "apps", "deployments")
    };
    assert_eq!(
        message(&scale),
        r#"deployments.apps "web" is forbidden: User "jane" cannot get resource "deployments/scale" in API group "apps" in the namespace "a&lt;b""#
    );
    assert_eq!(
        message(&Attributes::path(&user, "get", "/metrics")),
        r#"forbidden: User "jane" cannot get path "/metrics""#
    );
}

#[test]
fn default_roles_give_what_they_should() {
    let (cluster, authorizer) = setup();
    let asks = |user: &UserInfo, verb, group, resource, namespace| {
        let ask = Attributes {
            namespace,
            ..Attributes::resource(user, verb, group, resource)
        };
        authorizer.authorize(&ask)
    };
    let master = UserInfo::authenticated("root", &[names::MASTERS]);
    assert!(asks(&master, "delete", "any", "thing", "").is_allowed());
    let jane = UserInfo::authenticated("jane", &[]);
    assert!(
        asks(
            &jane,
            "create",
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            ""
        )
        .is_allowed()
    );
    assert!(
        authorizer
            .authorize(&Attributes::path(&jane, "get", "/version"))
            .is_allowed()
    );
    assert!(!asks(&jane, "get", "", "pods", "default").is_allowed());
    let controller = account("kube-system", "job-controller");
    assert_eq!(
        asks(&controller, "create", "", "pods", "default"),
        Decision::Allow(
            r#"RBAC: allowed by ClusterRoleBinding "system:controller:job-controller" of ClusterRole "system:controller:job-controller" to ServiceAccount "job-controller/kube-system""#.into()
        )
    );
    assert!(
        !asks(
            &account("default", "job-controller"),
            "create",
            "",
            "pods",
            "default"
        )
        .is_allowed()
    );

    bind(
        &cluster,
        "team",
        "janes",
        ("ClusterRole", "cluster-admin"),
        json!({"kind": "User", "name": "jane"}),
    );
    assert!(
        asks(&jane, "get", "", "pods", "team").is_allowed(),
        "a new binding counts at once"
    );
    assert!(!asks(&jane, "get", "", "pods", "default").is_allowed());
    assert!(!asks(&jane, "get", "", "pods", "").is_allowed());
    cluster.remove(RBAC, "rolebindings", "team", "janes");
    assert!(
        !asks(&jane, "get", "", "pods", "team").is_allowed(),
        "a removed one no longer"
    );
}

#[test]
fn roles_are_followed_as_they_change() {
    let (cluster, authorizer) = setup();
    let robot = account("team", "robot");
    let ask = Attributes {
        namespace: "team",
        ..Attributes::resource(&robot, "get", "", "pods")
    };
    // A subject's namespace defaults to the binding's.
    bind(
        &cluster,
        "team",
        "b",
        ("Role", "reader"),
        json!({"kind": "ServiceAccount", "name": "robot"}),
    );
    assert_eq!(
        authorizer.authorize(&ask),
        Decision::NoOpinion(r#"RBAC: role.rbac.authorization.k8s.io "reader" not found"#.into())
    );
    let role = |verbs: Object| {
        let rules = json!([{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]);
        cluster.put(
            RBAC,
            "roles",
            json!({"metadata": {"name": "reader", "namespace": "team"}, "rules": rules}),
        );
    };
    role(json!(["get"]));
    assert_eq!(
        authorizer.authorize(&ask).reason(),
        r#"RBAC: allowed by RoleBinding "b/team" of Role "reader" to ServiceAccount "robot/team""#
    );
    role(json!(["list"]));
    assert!(!authorizer.authorize(&ask).is_allowed());
}

/// Adds pods of two nodes, and a volume with a secret.
fn put_pods(cluster: &Cluster) {
    let pod = |name: &str, on: &str, volumes: Object| {
        json!({
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {
                "nodeName": on,
                "serviceAccountName": "sa",
                "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"envFrom": [{"configMapRef": {"name": "env"}}]}],
                "volumes": volumes,
            },
        })
    };
    let volumes = json!([
        {"name": "s", "secret": {"secretName": "mounted"}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
        {"name": "e", "ephemeral": {}},
        {"name": "p", "projected": {"sources": [{"configMap": {"name": "root"}}, {"secret": {"name": "sealed"}}]}},
    ]);
    cluster.put("", "pods", pod("a", "n1", volumes));
    cluster.put(
        "",
        "pods",
        pod(
            "b",
            "n2",
            json!([{"name": "s", "secret": {"secretName": "other"}}]),
        ),
    );
    let mut mirror = pod(
        "m",
        "n1",
        json!([{"name": "s", "secret": {"secretName": "stolen"}}]),
    );
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    cluster.put("", "pods", mirror);
    cluster.put(
        "",
        "persistentvolumes",
        json!({
            "metadata": {"name": "pv"},
            "spec": {
                "claimRef": {"namespace": "ns", "name": "claim"},
                "csi": {"nodePublishSecretRef": {"namespace": "vault", "name": "key"}},
            },
        }),
    );
}

#[test]
fn nodes_read_what_their_pods_need() {
    let (cluster, authorizer) = setup();
    put_pods(&cluster);
    let n1 = node("n1");
    let may = |verb, resource: &'static str, namespace, name| {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let ask = Attributes {
            namespace,
            name,
            subresource,
            ..Attributes::resource(&n1, verb, "", resource)
        };
        authorizer.authorize(&ask).is_allowed()
    };
    for name in ["mounted", "pull", "sealed"] {
        assert!(may("get", "secrets", "ns", name), "{name}");
        assert!(may("watch", "secrets", "ns", name), "{name}");
        assert!(!may("get", "secrets", "elsewhere", name), "{name}");
        assert!(!may("delete", "secrets", "ns", name), "{name}");
    }
    for name in ["other", "stolen", ""] {
        assert!(!may("get", "secrets", "ns", name), "{name:?}");
    }
    assert!(may("get", "secrets", "vault", "key"), "a volume's secret");
    assert!(may("get", "configmaps", "ns", "env"));
    assert!(may("get", "configmaps", "ns", "root"));
    assert!(!may("list", "configmaps", "ns", ""));
    assert!(may("get", "persistentvolumeclaims", "ns", "claim"));
    assert!(may("get", "persistentvolumeclaims", "ns", "a-e"));
    assert!(may("patch", "persistentvolumeclaims/status", "ns", "claim"));
    assert!(!may("get", "persistentvolumeclaims", "ns", "b-e"));
    assert!(may("get", "persistentvolumes", "", "pv"));
    assert!(may("create", "serviceaccounts/token", "ns", "sa"));
    assert!(!may("create", "serviceaccounts/token", "ns", "default"));
    assert!(may("get", "pods", "ns", "a"));
    assert!(!may("get", "pods", "ns", "b"));
    assert!(may("patch", "nodes/status", "", "n1"));
    assert!(may("get", "nodes", "", "n1"));
    assert!(!may("get", "nodes", "", "n2"));
    assert!(may("list", "services", "", ""));
    assert!(!may("list", "pods", "", ""));
    let lists = |selector| {
        let ask = Attributes {
            field_selector: selector,
            ..Attributes::resource(&n1, "list", "", "pods")
        };
        authorizer.authorize(&ask).is_allowed()
    };
    assert!(lists("spec.nodeName=n1"));
    assert!(!lists("spec.nodeName=n2"));
    assert!(!lists("spec.nodeName!=n1"));
    let lease = |verb, namespace, name| {
        let ask = Attributes {
            namespace,
            name,
            ..Attributes::resource(&n1, verb, "coordination.k8s.io", "leases")
        };
        authorizer.authorize(&ask).is_allowed()
    };
    assert!(lease("update", "kube-node-lease", "n1"));
    assert!(!lease("update", "kube-node-lease", "n2"));
    assert!(!lease("get", "default", "n1"));
    // The user name alone does not identify a node agent.
    let impostor = UserInfo::authenticated("system:node:n1", &[]);
    assert!(
        !authorizer
            .authorize(&Attributes {
                name: "n1",
                ..Attributes::resource(&impostor, "get", "", "nodes")
            })
            .is_allowed()
    );
}

#[test]
fn nobody_gives_away_what_they_lack() {
    let (cluster, authorizer) = setup();
    let jane = UserInfo::authenticated("jane", &["dev"]);
    let rules = json!([
        {"verbs": ["*"], "apiGroups": [RBAC], "resources": ["roles", "rolebindings"]},
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]},
    ]);
    cluster.put(
        RBAC,
        "roles",
        json!({"metadata": {"name": "lead", "namespace": "ns"}, "rules": rules}),
    );
    bind(
        &cluster,
        "ns",
        "leads",
        ("Role", "lead"),
        json!({"kind": "User", "name": "jane"}),
    );
    let role = |verbs: Object| {
        json!({
            "metadata": {"name": "r", "namespace": "ns"},
            "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}],
        })
    };
    let check = |new: &Object, old: Option<&Object>| {
        authorizer
            .check_escalation(&jane, "roles", "ns", new, old)
            .map_err(|e| (e.code, e.message))
    };
    // The wildcard on roles includes the verb escalate.
    assert_eq!(check(&role(json!(["delete"])), None), Ok(()));
    let rules = json!([
        {"verbs": ["create", "update"], "apiGroups": [RBAC], "resources": ["roles", "rolebindings"]},
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]},
    ]);
    cluster.put(
        RBAC,
        "roles",
        json!({"metadata": {"name": "lead", "namespace": "ns"}, "rules": rules}),
    );
    assert_eq!(check(&role(json!(["get"])), None), Ok(()));
    let message = "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"watch\"]}";
    assert_eq!(
        check(&role(json!(["get", "delete", "watch"])), None),
        Err((403, message.into()))
    );
    // An update that only removes a finalizer is not checked.
    let mut old = role(json!(["delete"]));
    old["metadata"]["finalizers"] = json!(["x"]);
    assert_eq!(check(&role(json!(["delete"])), Some(&old)), Ok(()));
    assert!(check(&role(json!(["watch"])), Some(&old)).is_err());

    let binding = |kind: &str, name: &str| {
        json!({
            "metadata": {"name": "b", "namespace": "ns"},
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
        })
    };
    let check = |new: &Object| {
        authorizer
            .check_escalation(&jane, "rolebindings", "ns", new, None)
            .map_err(|e| e.code)
    };
    assert_eq!(check(&binding("Role", "lead")), Ok(()));
    assert_eq!(check(&binding("ClusterRole", "cluster-admin")), Err(403));
    assert_eq!(check(&binding("Role", "none")), Err(404));
    let master = UserInfo::authenticated("root", &[names::MASTERS]);
    let all = binding("ClusterRole", "cluster-admin");
    assert!(
        authorizer
            .check_escalation(&master, "rolebindings", "ns", &all, None)
            .is_ok()
    );
    let rules = json!([{"verbs": ["bind"], "apiGroups": [RBAC], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"]}]);
    cluster.put(
        RBAC,
        "roles",
        json!({"metadata": {"name": "binder", "namespace": "ns"}, "rules": rules}),
    );
    bind(
        &cluster,
        "ns",
        "binders",
        ("Role", "binder"),
        json!({"kind": "Group", "name": "dev"}),
    );
    assert_eq!(check(&all), Ok(()));
}

#[test]
fn only_the_almighty_aggregate() {
    let (cluster, authorizer) = setup();
    let jane = UserInfo::authenticated("jane", &[]);
    let role = json!({
        "metadata": {"name": "r"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]},
    });
    let check = || authorizer.check_escalation(&jane, "clusterroles", "", &role, None);
    assert_eq!(
        check().unwrap_err().message,
        r#"clusterroles.rbac.authorization.k8s.io "r" is forbidden: must have cluster-admin privileges to use the aggregationRule"#
    );
    bind(
        &cluster,
        "",
        "admins",
        ("ClusterRole", "cluster-admin"),
        json!({"kind": "User", "name": "jane"}),
    );
    assert!(check().is_ok());
}

#[test]
fn rules_are_listed() {
    let (_, authorizer) = setup();
    let status = authorizer.rules_for(&UserInfo::authenticated("jane", &[]), "default");
    let creates = json!({"verbs": ["create"], "apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]});
    assert!(
        status["resourceRules"]
            .as_array()
            .unwrap()
            .contains(&creates),
        "{status}"
    );
    assert!(!status["nonResourceRules"].as_array().unwrap().is_empty());
    assert_eq!(status["incomplete"], false);
    let status = authorizer.rules_for(&node("n1"), "default");
    assert_eq!(status["incomplete"], true);
    assert_eq!(
        status["evaluationError"],
        "node authorizer does not support user rule resolution"
    );
}

#[test]
fn access_reviews_are_answered_and_checked() {
    let (_, authorizer) = setup();
    let caller = UserInfo::authenticated("root", &[names::MASTERS]);
    let review =
        |kind: &str, spec: Object| authorizer.review(kind, "", &json!({"spec": spec}), &caller);
    let pods = json!({"verb": "get", "resource": "pods", "namespace": "default"});
    let answer = review(
        "SelfSubjectAccessReview",
        json!({"resourceAttributes": pods}),
    )
    .unwrap();
    assert_eq!(answer["status"], json!({"allowed": true}));
    let answer = review(
        "SubjectAccessReview",
        json!({"user": "jane", "resourceAttributes": pods}),
    )
    .unwrap();
    assert_eq!(answer["status"], json!({"allowed": false}));
    let masters = json!({"groups": ["system:masters"], "nonResourceAttributes": {"verb": "get", "path": "/x"}});
    assert_eq!(
        review("SubjectAccessReview", masters).unwrap()["status"]["allowed"],
        true
    );
    let error = review("SubjectAccessReview", json!({"resourceAttributes": pods})).unwrap_err();
    assert_eq!(
        error.message,
        r#"SubjectAccessReview.authorization.k8s.io "" is invalid: spec.user: Invalid value: "": at least one of user or group must be specified"#
    );
    assert!(review("SubjectAccessReview", json!({"user": "x"})).is_err());
    assert!(review("SelfSubjectRulesReview", json!({})).is_err());
    let rules = review("SelfSubjectRulesReview", json!({"namespace": "default"})).unwrap();
    assert!(rules["status"]["resourceRules"].is_array());

    let local = |namespace: &str| {
        let object = json!({"metadata": {"namespace": namespace}, "spec": {"user": "x", "resourceAttributes": pods}});
        authorizer.review("LocalSubjectAccessReview", namespace, &object, &caller)
    };
    assert!(local("default").is_ok());
    assert!(local("other").is_err());

    // The field selector of a review affects the decision.
    let node = |requirements: Object| {
        let mut pods = json!({"verb": "list", "resource": "pods", "fieldSelector": {}});
        pods["fieldSelector"]["requirements"] = requirements;
        let spec = json!({"user": "system:node:n1", "groups": ["system:nodes"], "resourceAttributes": pods});
        review("SubjectAccessReview", spec).unwrap()["status"].clone()
    };
    let own = json!({"key": "spec.nodeName", "operator": "In", "values": ["n1"]});
    assert_eq!(node(json!([own]))["allowed"], true);
    let status = node(json!([own, {"key": "x", "operator": "Odd"}]));
    assert_eq!(status["allowed"], true);
    assert_eq!(
        status["evaluationError"],
        "spec.resourceAttributes.fieldSelector partially ignored due to parse error"
    );
}
