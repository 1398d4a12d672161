//! Warnings about valid pod specs that are likely mistakes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::errors::{child, index};
use crate::tree::{at, has, list, text};

/// Returns messages for the `Warning` header. An update repeats no warning that applied before.
pub(crate) fn pod_spec(spec: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, instead) in [
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        (
            "failure-domain.beta.kubernetes.io/region",
            "topology.kubernetes.io/region",
        ),
        (
            "failure-domain.beta.kubernetes.io/zone",
            "topology.kubernetes.io/zone",
        ),
        (
            "beta.kubernetes.io/instance-type",
            "node.kubernetes.io/instance-type",
        ),
    ] {
        let selects = |s: &Value| at(s, "nodeSelector").get(key).is_some();
        if selects(spec) && !old.is_some_and(selects) {
            warnings.push(format!(
                "{path}.nodeSelector[{key}]: deprecated since v1.14; use \"{instead}\" instead"
            ));
        }
    }
    if old.is_some() {
        return warnings;
    }
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let ip = text(alias, "ip");
        if let Ok(parsed) = ip.parse::<std::net::IpAddr>()
            && parsed.to_string() != ip
        {
            warnings.push(format!(
                "{path}.hostAliases[{i}].ip: non-standard IP address {ip:?} will be considered invalid in a future Kubernetes release: use {parsed:?}"
            ));
        }
    }
    repeated(spec, "hostAliases", "ip", path, &mut warnings);
    repeated(spec, "imagePullSecrets", "name", path, &mut warnings);
    for (i, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            warnings.push(format!(
                "{path}.imagePullSecrets[{i}].name: invalid empty name \"\""
            ));
        }
    }
    fractional_bytes(spec, path, &mut warnings);
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let field = index(&child(path, "volumes"), i);
        if has(volume, "gitRepo") {
            warnings.push(format!(
                "{field}.gitRepo: deprecated in v1.11, and disabled by default in v1.33+"
            ));
        }
        for (key, since) in [
            ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
            ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
            ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
            ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
            (
                "photonPersistentDisk",
                "deprecated in v1.11, non-functional in v1.16+",
            ),
        ] {
            if has(volume, key) {
                warnings.push(format!("{field}.{key}: {since}"));
            }
        }
    }
    let mut ports = Ports::default();
    for key in ["initContainers", "containers"] {
        for (i, container) in list(spec, key).iter().enumerate() {
            let field = index(&child(path, key), i);
            environment(container, &field, &mut warnings);
            ports.check(container, &field, &mut warnings);
        }
    }
    if at(spec, "terminationGracePeriodSeconds")
        .as_i64()
        .is_some_and(|n| n < 0)
    {
        warnings.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    warnings
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

/// Warns about parts of a byte: `100m` of memory is a tenth of a byte.
fn fractional_bytes(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    let mut check = |amounts: &Value, field: &str| {
        for name in ["memory", "ephemeral-storage"] {
            let Some(text) = amounts.get(name).and_then(Value::as_str) else {
                continue;
            };
            let mut rounded = crate::quantities::of(amounts.get(name));
            if !rounded.round_up(0) {
                warnings.push(format!(
                    "{field}[{name}]: fractional byte value {text:?} is invalid, must be an integer"
                ));
            }
        }
    };
    check(at(spec, "overhead"), &child(path, "overhead"));
    for key in ["initContainers", "containers"] {
        for (i, container) in list(spec, key).iter().enumerate() {
            let field = index(&child(path, key), i);
            for part in ["limits", "requests"] {
                let amounts = at(container, "resources").get(part).unwrap_or(&Value::Null);
                check(amounts, &format!("{field}.resources.{part}"));
            }
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

/// The ports of a pod's containers, by number and protocol.
#[derive(Default)]
struct Ports<'a>(std::collections::BTreeMap<(i64, &'a str), Vec<(String, &'a Value)>>);

impl<'a> Ports<'a> {
    /// Warns about ports of a container that meet earlier ones.
    fn check(&mut self, container: &'a Value, field: &str, warnings: &mut Vec<String>) {
        let host_of = |port: &Value| at(port, "hostPort").as_i64().unwrap_or(0);
        for (i, port) in list(container, "ports").iter().enumerate() {
            let here = format!("{field}.ports[{i}]");
            let number = at(port, "containerPort").as_i64().unwrap_or(0);
            let others = self.0.entry((number, text(port, "protocol"))).or_default();
            for (there, other) in others.iter() {
                let (host, other_host) = (host_of(port), host_of(other));
                let (ip, other_ip) = (text(port, "hostIP"), text(other, "hostIP"));
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
    }
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
            pod_spec(&spec, None, "spec"),
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
        let pod = |name: &str| json!({"metadata": {"name": name}});
        assert_eq!(name(&pod("a"), "the Pod's hostname"), None);
        assert_eq!(
            name(&pod("a.b"), "the Pod's hostname").as_deref(),
            Some(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
            )
        );
    }
}
