//! Warnings about valid pod specs that are likely mistakes (upstream: `GetWarningsForPod`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::container_types::visit;
use super::{claims, pod_annotations, volume_warnings};
use crate::errors::{child, index, keyed};
use crate::names;
use crate::tree::{at, entries, has, int, list, text};

/// Labels of nodes that are deprecated, and what instead.
const NODE_LABELS: [(&str, &str); 8] = [
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];

/// Annotations without a function, and what instead.
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

/// Fields of the terms that must be met, and of those that are preferred.
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Returns the warnings about a new pod.
pub(crate) fn pod(pod: &Value) -> Vec<String> {
    holder_warnings(pod, "", false)
}

/// Returns the warnings about the template at a field.
pub(crate) fn template(template: &Value, path: &str) -> Vec<String> {
    holder_warnings(template, path, true)
}

/// Returns the warnings about the spec of a template at a field. An update that leaves it as it is
/// has none.
pub(crate) fn pod_spec(spec: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    if old == Some(spec) {
        return Vec::new();
    }
    let path = path.strip_suffix(".spec").unwrap_or(path);
    holder_warnings(&serde_json::json!({"spec": spec}), path, true)
}

fn holder_warnings(holder: &Value, path: &str, is_template: bool) -> Vec<String> {
    let (meta, spec) = (at(holder, "metadata"), at(holder, "spec"));
    let annotations = child(path, "metadata.annotations");
    let path = &child(path, "spec");
    let mut warnings = Vec::new();
    for (key, _) in entries(spec, "nodeSelector") {
        if let Some(message) = deprecated_label(key) {
            let field = keyed(&child(path, "nodeSelector"), key);
            warnings.push(format!("{field}: {message}"));
        }
    }
    node_affinity(spec, &child(path, "affinity.nodeAffinity"), &mut warnings);
    spread(
        spec,
        &child(path, "topologySpreadConstraints"),
        &mut warnings,
    );
    for (key, message) in ANNOTATIONS {
        if at(meta, "annotations").get(key).is_some() {
            warnings.push(format!("{}: {message}", keyed(&annotations, key)));
        }
    }
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        volume_warnings::plugin(volume, &index(&child(path, "volumes"), i), &mut warnings);
    }
    volume_warnings::overlaps(list(spec, "volumes"), &mut warnings);
    repeated(spec, "hostAliases", "ip", path, &mut warnings);
    repeated(spec, "imagePullSecrets", "name", path, &mut warnings);
    for (i, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            warnings.push(format!(
                "{path}.imagePullSecrets[{i}].name: invalid empty name \"\""
            ));
        }
    }
    let field = child(path, "overhead");
    for name in ["memory", "ephemeral-storage"] {
        claims::fractional_bytes(at(spec, "overhead"), name, &field, &mut warnings);
    }
    let profiles = Profiles {
        meta,
        spec,
        is_template,
        path: &annotations,
    };
    profiles.of_pod(&mut warnings);
    visit(spec, path, |container, field| {
        profiles.of_container(container, &mut warnings);
        for name in ["memory", "ephemeral-storage"] {
            for side in ["limits", "requests"] {
                let amounts = at(at(container, "resources"), side);
                let field = format!("{field}.resources.{side}");
                claims::fractional_bytes(amounts, name, &field, &mut warnings);
            }
        }
        environment(container, &field, &mut warnings);
    });
    ports(spec, path, &mut warnings);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        warnings.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let field = format!("{path}.affinity.{kind}");
        pod_affinity(at(at(spec, "affinity"), kind), &field, &mut warnings);
    }
    for (i, server) in list(spec, "dnsConfig.nameservers").iter().enumerate() {
        let field = format!("{path}.dnsConfig.nameservers[{i}]");
        let server = server.as_str().unwrap_or_default();
        warnings.extend(names::ip_warnings(server, &field));
    }
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let field = format!("{path}.hostAliases[{i}].ip");
        warnings.extend(names::ip_warnings(text(alias, "ip"), &field));
    }
    warnings
}

fn deprecated_label(label: &str) -> Option<&'static str> {
    let found = NODE_LABELS.iter().find(|(key, _)| *key == label);
    found.map(|(_, message)| *message)
}

