//! Defaults of pod specs, in pods and in templates.

use rkube_component_helpers::resource::{self, Side};
use serde_json::{Value, json};

use super::image_names::pull_policy;
use crate::quantities;
use crate::tree::{
    at, at_mut, default_number, default_text, default_value, ensure, flag, int, list_mut, map, set,
    text,
};

/// Default mode of projected files.
const FILE_MODE: i64 = 0o644;

/// Annotations in which old clients keep init containers and their statuses.
const INIT_ANNOTATIONS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// Removes annotations that stand for fields of old versions.
fn drop_annotations(holder: &mut Value) {
    if let Some(Value::Object(annotations)) = at_mut(holder, "metadata.annotations") {
        annotations.retain(|key, _| !INIT_ANNOTATIONS.contains(&key.as_str()));
    }
}

/// Sets the defaults of a pod, including those that templates do not get.
pub(crate) fn pod(obj: &mut Value) {
    drop_annotations(obj);
    let Some(spec) = at_mut(obj, "spec") else {
        return;
    };
    // Templates keep a negative grace period, which their pods do not.
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        set(spec, "terminationGracePeriodSeconds", 1);
    }
    for key in ["containers", "initContainers"] {
        for container in list_mut(spec, key) {
            requests_from_limits(container);
        }
    }
    pod_level_limits(spec);
    pod_level_requests(spec);
    default_value(spec, "enableServiceLinks", true);
    if flag(spec, "hostNetwork") {
        for key in ["containers", "initContainers"] {
            list_mut(spec, key).iter_mut().for_each(host_ports);
        }
    }
    pod_spec(spec);
}

/// Sets the missing host ports of a container in the node's network.
fn host_ports(container: &mut Value) {
    for port in list_mut(container, "ports") {
        if let Some(number) = int(port, "containerPort") {
            default_number(port, "hostPort", number);
        }
    }
}

