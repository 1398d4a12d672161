//! The Go names of types that are no structs, which decoding errors show.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The Go types by definition and field.
static NAMED: LazyLock<HashMap<(&str, &str), &str>> = LazyLock::new(|| {
    let lines = include_str!("named.txt").lines();
    let lines = lines.filter(|line| !line.starts_with('#'));
    let parts = lines.filter_map(|line| {
        let (definition, rest) = line.split_once(' ')?;
        let (field, name) = rest.split_once(' ')?;
        Some(((definition, field), name))
    });
    parts.collect()
});

/// Returns the Go type of a field, if it has a name or is made of one that has. `plain` is the type
/// of the wrong value without names: that of the field, or of its items.
pub(super) fn go_type(definition: &str, field: &str, plain: &str) -> Option<&'static str> {
    let name = NAMED.get(&(definition, field))?;
    if let Some(item) = name.strip_prefix("[]") {
        return Some(if plain.starts_with("[]") { name } else { item });
    }
    if let Some((_, item)) = name.strip_prefix("map[").and_then(|n| n.split_once(']')) {
        return Some(if plain.starts_with("map[") {
            name
        } else {
            item
        });
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_go() {
        for (kind, field, plain, want) in [
            (
                "PodSpec",
                "restartPolicy",
                "string",
                Some("v1.RestartPolicy"),
            ),
            ("PodSpec", "nodeName", "string", None),
            (
                "ResourceQuotaStatus",
                "hard",
                "map[string]string",
                Some("v1.ResourceList"),
            ),
            (
                "PersistentVolumeSpec",
                "accessModes",
                "[]string",
                Some("[]v1.PersistentVolumeAccessMode"),
            ),
            (
                "PersistentVolumeSpec",
                "accessModes",
                "string",
                Some("v1.PersistentVolumeAccessMode"),
            ),
        ] {
            let found = go_type(&format!("io.k8s.api.core.v1.{kind}"), field, plain);
            assert_eq!(found, want, "{kind}.{field}");
        }
    }
}
