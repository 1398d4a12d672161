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
    for key in ["containers", "initContainers"] {
        for (i, c) in list(spec, key).iter().enumerate() {
            let field = index(&child(path, key), i);
            let mut seen = BTreeSet::new();
            for (j, env) in list(c, "env").iter().enumerate() {
                let name = text(env, "name");
                if !seen.insert(name) {
                    warnings.push(format!(
                        "{field}.env[{j}]: hides previous definition of {name:?}, which may be dropped when using apply"
                    ));
                }
            }
            let mut ports = BTreeSet::new();
            for (j, port) in list(c, "ports").iter().enumerate() {
                let number = at(port, "containerPort").as_i64().unwrap_or(0);
                if !ports.insert((number, text(port, "protocol"))) {
                    warnings.push(format!(
                        "{field}.ports[{j}]: duplicate port definition with {field}.ports[{}]",
                        list(c, "ports")
                            .iter()
                            .position(|p| at(p, "containerPort").as_i64() == Some(number))
                            .unwrap_or(0)
                    ));
                }
            }
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
