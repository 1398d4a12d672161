//! Warnings about the volumes of pods: plugins that are gone, and files that hide others.

use serde_json::Value;

use super::claims;
use crate::errors::child;
use crate::tree::{at, has, list, text};

/// Volume plugins that are deprecated, in upstream's order, with its spelling in warnings.
const PLUGINS: [(&str, &str, &str); 10] = [
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    (
        "scaleIO",
        "scaleIO",
        "deprecated in v1.16, non-functional in v1.22+",
    ),
    (
        "flocker",
        "flocker",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "storageos",
        "storageOS",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "quobyte",
        "quobyte",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "glusterfs",
        "glusterfs",
        "deprecated in v1.25, non-functional in v1.26+",
    ),
    ("ephemeral", "", ""),
    (
        "cephfs",
        "cephfs",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
    (
        "rbd",
        "rbd",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
];

/// Warns about a plugin that is deprecated, and about the claim that a volume makes.
pub(super) fn plugin(volume: &Value, path: &str, warnings: &mut Vec<String>) {
    for (kind, shown, message) in PLUGINS {
        if !has(volume, kind) {
            continue;
        }
        if kind != "ephemeral" {
            warnings.push(format!("{}: {message}", child(path, shown)));
        } else if has(volume, "ephemeral.volumeClaimTemplate") {
            let spec = at(volume, "ephemeral.volumeClaimTemplate.spec");
            let field = child(path, "ephemeral.volumeClaimTemplate.spec");
            claims::spec_warnings(spec, &field, warnings);
        }
    }
}

/// A path in a volume, and where it is from in a projected one.
#[derive(Clone, PartialEq, Eq)]
struct VolumePath<'a> {
    path: &'a str,
    source: String,
}

impl<'a> VolumePath<'a> {
    fn new(path: &'a str, source: &str) -> Self {
        VolumePath {
            path: path.trim_end_matches('/'),
            source: source.to_owned(),
        }
    }
}

impl std::fmt::Display for VolumePath<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.source.as_str() {
            "" => write!(f, "{:?}", self.path),
            source => write!(f, "{:?} ({source})", self.path),
        }
    }
}

/// Returns the paths of the items of a source.
fn items<'a>(holder: &'a Value, source: &str) -> Vec<VolumePath<'a>> {
    list(holder, "items")
        .iter()
        .map(|item| VolumePath::new(text(item, "path"), source))
        .collect()
}

/// Returns which of the paths before it a path hides or is hidden by.
fn collisions(place: &VolumePath<'_>, before: &[VolumePath<'_>]) -> Vec<String> {
    let within = |path: &str, directory: &str| {
        path.strip_prefix(directory)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let meets = |other: &&VolumePath<'_>| {
        !place.path.is_empty()
            && !other.path.is_empty()
            && (within(place.path, other.path) || within(other.path, place.path))
    };
    let others = before.iter().filter(meets);
    others
        .map(|other| format!("{place} with {other}"))
        .collect()
}

/// Warns about files of a volume that hide others.
pub(super) fn overlaps(volumes: &[Value], warnings: &mut Vec<String>) {
    for volume in volumes {
        let name = text(volume, "name");
        let mut warn = |what: &str, places: &[VolumePath<'_>]| {
            for (i, place) in places.iter().enumerate() {
                warnings.extend(collisions(place, &places[..i]).iter().map(|collision| {
                    format!("volume {name:?} ({what}): overlapping paths: {collision}")
                }));
            }
        };
        let map = at(volume, "configMap");
        warn(
            &format!("ConfigMap {:?}", text(map, "name")),
            &items(map, ""),
        );
        let secret = at(volume, "secret");
        let what = format!("Secret {:?}", text(secret, "secretName"));
        warn(&what, &items(secret, ""));
        warn("DownwardAPI", &items(at(volume, "downwardAPI"), ""));
        projected(volume, warnings);
    }
}

fn projected(volume: &Value, warnings: &mut Vec<String>) {
    let name = text(volume, "name");
    let mut places: Vec<VolumePath<'_>> = Vec::new();
    for source in list(volume, "projected.sources") {
        let kinds = ["configMap", "secret", "downwardAPI", "serviceAccountToken"];
        if !kinds.iter().any(|kind| has(source, kind)) {
            warnings.push(format!(
                "volume {name:?} (Projected) has no sources provided"
            ));
            continue;
        }
        let of = |kind: &str, title: &str| {
            let part = at(source, kind);
            items(part, &format!("{title} {:?}", text(part, "name")))
        };
        // As upstream, only the first one counts.
        let added = if has(source, "configMap.items") {
            of("configMap", "ConfigMap")
        } else if has(source, "secret.items") {
            of("secret", "Secret")
        } else if has(source, "downwardAPI.items") {
            items(at(source, "downwardAPI"), "DownwardAPI")
        } else if has(source, "serviceAccountToken") {
            let path = text(source, "serviceAccountToken.path");
            vec![VolumePath::new(path, "ServiceAccountToken")]
        } else {
            Vec::new()
        };
        for place in added {
            warnings.extend(collisions(&place, &places).iter().map(|collision| {
                format!("volume {name:?} (Projected): overlapping paths: {collision}")
            }));
            places.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_that_hide_others() {
        let item = |path: &str| json!({"key": "k", "path": path});
        let volumes = [
            json!({"name": "m", "configMap": {"name": "c", "items": [item("a"), item("a/b"), item("ab"), item("a/")]}}),
            json!({"name": "p", "projected": {"sources": [
                {"secret": {"name": "s", "items": [item("x/y")]}},
                {"serviceAccountToken": {"path": "x"}},
                {},
            ]}}),
        ];
        let mut warnings = Vec::new();
        overlaps(&volumes, &mut warnings);
        assert_eq!(
            warnings,
            [
                r#"volume "m" (ConfigMap "c"): overlapping paths: "a/b" with "a""#,
                r#"volume "m" (ConfigMap "c"): overlapping paths: "a" with "a""#,
                r#"volume "m" (ConfigMap "c"): overlapping paths: "a" with "a/b""#,
                r#"volume "p" (Projected): overlapping paths: "x" (ServiceAccountToken) with "x/y" (Secret "s")"#,
                r#"volume "p" (Projected) has no sources provided"#,
            ]
        );
    }
}