fn requests_from_limits(holder: &mut Value) {
    let Some(limits) = map(holder, "resources.limits").cloned() else {
        return;
    };
    let requests = ensure(holder, "resources.requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// Sets pod-level limits of huge pages to the sum over the containers, unless they are requested.
fn pod_level_limits(spec: &mut Value) {
    let resources = at(spec, "resources");
    let is_set = ["limits", "requests"]
        .iter()
        .any(|side| map(resources, side).is_some_and(|amounts| !amounts.is_empty()));
    if !is_set {
        return;
    }
    let sums = resource::aggregate_object_containers(spec, Side::Limits);
    for (name, sum) in sums.0 {
        let requested = at(spec, "resources.requests").get(&name).is_some();
        if resource::is_hugepages(&name) && !requested {
            ensure(spec, "resources.limits")
                .entry(name)
                .or_insert_with(|| sum.to_string().into());
        }
    }
}

/// Sets pod-level requests: the sum over the containers for CPU and memory if known, otherwise
/// the pod-level limits.
fn pod_level_requests(spec: &mut Value) {
    let Some(limits) = map(spec, "resources.limits").cloned() else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    let sums = resource::aggregate_object_containers(spec, Side::Requests);
    let requests = ensure(spec, "resources.requests");
    for (name, sum) in sums.0 {
        if matches!(name.as_str(), "cpu" | "memory") {
            requests
                .entry(name)
                .or_insert_with(|| sum.to_string().into());
        }
    }
    for (name, limit) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// Sets the defaults of a pod template.
pub(crate) fn template(template: &mut Value) {
    drop_annotations(template);
    if let Some(spec) = at_mut(template, "spec") {
        pod_spec(spec);
    }
}

/// Sets the defaults common to pods and templates.
pub(crate) fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_value(spec, "securityContext", json!({}));
    default_value(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    // `serviceAccount` is a deprecated alias of `serviceAccountName`.
    let account = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        set(spec, "serviceAccountName", account.as_str());
        set(spec, "serviceAccount", account);
    }
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for c in list_mut(spec, key) {
            container(c);
        }
    }
    for v in list_mut(spec, "volumes") {
        volume(v);
    }
    for path in ["overhead", "resources.requests", "resources.limits"] {
        quantities::normalize(spec, path);
    }
}

fn container(c: &mut Value) {
    let policy = pull_policy(text(c, "image"));
    default_text(c, "imagePullPolicy", policy);
    default_text(c, "terminationMessagePath", "/dev/termination-log");
    default_text(c, "terminationMessagePolicy", "File");
    default_value(c, "resources", json!({}));
    quantities::normalize(c, "resources.requests");
    quantities::normalize(c, "resources.limits");
    for port in list_mut(c, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for env in list_mut(c, "env") {
        field_ref(env, "valueFrom.fieldRef");
        divisor(env, "valueFrom.resourceFieldRef");
        if let Some(file) = at_mut(env, "valueFrom.fileKeyRef") {
            default_value(file, "optional", false);
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = at_mut(c, key) {
            probe(p);
        }
    }
    for path in ["lifecycle.postStart.httpGet", "lifecycle.preStop.httpGet"] {
        if let Some(get) = at_mut(c, path) {
            http_get(get);
        }
    }
}

fn field_ref(value: &mut Value, path: &str) {
    if let Some(reference) = at_mut(value, path) {
        default_text(reference, "apiVersion", "v1");
    }
}

/// Sets an unset divisor to the zero quantity.
fn divisor(value: &mut Value, path: &str) {
    if let Some(reference) = at_mut(value, path) {
        default_value(reference, "divisor", "0");
    }
}

fn probe(p: &mut Value) {
    default_number(p, "timeoutSeconds", 1);
    default_number(p, "periodSeconds", 10);
    default_number(p, "successThreshold", 1);
    default_number(p, "failureThreshold", 3);
    if let Some(get) = at_mut(p, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = at_mut(p, "grpc") {
        default_value(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    default_text(get, "path", "/");
    default_text(get, "scheme", "HTTP");
}

fn volume(v: &mut Value) {
    let sources = v.as_object().map_or(0, |m| {
        m.iter()
            .filter(|(k, v)| *k != "name" && !v.is_null())
            .count()
    });
    if sources == 0 {
        set(v, "emptyDir", json!({}));
    }
    for key in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = at_mut(v, key) {
            default_value(source, "defaultMode", FILE_MODE);
        }
    }
    downward_items(v, "downwardAPI");
    for source in list_mut(v, "projected.sources") {
        downward_items(source, "downwardAPI");
        if let Some(token) = at_mut(source, "serviceAccountToken") {
            default_value(token, "expirationSeconds", 3600);
        }
    }
    if let Some(path) = at_mut(v, "hostPath") {
        default_value(path, "type", "");
    }
    if let Some(iscsi) = at_mut(v, "iscsi") {
        default_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = at_mut(v, "rbd") {
        default_text(rbd, "pool", "rbd");
        default_text(rbd, "user", "admin");
        default_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = at_mut(v, "azureDisk") {
        azure_disk(disk);
    }
    if let Some(io) = at_mut(v, "scaleIO") {
        default_text(io, "storageMode", "ThinProvisioned");
        default_text(io, "fsType", "xfs");
    }
    if let Some(claim) = at_mut(v, "ephemeral.volumeClaimTemplate.spec") {
        default_value(claim, "volumeMode", "Filesystem");
        quantities::normalize(claim, "resources.requests");
        quantities::normalize(claim, "resources.limits");
    }
    if let Some(image) = at_mut(v, "image") {
        let policy = pull_policy(text(image, "reference"));
        default_text(image, "pullPolicy", policy);
    }
}

/// Sets the defaults of an Azure disk source in a pod or persistent volume.
pub(crate) fn azure_disk(disk: &mut Value) {
    default_value(disk, "cachingMode", "ReadWrite");
    default_value(disk, "kind", "Shared");
    default_value(disk, "fsType", "ext4");
    default_value(disk, "readOnly", false);
}

fn downward_items(value: &mut Value, path: &str) {
    if let Some(source) = at_mut(value, path) {
        for item in list_mut(source, "items") {
            field_ref(item, "fieldRef");
            divisor(item, "resourceFieldRef");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_minimal_pod() {
        let mut p = json!({"metadata": {"name": "p"}, "spec": {"containers": [{
            "name": "c", "image": "i:1",
            "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}},
            "resources": {"limits": {"cpu": "0.5", "memory": "1024Ki"}}}],
            "serviceAccountName": "sa",
            "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]}});
        pod(&mut p);
        assert_eq!(
            p["spec"],
            json!({
                "containers": [{
                    "name": "c", "image": "i:1", "imagePullPolicy": "IfNotPresent",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}, "requests": {"cpu": "500m", "memory": "1Mi"}},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
                "serviceAccountName": "sa", "serviceAccount": "sa",
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
                "enableServiceLinks": true})
        );
        let once = p.clone();
        pod(&mut p);
        assert_eq!(p, once);
    }

    #[test]
    fn negative_grace_periods_are_one_second_in_pods_only() {
        let spec = json!({"spec": {"terminationGracePeriodSeconds": -1}});
        let (mut p, mut t) = (spec.clone(), spec);
        pod(&mut p);
        template(&mut t);
        assert_eq!(p["spec"]["terminationGracePeriodSeconds"], 1);
        assert_eq!(t["spec"]["terminationGracePeriodSeconds"], -1);
    }

    #[test]
    fn host_network_ports() {
        let mut p = json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}});
        pod(&mut p);
        assert_eq!(p["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
    }
}
