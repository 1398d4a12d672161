//! Warnings about the volumes of pods: plugins that are gone, and files that hide others.

use std::collections::BTreeSet;
use std::ops::Bound::{Included, Unbounded};
use std::rc::Rc;

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
struct VolumePath<'a> {
    path: &'a str,
    source: Rc<str>,
}

impl<'a> VolumePath<'a> {
    fn new(path: &'a str, source: &Rc<str>) -> Self {
        VolumePath {
            path: path.trim_end_matches('/'),
            source: source.clone(),
        }
    }
}

impl std::fmt::Display for VolumePath<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.source {
            "" => write!(f, "{:?}", self.path),
            source => write!(f, "{:?} ({source})", self.path),
        }
    }
}

/// Returns the paths of the items of a source.
fn items<'a>(holder: &'a Value, source: &str) -> Vec<VolumePath<'a>> {
    let source = source.into();
    list(holder, "items")
        .iter()
        .map(|item| VolumePath::new(text(item, "path"), &source))
        .collect()
}

/// Most warnings about overlapping paths, of which clients see only the first few kilobytes, and
/// most bytes of them.
const MAX_OVERLAPS: usize = 1000;
const MAX_OVERLAP_BYTES: usize = 1 << 20;

/// Returns whether there is no place for more warnings.
fn is_full(warnings: &[String]) -> bool {
    warnings.len() > MAX_OVERLAPS
        || warnings.iter().map(String::len).sum::<usize>() > MAX_OVERLAP_BYTES
}

/// Returns whether a path is a directory or what is in it.
fn within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The paths of a volume that are in no other path of it.
#[derive(Default)]
struct Roots(BTreeSet<String>);

impl Roots {
    /// Adds a path, and returns whether it hides another or is hidden.
    fn add(&mut self, path: &str) -> bool {
        // With this separator, what is in a directory follows it before all others.
        let key = path.replace('/', "\0");
        let below = |path: &str, directory: &str| {
            path.strip_prefix(directory)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('\0'))
        };
        let before = self
            .0
            .range::<str, _>((Unbounded, Included(key.as_str())))
            .next_back();
        if before.is_some_and(|root| below(&key, root)) {
            return true;
        }
        let mut meets = false;
        while let Some(inner) = self
            .0
            .range::<str, _>((Included(key.as_str()), Unbounded))
            .next()
            .cloned()
            && below(&inner, &key)
        {
            self.0.remove(&inner);
            meets = true;
        }
        self.0.insert(key);
        meets
    }
}

/// The paths of a volume so far.
#[derive(Default)]
struct Places<'a> {
    roots: Roots,
    all: Vec<VolumePath<'a>>,
}

impl<'a> Places<'a> {
    /// Adds a path, and warns about those that it hides or is hidden by.
    fn add(&mut self, place: VolumePath<'a>, what: &str, warnings: &mut Vec<String>) {
        if is_full(warnings) || place.path.is_empty() {
            return;
        }
        if self.roots.add(place.path) {
            let met = self
                .all
                .iter()
                .filter(|other| within(place.path, other.path) || within(other.path, place.path));
            for other in met {
                if is_full(warnings) {
                    return;
                }
                warnings.push(format!("{what}: overlapping paths: {place} with {other}"));
            }
        }
        self.all.push(place);
    }
}

/// Warns about files of a volume that hide others.
pub(super) fn overlaps(volumes: &[Value], warnings: &mut Vec<String>) {
    for volume in volumes {
        let name = text(volume, "name");
        let mut warn = |what: &str, items: Vec<VolumePath<'_>>| {
            let what = format!("volume {name:?} ({what})");
            let mut places = Places::default();
            for item in items {
                places.add(item, &what, warnings);
            }
        };
        let map = at(volume, "configMap");
        warn(
            &format!("ConfigMap {:?}", text(map, "name")),
            items(map, ""),
        );
        let secret = at(volume, "secret");
        let what = format!("Secret {:?}", text(secret, "secretName"));
        warn(&what, items(secret, ""));
        warn("DownwardAPI", items(at(volume, "downwardAPI"), ""));
        projected(volume, warnings);
    }
}

fn projected(volume: &Value, warnings: &mut Vec<String>) {
    let name = text(volume, "name");
    let what = format!("volume {name:?} (Projected)");
    let mut places = Places::default();
    for source in list(volume, "projected.sources") {
        if is_full(warnings) {
            return;
        }
        let kinds = ["configMap", "secret", "downwardAPI", "serviceAccountToken"];
        if !kinds.iter().any(|kind| has(source, kind)) {
            warnings.push(format!("{what} has no sources provided"));
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
            vec![VolumePath::new(path, &"ServiceAccountToken".into())]
        } else {
            Vec::new()
        };
        for place in added {
            places.add(place, &what, warnings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn warnings_are_bounded() {
        let item = |path: String| json!({"key": "k", "path": path});
        let same: Vec<Value> = (0..20_000).map(|_| item("a".into())).collect();
        let apart: Vec<Value> = (0..20_000).map(|i| item(format!("a/{i}"))).collect();
        for (items, most) in [(same, MAX_OVERLAPS + 1), (apart, 0)] {
            let volumes = [json!({"name": "m", "configMap": {"name": "c", "items": items}})];
            let mut warnings = Vec::new();
            overlaps(&volumes, &mut warnings);
            assert_eq!(warnings.len(), most);
        }
    }

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