fn node_affinity(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    let affinity = at(spec, "affinity.nodeAffinity");
    let terms = list(at(affinity, REQUIRED), "nodeSelectorTerms");
    for (i, term) in terms.iter().enumerate() {
        let field = format!("{path}.{REQUIRED}.nodeSelectorTerms[{i}]");
        node_selector_term(term, false, &field, warnings);
    }
    for (i, term) in list(affinity, PREFERRED).iter().enumerate() {
        let field = format!("{path}.{PREFERRED}[{i}].preference");
        node_selector_term(at(term, "preference"), true, &field, warnings);
    }
}

/// Warns about deprecated labels in a term, and about malformed values if `check_values` is true.
pub(super) fn node_selector_term(
    term: &Value,
    check_values: bool,
    path: &str,
    warnings: &mut Vec<String>,
) {
    for (i, expression) in list(term, "matchExpressions").iter().enumerate() {
        let field = index(&child(path, "matchExpressions"), i);
        let key = text(expression, "key");
        if let Some(message) = deprecated_label(key) {
            warnings.push(format!("{field}.key: {key} is {message}"));
        }
        let values = list(expression, "values").iter().enumerate();
        for (j, value) in values.filter(|_| check_values) {
            let value = value.as_str().unwrap_or_default();
            for problem in names::label_value(value) {
                warnings.push(format!(
                    "{field}.values[{j}]: {value} is invalid, {problem}"
                ));
            }
        }
    }
}

fn spread(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    for (i, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let field = index(path, i);
        let key = text(constraint, "topologyKey");
        if let Some(message) = deprecated_label(key) {
            warnings.push(format!("{field}.topologyKey: {key} is {message}"));
        }
        without_selector(constraint, &field, warnings);
    }
}

/// Warns about a term without a selector.
fn without_selector(term: &Value, path: &str, warnings: &mut Vec<String>) {
    if !has(term, "labelSelector") {
        warnings.push(format!(
            "{path}.labelSelector: a null labelSelector results in matching no pod"
        ));
    }
}

fn pod_affinity(affinity: &Value, path: &str, warnings: &mut Vec<String>) {
    for (i, term) in list(affinity, REQUIRED).iter().enumerate() {
        without_selector(term, &index(&child(path, REQUIRED), i), warnings);
    }
    for (i, term) in list(affinity, PREFERRED).iter().enumerate() {
        let field = child(&index(&child(path, PREFERRED), i), "podAffinityTerm");
        without_selector(at(term, "podAffinityTerm"), &field, warnings);
    }
}

/// Warns about items of a list that have the same value of a field.
fn repeated(spec: &Value, items: &str, key: &str, path: &str, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, item) in list(spec, items).iter().enumerate() {
        let value = text(item, key);
        if !seen.insert(value) {
            warnings.push(format!(
                "{path}.{items}[{i}].{key}: duplicate {key} {value:?}"
            ));
        }
    }
}

/// The annotations that were before there were fields for profiles.
struct Profiles<'a> {
    meta: &'a Value,
    spec: &'a Value,
    is_template: bool,
    path: &'a str,
}

impl Profiles<'_> {
    fn annotation(&self, key: &str) -> Option<&str> {
        at(self.meta, "annotations")
            .get(key)
            .and_then(Value::as_str)
    }

    fn seccomp(&self, holder: &Value, key: &str, warnings: &mut Vec<String>) {
        if self.annotation(key).is_some() && !has(holder, "securityContext.seccompProfile") {
            warnings.push(format!(
                "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
                keyed(self.path, key)
            ));
        }
    }

    fn of_pod(&self, warnings: &mut Vec<String>) {
        self.seccomp(self.spec, pod_annotations::SECCOMP_POD, warnings);
    }

    fn of_container(&self, container: &Value, warnings: &mut Vec<String>) {
        let name = text(container, "name");
        let key = format!("{}{name}", pod_annotations::SECCOMP_CONTAINER);
        self.seccomp(container, &key, warnings);
        let key = format!("{}{name}", pod_annotations::APP_ARMOR);
        let Some(annotation) = self.annotation(&key) else {
            return;
        };
        // The fields of a pod's containers are made of the annotations before.
        let profile = pod_annotations::profile_of(annotation);
        let of_pod = at(self.spec, "securityContext.appArmorProfile");
        let fits = match self.is_template {
            true => profile.as_ref() == Some(of_pod),
            false => profile.is_some() || text(self.spec, "os.name") == "windows",
        };
        if !fits && !has(container, "securityContext.appArmorProfile") {
            warnings.push(format!(
                "{}: deprecated since v1.30; use the \"appArmorProfile\" field instead",
                keyed(self.path, &key)
            ));
        }
    }
}

/// Warns about variables that replace one of the same name without using its value.
fn environment(container: &Value, field: &str, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, variable) in list(container, "env").iter().enumerate() {
        let name = text(variable, "name");
        let reference = format!("$({name})");
        let value = text(variable, "value");
        let extends =
            !has(variable, "valueFrom") && value != reference && value.contains(&reference);
        if !seen.insert(name) && !extends {
            warnings.push(format!(
                "{field}.env[{i}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

/// Warns about ports of containers that meet others, by number and protocol or by name.
fn ports(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    let mut all: BTreeMap<(i64, &str), Vec<(String, &Value)>> = BTreeMap::new();
    let host_of = |port: &Value| int(port, "hostPort").unwrap_or(0);
    visit(spec, path, |container, field| {
        for (i, port) in list(container, "ports").iter().enumerate() {
            let here = format!("{field}.ports[{i}]");
            let number = int(port, "containerPort").unwrap_or(0);
            let (protocol, ip) = (text(port, "protocol"), text(port, "hostIP"));
            if !ip.is_empty() && host_of(port) == 0 {
                warnings.push(format!(
                    "{here}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}",
                    text(port, "name")
                ));
            }
            let others = all.entry((number, protocol)).or_default();
            for (there, other) in others.iter() {
                let (host, other_host) = (host_of(port), host_of(other));
                let other_ip = text(other, "hostIP");
                let what = if host == other_host && ip == other_ip {
                    "duplicate"
                } else if host == 0 || other_host == 0 {
                    "overlapping"
                } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                warnings.push(format!("{here}: {what} port definition with {there}"));
            }
            others.push((here, port));
        }
    });
    let mut named: BTreeMap<&str, String> = BTreeMap::new();
    visit(spec, path, |container, field| {
        for (i, port) in list(container, "ports").iter().enumerate() {
            let here = format!("{field}.ports[{i}]");
            let name = text(port, "name");
            if name.is_empty() {
                continue;
            }
            match named.get(name) {
                Some(other) => warnings.push(format!(
                    "{here}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                )),
                None => {
                    named.insert(name, here);
                }
            }
        }
    });
}

/// Returns the warning about a name that makes no host name; `used` says what it is used in.
pub(crate) fn name(object: &Value, used: &str) -> Option<String> {
    let name = text(object, "metadata.name");
    let wrong = crate::names::dns1123_label(name);
    (!name.is_empty() && !wrong.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn warns_as_upstream() {
        let spec = json!({
            "imagePullSecrets": [{}, {"name": "a"}, {"name": "a"}],
            "hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}],
            "containers": [
                {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A):2"}, {"name": "A", "value": "3"}],
                 "resources": {"limits": {"memory": "100m", "cpu": "100m"}, "requests": {"memory": "1Gi"}},
                 "ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 1}, {"containerPort": 80, "protocol": "TCP", "hostPort": 2}]},
                {"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]},
            ],
        });
        assert_eq!(
            super::pod(&json!({"spec": spec})),
            [
                r#"spec.hostAliases[1].ip: duplicate ip "1.1.1.1""#,
                r#"spec.imagePullSecrets[2].name: duplicate name "a""#,
                r#"spec.imagePullSecrets[0].name: invalid empty name """#,
                r#"spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer"#,
                r#"spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply"#,
                "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[1]",
            ]
        );
        let named = |name: &str| json!({"metadata": {"name": name}});
        assert_eq!(name(&named("a"), "the Pod's hostname"), None);
        assert_eq!(
            name(&named("a.b"), "the Pod's hostname").as_deref(),
            Some(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
            )
        );
    }
}
